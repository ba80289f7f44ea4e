"""A quarter of the parameters, less than 60,000: for small devices, and for a first try on a CPU."""

from audiossm.tasks import KeywordConfig
from audiossm.training.options import TrainOptions
from audiossm.training.recipes import Recipe

recipe = Recipe(
    KeywordConfig((), channels=40, modes=3, d_model=68, layers=4, d_state=8),
    TrainOptions(epochs=180, batch=128, lr=0.0057, channel_move=0.018, stream_share=0.25, stream_empty_share=0.2),
)

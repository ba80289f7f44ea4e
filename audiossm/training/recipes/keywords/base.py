"""The best that a frame of 20 ms affords: what a released model is trained with."""

from audiossm.tasks import KeywordConfig
from audiossm.training.options import TrainOptions
from audiossm.training.recipes import Recipe

recipe = Recipe(
    KeywordConfig((), channels=56, modes=3, d_model=128, layers=5, d_state=8),
    TrainOptions(epochs=150, batch=128, lr=0.0042, channel_move=0.018, stream_empty_share=0.2),
)

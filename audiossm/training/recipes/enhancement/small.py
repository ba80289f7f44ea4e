"""Less than 60,000 parameters, for small devices."""

from audiossm.tasks import EnhancementConfig
from audiossm.training.options import EnhanceOptions
from audiossm.training.recipes import Recipe

recipe = Recipe(
    EnhancementConfig(frame=0.010, fold=8, d_model=56, layers=3, mixer="min-gru"),
    EnhanceOptions(epochs=400, batch=32, lr=0.006),
)

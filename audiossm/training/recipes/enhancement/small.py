"""Less than 60,000 parameters, for small devices."""

from audiossm.tasks import EnhancementConfig
from audiossm.training.options import EnhanceOptions
from audiossm.training.recipes import Recipe

recipe = Recipe(
    EnhancementConfig(d_model=36, layers=4, mixer="min-gru"),
    EnhanceOptions(epochs=400, batch=32, lr=0.006),
)

"""Less than 500,000 parameters and a twentieth of real time on one CPU thread."""

from audiossm.tasks import EnhancementConfig
from audiossm.training.options import EnhanceOptions
from audiossm.training.recipes import Recipe

recipe = Recipe(
    EnhancementConfig(d_model=64, layers=8, d_state=8),
    EnhanceOptions(epochs=400, batch=32, lr=0.002),
)

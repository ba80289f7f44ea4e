"""A small SaShiMi: meant to make 16 kHz audio in real time on one CPU thread."""

from audiossm.tasks import GenerationConfig
from audiossm.training.options import GenerateOptions
from audiossm.training.recipes import Recipe

recipe = Recipe(
    GenerationConfig(pools=(4, 4), d_model=32, layers=4, d_state=32),
    GenerateOptions(epochs=150, batch=16, lr=0.002, window=1.0),
)

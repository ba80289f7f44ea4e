"""Layers at the sample rate and no pools: for other byte models, and for the baselines.

WaveNet's causal convolutions are `--mixer tcn`, of whose layers each is a stack of ten with dilations 1 to 512; a
recurrent network is `--mixer gru`.
"""

from audiossm.tasks import GenerationConfig
from audiossm.training.options import GenerateOptions
from audiossm.training.recipes import Recipe

recipe = Recipe(
    GenerationConfig(pools=(), d_model=128, layers=4, d_state=64),
    GenerateOptions(epochs=100, batch=8, lr=0.001, window=1.0),
)

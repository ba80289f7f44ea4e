"""SaShiMi as published for unconditional audio (Goel et al. 2022, arXiv 2202.09729, appendix C), with S4D layers.

Width 64, pools of 4 and 4, 8 layers a tier, expansion 2 in pools and feed-forward layers, state size 64, no dropout,
no weight decay. The paper's learning rate is 0.001 for all, lowered on plateaus; here it falls as a cosine and is
shared out by tier (`audiossm.tasks.generation.slow_down`): 0.002 for the samples' and 0.0005 in the centre.
"""

from audiossm.tasks import GenerationConfig
from audiossm.training.options import GenerateOptions
from audiossm.training.recipes import Recipe

recipe = Recipe(
    GenerationConfig(pools=(4, 4), d_model=64, layers=8, d_state=64),
    GenerateOptions(epochs=100, batch=8, lr=0.002, window=1.0),
)

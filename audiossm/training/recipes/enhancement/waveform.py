"""Layers at the sample rate and pools, SaShiMi's U-Net, in the manner of aTENNuate (Pei et al. 2024, arXiv 2409.03377).

It hears any rate and answers four milliseconds later.
"""

from audiossm.tasks import EnhancementConfig
from audiossm.training.options import EnhanceOptions
from audiossm.training.recipes import Recipe

recipe = Recipe(
    EnhancementConfig(encoder="waveform", d_model=16, layers=2, d_state=16, pools=(4, 4, 4)),
    EnhanceOptions(epochs=200, batch=16, lr=0.002, window=2.0),
)

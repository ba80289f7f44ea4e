"""How mixers are stacked."""

from audiossm.backbones.downpool import DownPool
from audiossm.backbones.hybrid import BranchPair, hybrid_stack, jamba
from audiossm.backbones.mlp import GatedMLP
from audiossm.backbones.moe import MixtureOfExperts, routers, routing, routing_loss
from audiossm.backbones.norm import ChannelNorm
from audiossm.backbones.sashimi import SaShiMi, SaShiMiLayer
from audiossm.backbones.stack import Block, Stack
from audiossm.backbones.uppool import UpPool

__all__ = [
    "Block",
    "BranchPair",
    "ChannelNorm",
    "DownPool",
    "GatedMLP",
    "MixtureOfExperts",
    "SaShiMi",
    "SaShiMiLayer",
    "Stack",
    "UpPool",
    "hybrid_stack",
    "jamba",
    "routers",
    "routing",
    "routing_loss",
]

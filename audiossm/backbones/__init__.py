"""How mixers are stacked."""

from audiossm.backbones.downpool import DownPool
from audiossm.backbones.norm import ChannelNorm
from audiossm.backbones.stack import Block, Stack

__all__ = ["Block", "ChannelNorm", "DownPool", "Stack"]

"""How mixers are stacked."""

from audiossm.backbones.norm import ChannelNorm
from audiossm.backbones.stack import Block, Stack

__all__ = ["Block", "ChannelNorm", "Stack"]

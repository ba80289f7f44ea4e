"""Sequence mixers, one a file, all obeying the law of base.py."""

from audiossm.mixers.attention import Attention
from audiossm.mixers.base import Mixer, State
from audiossm.mixers.bidirectional import Bidirectional
from audiossm.mixers.filterbank import Filterbank
from audiossm.mixers.s4d import S4D

__all__ = ["S4D", "Attention", "Bidirectional", "Filterbank", "Mixer", "State"]

"""Sequence mixers, one a file, all obeying the law of base.py."""

from audiossm.mixers.base import Mixer, State
from audiossm.mixers.filterbank import Filterbank
from audiossm.mixers.mamba import Mamba
from audiossm.mixers.mamba2 import Mamba2
from audiossm.mixers.mamba3 import Mamba3
from audiossm.mixers.s4d import S4D

__all__ = ["S4D", "Filterbank", "Mamba", "Mamba2", "Mamba3", "Mixer", "State"]

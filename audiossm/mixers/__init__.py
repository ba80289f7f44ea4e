"""Sequence mixers, one a file, all obeying the law of base.py."""

from audiossm.mixers.base import Mixer, State
from audiossm.mixers.filterbank import Filterbank
from audiossm.mixers.s4d import S4D

__all__ = ["S4D", "Filterbank", "Mixer", "State"]

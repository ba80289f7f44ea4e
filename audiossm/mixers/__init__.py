"""Sequence mixers, one a file, all obeying the law of base.py."""

from audiossm.mixers.base import Mixer, State
from audiossm.mixers.filterbank import Filterbank
from audiossm.mixers.gru import GRU
from audiossm.mixers.lmu import LMU
from audiossm.mixers.lmu_cell import LMUCell
from audiossm.mixers.lstm import LSTM
from audiossm.mixers.s4d import S4D
from audiossm.mixers.s5 import S5
from audiossm.mixers.tcn import TCN

__all__ = ["GRU", "LMU", "LSTM", "S4D", "S5", "TCN", "Filterbank", "LMUCell", "Mixer", "State"]

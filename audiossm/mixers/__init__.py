"""Sequence mixers, one a file, all obeying the law of base.py."""

from audiossm.mixers.attention import Attention
from audiossm.mixers.base import Mixer, State
from audiossm.mixers.bidirectional import Bidirectional
from audiossm.mixers.filterbank import Filterbank
from audiossm.mixers.gru import GRU
from audiossm.mixers.lmu import LMU
from audiossm.mixers.lmu_cell import LMUCell
from audiossm.mixers.lssl import LSSL
from audiossm.mixers.lstm import LSTM
from audiossm.mixers.mamba import Mamba
from audiossm.mixers.mamba2 import Mamba2
from audiossm.mixers.mamba3 import Mamba3
from audiossm.mixers.min_gru import MinGRU
from audiossm.mixers.s4 import S4
from audiossm.mixers.s4d import S4D
from audiossm.mixers.s5 import S5
from audiossm.mixers.tcn import TCN

__all__ = [
    "GRU",
    "LMU",
    "LSSL",
    "LSTM",
    "S4",
    "S4D",
    "S5",
    "TCN",
    "Attention",
    "Bidirectional",
    "Filterbank",
    "LMUCell",
    "Mamba",
    "Mamba2",
    "Mamba3",
    "MinGRU",
    "Mixer",
    "State",
]

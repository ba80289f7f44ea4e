"""LSTM: long short-term memory (Hochreiter and Schmidhuber 1997) with forget gates, in torch's form."""

from torch import nn

from audiossm.mixers.recurrent import Recurrent


class LSTM(Recurrent):
    """One layer of torch's LSTM; its state is {"h": (B, H), "c": (B, H)}."""

    when = "the classic recurrent network, to compare with: more memory and a third more weights than a GRU"
    layer = nn.LSTM
    parts = ("h", "c")
    gates = (0, 3, 1, 2)  # input, output, forget, cell

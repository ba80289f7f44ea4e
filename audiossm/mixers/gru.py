"""GRU: the gated recurrent unit (Cho et al. 2014, arXiv 1406.1078), in torch's form."""

from typing import ClassVar

from torch import nn

from audiossm.mixers.recurrent import Recurrent


class GRU(Recurrent):
    """One layer of torch's GRU; its state is {"h": (B, H)}."""

    when = "the usual recurrent network, to compare with: small and cheap a step, but trained one step after another"
    layer = nn.GRU
    parts = ("h",)
    gates = (1, 0, 2)  # update, reset, new
    options: ClassVar = {"linear_before_reset": 1}  # torch's form: the reset gate acts on the hidden product

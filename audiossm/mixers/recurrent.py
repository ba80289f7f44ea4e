"""Torch's own recurrent layers as mixers: what GRU and LSTM have in common."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from audiossm.kernels.dispatch import exporting
from audiossm.mixers.base import Mixer, State

LONGEST = 65535  # steps that cuDNN takes in one call


class Recurrent(Mixer):
    """One recurrent layer of torch with H units. In a file it is ONNX's operator of the same name.

    Args:
        d_model: H, channels and hidden units.

    Attributes:
        layer: torch's class, whose name is ONNX's too.
        parts: the state's names, each (B, H).
        gates: where torch keeps the gates that ONNX lists, in ONNX's order.
        options: attributes of ONNX's operator.
    """

    layer: ClassVar[Callable[..., nn.RNNBase]]
    parts: ClassVar[tuple[str, ...]]
    gates: ClassVar[tuple[int, ...]]
    options: ClassVar[dict[str, int]] = {}

    def __init__(self, d_model: int):
        super().__init__()
        if d_model < 1:
            raise ValueError(f"d_model is a number of channels, at least 1, not {d_model}")
        self.cell: Any = self.layer(d_model, d_model, batch_first=True)

    def initial_state(self, batch: int) -> State:
        """Return zeros (batch, H) for each part."""
        zeros = self.cell.weight_hh_l0.new_zeros
        return {name: zeros(batch, self.cell.hidden_size) for name in self.parts}

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to y (B, L, H)."""
        self.refuse_rate(rate)
        state = state or self.initial_state(u.shape[0])
        if u.shape[1] == 0:
            return u, state
        if u.shape[1] <= LONGEST:
            return self.walk(u, state)
        heard = []
        for piece in u.split(LONGEST, dim=1):
            y, state = self.walk(piece, state)
            heard.append(y)
        return torch.cat(heard, dim=1), state

    def walk(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """Map u (B, L, H) to y (B, L, H), at most LONGEST steps."""
        first = [state[name].unsqueeze(0) for name in self.parts]
        if exporting():
            y, *last = self.operator(u, first)
        elif len(first) == 1:
            y, *last = self.cell(u, first[0])
        else:
            y, last = self.cell(u, tuple(first))
        return y, {name: x.squeeze(0) for name, x in zip(self.parts, last, strict=True)}

    def operator(self, u: Tensor, first: list[Tensor]) -> list[Tensor]:
        """Write ONNX's operator into a graph: torch's exporter would put a dozen others around it."""
        cell, (batch, length, channels) = self.cell, u.shape
        bias = torch.cat((self.reordered(cell.bias_ih_l0), self.reordered(cell.bias_hh_l0)))
        weights = [self.reordered(cell.weight_ih_l0), self.reordered(cell.weight_hh_l0), bias]
        y, *last = torch.onnx.ops.symbolic_multi_out(
            type(cell).__name__,
            (u.transpose(0, 1), *(w.unsqueeze(0) for w in weights), None, *first),  # None: lengths of the sequences
            {"hidden_size": channels, **self.options},
            dtypes=[u.dtype] * (1 + len(first)),
            shapes=[(length, 1, batch, channels), *([(1, batch, channels)] * len(first))],
            version=14,
        )
        return [y.squeeze(1).transpose(0, 1), *last]

    def reordered(self, w: Tensor) -> Tensor:
        """Return weights or biases with their gates in ONNX's order."""
        gates = w.chunk(len(self.gates))
        return torch.cat([gates[i] for i in self.gates])

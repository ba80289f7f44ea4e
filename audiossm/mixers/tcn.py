"""TCN: a causal temporal convolution network (Bai, Kolter and Koltun 2018, arXiv 1803.01271), depthwise separable."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.mixers.base import Mixer, State


class TCN(Mixer):
    """Residual layers y = u + W relu(conv(u)), whose dilations widen the view: 1 + (taps - 1) · sum(dilations) steps.

    The convolution is causal, of each channel with its own taps, and W mixes the channels, as in Conv-TasNet (Luo and
    Mesgarani 2019, arXiv 1809.07454). A layer's state is the past that its taps still reach.

    Args:
        d_model: H, channels.
        taps: of each convolution.
        dilations: steps between taps, for each layer.
    """

    when = "convolutions, to compare with: quick to train, but they hear nothing that lies before their window"

    def __init__(self, d_model: int, taps: int = 3, dilations: Sequence[int] = (1, 2, 4, 8)):
        super().__init__()
        if taps < 2 or not dilations or min(dilations) < 1:
            raise ValueError(
                f"a TCN needs at least 2 taps and one dilation, all of at least 1, not taps {taps} and dilations "
                f"{tuple(dilations)}"
            )
        self.d_model, self.past = d_model, [(taps - 1) * dilation for dilation in dilations]
        self.depthwise = nn.ModuleList(
            nn.Conv1d(d_model, d_model, taps, dilation=dilation, groups=d_model) for dilation in dilations
        )
        self.pointwise = nn.ModuleList(nn.Linear(d_model, d_model) for _ in dilations)

    def initial_state(self, batch: int) -> State:
        """Return the last (taps - 1) · dilation inputs of each layer, by its position: {"0": (batch, H, past)}."""
        zeros = next(self.parameters()).new_zeros
        return {str(i): zeros(batch, self.d_model, past) for i, past in enumerate(self.past)}

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to y (B, L, H)."""
        self.refuse_rate(rate)
        state, after, length = state or self.initial_state(u.shape[0]), {}, u.shape[1]
        y = u.transpose(1, 2)  # as convolutions want it
        for name, depthwise, pointwise in zip(state, self.depthwise, self.pointwise, strict=True):
            heard = torch.cat((state[name], y), dim=2)
            after[name] = heard[..., length:]
            if length:
                w, bias = pointwise.parameters()
                y = y + F.conv1d(F.relu(depthwise(heard)), w.unsqueeze(2), bias)
        return y.transpose(1, 2), after

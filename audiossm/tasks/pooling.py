"""Pooling over time that streams: a mean whose weights the input gates and time fades."""

import math

import torch
from torch import Tensor, nn

from audiossm.kernels import pairs, ssm_conv
from audiossm.mixers.base import Mixer, State, slow


class FadingMean(Mixer):
    """The mean of u over the past, sum_s λ^(t-s) g_s u_s / sum_s λ^(t-s) g_s, with a gate g = sigmoid(w · u) in (0, 1).

    The gate lets words weigh more than pauses; λ lets a stream forget. Both sums are one real mode of an SSM. The state
    holds the sums, so that zero is the empty past.

    Args:
        d_model: H.
        memory: time constant at the start, in steps; it is trained.
    """

    def __init__(self, d_model: int, memory: float):
        super().__init__()
        self.gate = nn.Linear(d_model, 1)
        self.log_memory = slow(nn.Parameter(torch.tensor(math.log(memory))))

    def initial_state(self, batch: int) -> State:
        """Return {"sums": (batch, H + 1, 1, 2)} of zeros: the weighted sum of u and of the weights, as modes."""
        return {"sums": self.gate.weight.new_zeros(batch, self.gate.in_features + 1, 1, 2)}

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to the means up to each step, (B, L, H)."""
        self.refuse_rate(rate)
        state = state or self.initial_state(u.shape[0])
        g = torch.sigmoid(self.gate(u))
        terms = torch.cat((g * u, g), dim=-1).transpose(1, 2)  # (B, H + 1, L)
        channels = terms.shape[1]
        zero = torch.zeros_like(self.log_memory)
        log_decay = pairs.pair(-torch.exp(-self.log_memory), zero).expand(channels, 1, 2)
        half = pairs.pair(zero + 0.5, zero).expand(channels, 1, 2)  # y = 2 Re(c x)
        sums, final = ssm_conv(terms, log_decay, half, zero.expand(channels), state["sums"])
        sums = sums.transpose(1, 2)
        return sums[..., :-1] / sums[..., -1:].clamp(min=1e-6), {"sums": final}

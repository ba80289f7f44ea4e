"""Pooling over time that streams: a mean whose weights the input gates and time fades."""

import math

import torch
from torch import Tensor, nn

from audiossm.mixers.base import Mixer, State, slow

LONGEST = 128  # steps taken at once: the sums over L steps cost L² products a channel


class FadingMean(Mixer):
    """The mean of u over the past, sum_s λ^(t-s) g_s u_s / sum_s λ^(t-s) g_s, with a gate g = sigmoid(w · u) in (0, 1).

    The gate lets words weigh more than pauses; λ lets a stream forget. The state holds both sums, so that zero is the
    empty past.

    Args:
        d_model: H.
        memory: time constant at the start, in steps; it is trained.
    """

    def __init__(self, d_model: int, memory: float):
        super().__init__()
        self.gate = nn.Linear(d_model, 1)
        self.log_memory = slow(nn.Parameter(torch.tensor(math.log(memory))))

    def initial_state(self, batch: int) -> State:
        """Return {"sums": (batch, H + 1)} of zeros: the weighted sum of u, then that of the weights."""
        return {"sums": self.gate.weight.new_zeros(batch, self.gate.in_features + 1)}

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to the means up to each step, (B, L, H)."""
        self.refuse_rate(rate)
        sums = (state or self.initial_state(u.shape[0]))["sums"]
        terms, paths = self.terms(u), []
        for begin in range(0, u.shape[1], LONGEST):
            paths.append(self.fade(terms[:, begin : begin + LONGEST], sums))
            sums = paths[-1][:, -1]
        path = paths[0] if len(paths) == 1 else torch.cat([terms[:, :0], *paths], dim=1)
        return self.mean(path), {"sums": sums}

    def log_fade(self) -> Tensor:
        """Return log λ."""
        return -torch.exp(-self.log_memory)

    def terms(self, u: Tensor) -> Tensor:
        """Return what each step of u (..., H) adds to the sums, (..., H + 1)."""
        g = torch.sigmoid(self.gate(u))
        return torch.cat((g * u, g), dim=-1)

    def mean(self, sums: Tensor) -> Tensor:
        """Return the means (..., H) that sums (..., H + 1) stand for."""
        of_u, of_gates = sums.split((sums.shape[-1] - 1, 1), dim=-1)
        return of_u / of_gates.clamp(min=1e-6)

    def fade(self, terms: Tensor, sums: Tensor) -> Tensor:
        """Return the faded sums of terms (B, L, H + 1) up to each step, begun from sums (B, H + 1)."""
        step = torch.arange(terms.shape[1], device=terms.device, dtype=terms.dtype)
        log_fade = self.log_fade()
        lag = step.unsqueeze(1) - step
        weight = torch.where(lag >= 0, torch.exp(log_fade * lag.clamp(min=0)), 0)
        return weight @ terms + torch.exp(log_fade * (step + 1)).unsqueeze(1) * sums.unsqueeze(1)

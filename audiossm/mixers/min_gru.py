"""The minimal GRU: one selective state a channel, whose gate and input depend on the input alone (Feng et al. 2024).

    δ, v = W u + b                             as many steps and inputs as channels
    h_t = (1 - z_t) h_{t-1} + z_t v_t          z = sigmoid(δ)                     (arXiv 2410.01201, section 3.1)
    y = h + D u

It is Mamba's system with N = 1, A = -1 and B = C = 1, discretised by a hold whose step is softplus(δ), since
exp(-softplus(δ)) = 1 - sigmoid(δ) (Gu and Dao 2023, arXiv 2312.00752, theorem 1). The candidate v is used as it is; the
gate of the layer around it is its nonlinearity.

Glossary: B batch, L length, H channels.
"""

import torch
from torch import Tensor, nn

from audiossm.kernels import linear_scan
from audiossm.kernels.dispatch import exporting
from audiossm.mixers.base import Mixer, State
from audiossm.mixers.mamba import step_bias

FEW = 4  # steps that a graph may write one after another


class MinGRU(Mixer):
    """A GRU without what hinders it to be trained in parallel.

    Args:
        d_model: H, channels.
        dt_min, dt_max: range of the steps at the start, in steps of the input: log-uniform over the channels, which
            forget within 1 / step.
    """

    when = (
        "where a frame must cost little and what is worth keeping depends on what is heard: noise that comes and goes"
    )

    def __init__(self, d_model: int, dt_min: float = 0.001, dt_max: float = 0.5):
        super().__init__()
        if d_model < 1:
            raise ValueError(f"d_model is a number of channels, at least 1, not {d_model}")
        self.select = nn.Linear(d_model, 2 * d_model)
        self.d = nn.Parameter(torch.ones(d_model))
        with torch.no_grad():
            self.select.bias[:d_model] = step_bias(d_model, dt_min, dt_max)

    def initial_state(self, batch: int) -> State:
        """Return {"h": (batch, H)}, zeros."""
        return {"h": self.d.new_zeros(batch, len(self.d))}

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to y (B, L, H)."""
        self.refuse_rate(rate)
        state = state or self.initial_state(u.shape[0])
        if exporting():
            return self.few_steps(u, state["h"])
        step, v = self.select(u).mT.chunk(2, dim=1)  # (B, H, L)
        h, last = linear_scan(torch.sigmoid(-step), torch.sigmoid(step) * v, state["h"])
        return h.mT + self.d * u, {"h": last}

    def few_steps(self, u: Tensor, h: Tensor) -> tuple[Tensor, State]:
        """Write the scan for a graph, step by step; raise ValueError for more than FEW steps."""
        if u.shape[1] > FEW:
            raise ValueError(f"a graph holds at most {FEW} steps of MinGRU, not {u.shape[1]}: pool the input first")
        out = []
        for x in u.unbind(1):
            y, h = self.step(x, h)
            out.append(y)
        return torch.stack(out, dim=1) if out else u, {"h": h}

    def step(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and the state of one step, each (..., H), of x and of the state before it."""
        step, v = self.select(x).chunk(2, dim=-1)
        h = h + step.sigmoid() * (v - h)
        return h + self.d * x, h

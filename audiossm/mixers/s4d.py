"""S4D: a diagonal state space model a channel (Gu, Gupta, Goel and Ré 2022, arXiv 2206.11893)."""

import math

import torch
from torch import Tensor, nn

from audiossm.kernels import pairs, ssm_conv
from audiossm.mixers.base import Mixer, State, log_uniform, slow
from audiossm.mixers.discretise import METHODS
from audiossm.mixers.hippo import EIGENVALUES


class S4D(Mixer):
    """H independent systems x' = A x + u, y = 2 Re(C x) + D u, discretised with a trained step each.

    Args:
        d_model: H, channels.
        d_state: N, real state dimensions a channel: N/2 conjugate pairs.
        init: eigenvalues at the start: "lin", "inv" or "legs".
        method: discretisation: "zoh" or "bilinear".
        dt_min, dt_max: range of the steps at the start, in units of the model's time: log-uniform over the channels.
        native_rate: rate in Hz at which the steps are meant, for a model on raw audio; None: it has no rate.
        lr: learning rate of the step and of A.
    """

    when = "the default: the cheapest a frame, the fastest to train, and it may change its rate"

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        init: str = "lin",
        method: str = "zoh",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        native_rate: int | None = None,
        lr: float = 0.001,
    ):
        super().__init__()
        if d_state < 2 or d_state % 2:
            raise ValueError(f"d_state counts real dimensions of conjugate pairs: even and at least 2, not {d_state}")
        self.d_model, self.d_state = d_model, d_state
        self.discretise = METHODS[method]
        self.native_rate = native_rate
        self.any_rate = native_rate is not None
        a = EIGENVALUES[init](d_state).float().repeat(d_model, 1, 1)  # (H, N/2, 2)
        self.log_dt = slow(nn.Parameter(log_uniform(d_model, dt_min, dt_max)), lr)
        self.log_decay = slow(nn.Parameter((-a[..., 0]).log()), lr)  # Re A = -exp(.) stays negative
        self.frequency = slow(nn.Parameter(a[..., 1].clone()), lr)
        self.c = nn.Parameter(torch.randn(d_model, d_state // 2, 2) * math.sqrt(0.5))
        self.d = nn.Parameter(torch.randn(d_model))

    def initial_state(self, batch: int) -> State:
        """Return {"x": (batch, H, N/2, 2)} of zeros."""
        return {"x": self.c.new_zeros(batch, *self.c.shape)}

    def discrete(self, rate: int | None = None) -> tuple[Tensor, Tensor]:
        """Return log Ā and C·B̄, both (H, N/2, 2), with the step dt · native_rate / rate."""
        dt = self.log_dt.exp()
        dt = dt * self.step_at(rate)
        a = pairs.pair(-self.log_decay.exp(), self.frequency)
        log_a, b = self.discretise(a, dt[:, None, None])
        return log_a, pairs.mul(b, self.c)

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to y (B, L, H)."""
        state = state or self.initial_state(u.shape[0])
        log_a, c = self.discrete(rate)
        y, x = ssm_conv(u.transpose(1, 2), log_a, c, self.d, state["x"])
        return y.transpose(1, 2), {"x": x}

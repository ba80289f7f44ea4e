"""Mamba: a selective state space model, whose step, input and output depend on the input (Gu and Dao 2023).

    x, z = W_in u                              two branches of D = expand · H channels       (figure 3)
    x = silu(conv(x))                          each channel with its own few taps, causal   (figure 3)
    r, B, C = W_x x;  δ = softplus(W_δ r + b)  a step a channel, of rank R; B, C for all    (algorithm 2, section 3.6)
    h_t = exp(δ_t A) h_{t-1} + δ_t B_t x_t     A = -exp(.) diagonal, N states a channel     (equation 2a)
    y = W_out ((C_t h_t + D x_t) silu(z_t))                                                 (equation 2b, figure 3)

A is discretised exactly (equation 4), B by Euler's step, as the authors' code does.

Glossary: B batch, L length, H channels, D inner channels, N states, W taps, R rank of the step.
"""

import math

import torch
from torch import Tensor, nn

from audiossm.kernels import causal_conv1d, selective_scan
from audiossm.mixers.base import Mixer, State, log_uniform, slow


class Mamba(Mixer):
    """Mamba's block without its norm and residual (arXiv 2312.00752, figure 3).

    An exported frame of T steps, T up to 4, is those steps after one another: 6 operators over D · N states each, in a
    file of about 50 + 17 T nodes. At H 96 and T 1 it takes two and a half times as long as S4D does.

    Args:
        d_model: H, channels.
        d_state: N, real states of each inner channel.
        d_conv: W, taps of the convolution, 2 to 8.
        expand: D / H.
        dt_rank: R; None: H / 16, rounded up, as the authors do.
        dt_min, dt_max: range of the steps at the start, in steps of the input: log-uniform over the channels.
        lr: learning rate of the step's bias and of A.
    """

    when = "behind a pool, where what is worth keeping depends on what is heard; on raw audio S4D is better and cheaper"

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        lr: float = 0.001,
    ):
        super().__init__()
        rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        check_sizes(d_model=d_model, d_state=d_state, expand=expand, dt_rank=rank)
        check_taps(d_conv)
        inner = expand * d_model
        self.sizes = (rank, d_state, d_state)  # of r, B and C
        self.inward = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, d_conv, groups=inner)  # its parameters; `causal_conv1d` runs it
        self.select = nn.Linear(inner, sum(self.sizes), bias=False)
        self.widen = nn.Linear(rank, inner, bias=False)
        nn.init.uniform_(self.widen.weight, -(rank**-0.5), rank**-0.5)
        self.dt_bias = slow(nn.Parameter(step_bias(inner, dt_min, dt_max)), lr)
        # A = -1 ... -N in every channel: S4D-Real (section 3.6).
        self.log_decay = slow(nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1)), lr)
        self.d = nn.Parameter(torch.ones(inner))
        self.outward = nn.Linear(inner, d_model, bias=False)

    def initial_state(self, batch: int) -> State:
        """Return {"conv": (batch, D, W - 1) the latest inputs of the convolution, "x": (batch, D, N)}, zeros."""
        inner, _, taps = self.conv.weight.shape
        return {"conv": self.d.new_zeros(batch, inner, taps - 1), "x": self.d.new_zeros(batch, *self.log_decay.shape)}

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to y (B, L, H)."""
        self.refuse_rate(rate)
        state = state or self.initial_state(u.shape[0])
        x, z = self.inward(u).mT.chunk(2, dim=1)  # (B, D, L)
        x, conv = causal_conv1d(x, self.conv.weight.squeeze(1), self.conv.bias, silu=True, initial_state=state["conv"])
        r, b, c = self.select(x.mT).split(self.sizes, dim=-1)  # (B, L, R), (B, L, N) twice
        a, step = -self.log_decay.exp(), self.widen(r).mT
        y, h = selective_scan(x, step, a, b.mT, c.mT, self.d, z, self.dt_bias, delta_softplus=True, state=state["x"])
        return self.outward(y.mT), {"conv": conv, "x": h}


def step_bias(size: int, dt_min: float, dt_max: float) -> Tensor:
    """Return biases (size,) whose softplus is log-uniform in [dt_min, dt_max]."""
    if not 0 < dt_min <= dt_max:
        raise ValueError(f"steps range from dt_min to dt_max: 0 < dt_min <= dt_max, not {dt_min} and {dt_max}")
    dt = log_uniform(size, dt_min, dt_max).exp()
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")


def check_taps(d_conv: int) -> None:
    """Raise ValueError for a convolution that its kernel does not take."""
    if not 2 <= d_conv <= 8:
        raise ValueError(f"d_conv, the taps of the convolution, must be from 2 to 8, not {d_conv}")

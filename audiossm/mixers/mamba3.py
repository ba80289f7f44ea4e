"""Mamba-3: a selective model with a state that turns, discretised by a trapezoid (Lahoti et al. 2026).

    z, x, B, C, δ, A, λ, θ = W_in u              all from the input, at once                   (section 3.4, figure 2)
    B, C = norm(B) + b_B, norm(C) + b_C          RMSNorm over N, then a bias a head            (section 3.4)
    h_t = α_t R_t (h_{t-1} + (1 - λ_t) δ_t B_{t-1} x_{t-1}) + λ_t δ_t B_t x_t                  (proposition 4, B.3)
    y = W_out (norm(C_t h_t + D x_t) silu(z_t))

with α_t = exp(δ_t A_t) and R_t the rotation of the pair (i, i + N/2) by δ_t θ_t[i]: a complex state, written in reals.
The single-input form; the paper's multi-input form (section 3.3) is left out. The norm before the gate is what the
paper adds in hybrid models. Here all need it: B and C begin near one, so that y grows with N.

One call of Mamba-2's kernel computes it. With R̄_t = R_t ... R_1 and what is turned back written B̄ = R̄ᵀ B, the sum
g_t = R̄_tᵀ h_t + (1 - λ_{t+1}) δ_{t+1} B̄_t x_t follows

    g_t = α_t g_{t-1} + (λ_t δ_t + (1 - λ_{t+1}) δ_{t+1}) B̄_t x_t

In the last step of a call what is to come is left out, so that the state handed on is R̄_L g_L = h_L: no angle is kept,
and none grows from call to call.

Glossary: B batch, L length, H channels, D inner channels = K heads of P channels, N states.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.kernels import ssd
from audiossm.kernels.dispatch import exporting
from audiossm.mixers.base import Mixer, State, slow
from audiossm.mixers.mamba import check_sizes, step_bias
from audiossm.mixers.mamba2 import head_channels

LEAST = 1e-12  # of -δ A, by which inputs are divided: less is no decay in float32


class Mamba3(Mixer):
    """Mamba-3's block without its norm and residual (arXiv 2603.15569, figure 2), single-input.

    An exported frame of T steps, T up to 4, is one masked block of `ssd` with B and C of their own in each head, and a
    rotation of B, C and the D · N states: 160 to 170 nodes. At H 96 and T 1 it takes seven times as long as S4D does
    where N is 16, thirteen times where N is 128.

    Args:
        d_model: H, channels.
        d_state: N, real states of each inner channel, in pairs: even.
        expand: D / H.
        headdim: P, as in Mamba2.
        dt_min, dt_max: range of the steps at the start, in steps of the input: log-uniform over the heads.
        lr: learning rate of the biases of the step and of A.
    """

    when = "where Mamba-2 is to count or follow a phase: its state turns, and needs no convolution; behind a pool"

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        expand: int = 2,
        headdim: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        lr: float = 0.001,
    ):
        super().__init__()
        check_sizes(d_model=d_model, d_state=d_state, expand=expand)
        if d_state % 2:
            raise ValueError(f"d_state counts real dimensions of pairs: even, not {d_state}")
        inner = expand * d_model
        self.headdim = head_channels(inner, headdim)
        heads = inner // self.headdim
        self.sizes = (inner, inner, d_state, d_state, heads, heads, heads, d_state // 2)  # of z, x, B, C, δ, A, λ, θ
        self.inward = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.dt_bias = slow(nn.Parameter(step_bias(heads, dt_min, dt_max)), lr)
        self.decay_bias = slow(nn.Parameter(step_bias(heads, 1, 16)), lr)
        self.b_norm, self.c_norm = (nn.Parameter(torch.ones(d_state)) for _ in range(2))
        self.b_bias, self.c_bias = (nn.Parameter(torch.ones(heads, d_state)) for _ in range(2))
        self.d = nn.Parameter(torch.ones(heads))
        self.norm = nn.Parameter(torch.ones(inner))
        self.outward = nn.Linear(inner, d_model, bias=False)

    def initial_state(self, batch: int) -> State:
        """Return {"x": (batch, K, P, N) h, "b": (batch, K, N) and "u": (batch, K, P) the latest B and x}, zeros."""
        heads, n = self.b_bias.shape
        return {
            "x": self.d.new_zeros(batch, heads, self.headdim, n),
            "b": self.d.new_zeros(batch, heads, n),
            "u": self.d.new_zeros(batch, heads, self.headdim),
        }

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to y (B, L, H)."""
        self.refuse_rate(rate)
        state = state or self.initial_state(u.shape[0])
        if u.shape[1] == 0:
            return u, state
        z, x, b, c, dt, a, mix, theta = self.inward(u).split(self.sizes, dim=-1)
        x = x.unflatten(-1, (-1, self.headdim))  # (B, L, K, P)
        dt = F.softplus(dt + self.dt_bias)  # (B, L, K)
        decay = (dt * F.softplus(a + self.decay_bias)).clamp(min=LEAST)  # -δ A
        now = mix.sigmoid() * dt
        later = F.pad((dt - now)[:, 1:], (0, 0, 0, 1))  # what a step adds to the one after it, not beyond this call
        angle = turns(dt.unsqueeze(-1) * theta.unsqueeze(2))  # (B, L, K, N/2) of R̄
        b, c = (F.rms_norm(v, v.shape[-1:], w, eps=1e-5) for v, w in ((b, self.b_norm), (c, self.c_norm)))
        b, c = b.unsqueeze(2) + self.b_bias, c.unsqueeze(2) + self.c_bias  # (B, L, K, N)
        back_b, back_c = turned(b, -angle), turned(c, -angle)
        before = (dt - now)[:, 0, :, None] * state["u"]
        g = state["x"] + before.unsqueeze(-1) * state["b"].unsqueeze(-2)
        # `ssd` weights inputs with the step that it decays by: δ A here, which is divided out.
        weighted = x * ((now + later) / decay).unsqueeze(-1)
        y, g = ssd(weighted, decay, -torch.ones_like(self.d), back_b, back_c, initial_state=g)
        y = y + (self.d - later * (b * c).sum(-1)).unsqueeze(-1) * x
        y = F.rms_norm(y.flatten(-2), self.norm.shape, self.norm, eps=1e-5)
        h = turned(g, angle[:, -1].unsqueeze(2))
        return self.outward(y * F.silu(z)), {"x": h, "b": b[:, -1], "u": x[:, -1]}


def turns(angle: Tensor) -> Tensor:
    """Sum up angles over time to within a turn, in float64: a sum of many turns has no digits left for the last."""
    if exporting():  # a frame is a few steps
        return angle.cumsum(1)
    return torch.remainder(angle.double().cumsum(1), 2 * math.pi).to(angle.dtype)


def turned(v: Tensor, angle: Tensor) -> Tensor:
    """Rotate the pairs (i, i + N/2) of v (..., N) by angles (..., N/2)."""
    re, im = v.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos * re - sin * im, sin * re + cos * im), dim=-1)

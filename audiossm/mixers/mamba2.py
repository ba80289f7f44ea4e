"""Mamba-2: the state space dual, a selective model with one decay a head (Dao and Gu 2024).

    z, [x B C], δ = W_in u                       all from the input, at once                    (figure 6)
    [x B C] = silu(conv([x B C]))                each channel with its own few taps, causal
    h_t = exp(δ_t A) h_{t-1} + δ_t x_t B_tᵀ      δ_t = softplus(. + b), A = -exp(.), one a head (equation 2)
    y = W_out norm((h_t C_t + D x_t) silu(z_t))  RMSNorm behind the gate                        (section 7.1)

Glossary: B batch, L length, H channels, D inner channels = K heads of P channels, G groups of heads that share B and C,
N states, W taps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.kernels import causal_conv1d, ssd
from audiossm.mixers.base import Mixer, State, slow
from audiossm.mixers.mamba import check_sizes, check_taps, step_bias

WIDEST, FEWEST = 64, 8  # channels of a head, and heads, that a default of headdim keeps to


class Mamba2(Mixer):
    """Mamba-2's block without its norm and residual (arXiv 2405.21060, figure 6).

    An exported frame of T steps, T up to 4, is one masked block of 85 to 90 nodes: two products of matrices with T rows
    read and write the D · N states, and they decay once. At H 96 and T 1 it takes three times as long as S4D does where
    N is 16, four times where N is 128. Longer frames are cut in chunks.

    Args:
        d_model: H, channels.
        d_state: N, real states of each inner channel.
        d_conv: W, taps of the convolution, 2 to 8.
        expand: D / H.
        headdim: P; it must divide D. None: the largest power of two up to 64 that divides D and leaves 8 heads, if any.
        ngroups: G; it must divide the number of heads.
        dt_min, dt_max: range of the steps at the start, in steps of the input: log-uniform over the heads.
        lr: learning rate of the step's bias and of A.
    """

    when = "in place of Mamba where the state is to be large: one decay a head, and training is products of matrices"

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int | None = None,
        ngroups: int = 1,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        lr: float = 0.001,
    ):
        super().__init__()
        check_sizes(d_model=d_model, d_state=d_state, expand=expand, ngroups=ngroups)
        check_taps(d_conv)
        inner = expand * d_model
        headdim = head_channels(inner, headdim)
        heads = inner // headdim
        if heads % ngroups:
            raise ValueError(f"ngroups must divide the {heads} heads of {headdim} channels, and {ngroups} does not")
        self.heads, self.headdim, self.ngroups, self.d_state = heads, headdim, ngroups, d_state
        mixed = inner + 2 * ngroups * d_state  # channels of x, B and C
        self.inward = nn.Linear(d_model, inner + mixed + heads, bias=False)
        self.conv = nn.Conv1d(mixed, mixed, d_conv, groups=mixed)  # its parameters; `causal_conv1d` runs it
        self.dt_bias = slow(nn.Parameter(step_bias(heads, dt_min, dt_max)), lr)
        self.log_decay = slow(nn.Parameter(torch.empty(heads).uniform_(1, 16).log()), lr)  # as the authors begin
        self.d = nn.Parameter(torch.ones(heads))
        self.norm = nn.Parameter(torch.ones(inner))
        self.outward = nn.Linear(inner, d_model, bias=False)

    def initial_state(self, batch: int) -> State:
        """Return {"conv": (batch, D + 2 G N, W - 1) the convolution's latest inputs, "x": (batch, K, P, N)}, zeros."""
        mixed, _, taps = self.conv.weight.shape
        return {
            "conv": self.d.new_zeros(batch, mixed, taps - 1),
            "x": self.d.new_zeros(batch, self.heads, self.headdim, self.d_state),
        }

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to y (B, L, H)."""
        self.refuse_rate(rate)
        state = state or self.initial_state(u.shape[0])
        inner, shared = len(self.norm), self.ngroups * self.d_state
        z, xbc, dt = self.inward(u).split((inner, inner + 2 * shared, self.heads), dim=-1)
        weight, bias = self.conv.weight.squeeze(1), self.conv.bias
        xbc, conv = causal_conv1d(xbc.mT, weight, bias, silu=True, initial_state=state["conv"])
        x, b, c = xbc.mT.split((inner, shared, shared), dim=-1)
        x = x.unflatten(-1, (self.heads, self.headdim))  # (B, L, K, P)
        b, c = (v.unflatten(-1, (self.ngroups, self.d_state)) for v in (b, c))  # (B, L, G, N)
        a = -self.log_decay.exp()
        y, h = ssd(x, dt, a, b, c, self.d, None, self.dt_bias, dt_softplus=True, initial_state=state["x"])
        y = F.rms_norm(y.flatten(-2) * F.silu(z), (inner,), self.norm, eps=1e-5)
        return self.outward(y), {"conv": conv, "x": h}


def head_channels(inner: int, headdim: int | None) -> int:
    """Return P for D inner channels: headdim if it divides them, or the default of None (see Mamba2)."""
    powers = (WIDEST >> i for i in range(WIDEST.bit_length()))
    default = next((p for p in powers if inner % p == 0 and inner // p >= FEWEST), 1)
    headdim = default if headdim is None else headdim
    if headdim < 1 or inner % headdim:
        raise ValueError(f"headdim must divide expand · d_model = {inner}: not {headdim}, but for example {default}")
    return headdim

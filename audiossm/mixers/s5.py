"""S5: one state space model of all channels (Smith, Warrington and Linderman 2023, arXiv 2208.04933)."""

import math

import torch
from torch import Tensor, nn

from audiossm.kernels import decay_scan, pairs
from audiossm.mixers.base import Mixer, State, log_uniform, slow
from audiossm.mixers.discretise import zero_order_hold
from audiossm.mixers.hippo import legs_skew


class S5(Mixer):
    """A system of many inputs and outputs, x' = Λ x + B u, y = 2 Re(C x) + D u, with a trained step for each state.

    Where S4D has N states for each channel, all channels share these N, and B and C mix the channels.

    Args:
        d_model: H, channels.
        d_state: N, real state dimensions in all: N/2 conjugate pairs. 128 in 16 blocks are the paper's for speech.
        blocks: J, copies of HiPPO-N of size N/J that Λ starts as.
        dt_min, dt_max: range of the steps at the start, in units of the model's time: log-uniform over the states.
        native_rate: rate in Hz at which the steps are meant, for a model on raw audio; None: it has no rate.
        lr: learning rate of the step, of Λ and of B.
    """

    when = "one system for all channels: the smallest state of the diagonal models, mixed by full matrices"

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        blocks: int = 16,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        native_rate: int | None = None,
        lr: float = 0.001,
    ):
        super().__init__()
        if blocks < 1 or d_state < 2 or d_state % (2 * blocks):
            raise ValueError(
                f"d_state counts real dimensions of conjugate pairs in {blocks} equal blocks: give a multiple of "
                f"{2 * max(1, blocks)}, not {d_state}, or other blocks"
            )
        self.d_model, self.d_state = d_model, d_state
        self.native_rate = native_rate
        self.any_rate = native_rate is not None
        eigenvalues, vectors = hippo_n(d_state // blocks)
        v = torch.block_diag(*[vectors] * blocks)  # (N, N/2)
        a = torch.view_as_real(eigenvalues).repeat(blocks, 1).float()  # (N/2, 2)
        # Real matrices in the coordinates of HiPPO-N, seen from those of its eigenvectors, as S5 begins: V is unitary.
        b = v.mH @ (torch.randn(d_state, d_model) / math.sqrt(d_model)).to(v)
        c = (torch.randn(d_model, d_state) / math.sqrt(d_state)).to(v) @ v
        self.log_dt = slow(nn.Parameter(log_uniform(d_state // 2, dt_min, dt_max)), lr)
        self.log_decay = slow(nn.Parameter((-a[:, 0]).log()), lr)  # Re Λ = -exp(.) stays negative
        self.frequency = slow(nn.Parameter(a[:, 1].clone()), lr)
        self.b = slow(nn.Parameter(torch.view_as_real(b).float()), lr)  # (N/2, H, 2)
        self.c = nn.Parameter(torch.view_as_real(c).float())  # (H, N/2, 2)
        self.d = nn.Parameter(torch.randn(d_model))

    def initial_state(self, batch: int) -> State:
        """Return {"x": (batch, N/2, 2)} of zeros."""
        return {"x": self.b.new_zeros(batch, self.d_state // 2, 2)}

    def discrete(self, rate: int | None = None) -> tuple[Tensor, Tensor]:
        """Return log Λ̄ (N/2, 2) and B̄ (N/2, H, 2) by zero-order hold, with the step dt · native_rate / rate."""
        dt = self.log_dt.exp() * self.step_at(rate)
        a = pairs.pair(-self.log_decay.exp(), self.frequency)
        log_a, gain = zero_order_hold(a, dt.unsqueeze(1))
        return log_a, pairs.mul(gain.unsqueeze(1), self.b)

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to y (B, L, H)."""
        state = state or self.initial_state(u.shape[0])
        log_a, b = self.discrete(rate)
        added = u @ b.permute(1, 2, 0).flatten(1)  # (B, L, 2 · N/2): real parts, then imaginary ones
        first = state["x"].transpose(1, 2)
        x = decay_scan(log_a, added.unflatten(2, (2, -1)), first)
        re, im = self.c.unbind(-1)
        y = x.flatten(2) @ torch.cat((2 * re, -2 * im), dim=1).mT + self.d * u
        last = x[:, -1] if u.shape[1] else first
        return y, {"x": last.transpose(1, 2)}


def hippo_n(n: int) -> tuple[Tensor, Tensor]:
    """Return the normal part of HiPPO-LegS, diagonalised: V Λ V^H, the half with positive frequencies.

    Returns:
        Λ (n/2,) and V (n, n/2), complex128.
    """
    frequency, vectors = torch.linalg.eigh(-1j * legs_skew(n))  # S = V (i frequency) V^H
    return torch.complex(torch.full_like(frequency, -0.5), frequency)[n // 2 :], vectors[:, n // 2 :]

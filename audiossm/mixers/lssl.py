"""LSSL: the dense ancestor of S4 (Gu, Johnson, Goel, Saab, Dao, Rudra and Ré 2021, arXiv 2110.13985)."""

import torch
from torch import Tensor, nn

from audiossm.kernels import channelwise
from audiossm.kernels.dispatch import exporting
from audiossm.mixers.base import Mixer, State, log_uniform, slow
from audiossm.mixers.dense import bilinear, doublings, kernel, orbit, power, respond, toeplitz, transposed
from audiossm.mixers.hippo import HIPPO

FEW = 8  # up to this length, a live frame, all is one small matrix a channel
BLOCK = 16  # and in an exported graph, whatever the length, one for so many steps at a time


class LSSL(Mixer):
    """H systems x' = A x + B u, y = C x + D u with one dense HiPPO matrix A, bilinear with a trained step each.

    It is the reference for the structured mixers, and costs what they avoid: in a frame of T steps (T + N)² constants
    and products a channel (longer frames come out in blocks of 16 steps), in training N L products for a kernel of L
    lags. A and B stay as HiPPO gives them (the paper's LSSL-fixed): nothing would keep a trained dense A stable.

    Args:
        d_model: H, channels.
        d_state: N, state dimensions a channel.
        init: A and B: "legs" (all of the past, fading) or "legt" (a window of 1/dt steps).
        dt_min, dt_max: range of the steps at the start, in units of the model's time: log-uniform over the channels.
        native_rate: rate in Hz at which the steps are meant, for a model on raw audio; None: it has no rate.
        lr: learning rate of the step.
    """

    when = "to check the structured ones against: S4 without its structure, exact, slow and small"
    a: Tensor
    b: Tensor

    def __init__(
        self,
        d_model: int,
        d_state: int = 32,
        init: str = "legs",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        native_rate: int | None = None,
        lr: float = 0.001,
    ):
        super().__init__()
        if init not in HIPPO:
            raise ValueError(f"init is one of {', '.join(HIPPO)}, not {init}")
        self.d_model, self.d_state = d_model, d_state
        self.native_rate = native_rate
        self.any_rate = native_rate is not None
        a, b = HIPPO[init](d_state)
        self.register_buffer("a", a.float())
        self.register_buffer("b", b.float())
        self.log_dt = slow(nn.Parameter(log_uniform(d_model, dt_min, dt_max)), lr)
        self.c = nn.Parameter(torch.randn(d_model, d_state))
        self.d = nn.Parameter(torch.randn(d_model))

    def initial_state(self, batch: int) -> State:
        """Return {"x": (batch, H, N)} of zeros."""
        return {"x": self.c.new_zeros(batch, *self.c.shape)}

    def discrete(self, rate: int | None = None) -> tuple[Tensor, Tensor]:
        """Return Ā (H, N, N) and B̄ (H, N) in float64, with the step dt · native_rate / rate."""
        dt = self.log_dt.double().exp()
        dt = dt * self.step_at(rate)
        return bilinear(self.a.double(), self.b.double(), dt)

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to y (B, L, H)."""
        x = (state or self.initial_state(u.shape[0]))["x"]
        step, b = self.discrete(rate)
        length = u.shape[1]
        if length == 0:
            return u, {"x": x}
        c = self.c.double()
        if length <= FEW or exporting():
            return self.frame(step, b, c, u, x)
        doubled = doublings(step, length)
        lags = kernel(doubled, b, c, length).to(u)
        y, x = respond(u.mT, lags, doubled, power(doubled, length), b, c, self.d, x)
        return y.mT, {"x": x}

    def frame(self, step: Tensor, b: Tensor, c: Tensor, u: Tensor, x: Tensor) -> tuple[Tensor, State]:
        """Run a frame u (B, T, H) in blocks of steps, with the discrete system in float64."""
        pieces, out, x = u.split(BLOCK, dim=1), [], x.mT
        lengths = {piece.shape[1] for piece in pieces}
        blocks = {length: dense_block(step, b, c, self.d, length).to(u) for length in lengths}
        for piece in pieces:
            length = piece.shape[1]
            y, x = channelwise(blocks[length], torch.cat((piece, x), dim=1)).split((length, self.d_state), dim=1)
            out.append(y)
        return torch.cat(out, dim=1), {"x": x.mT}


def dense_block(step: Tensor, b: Tensor, c: Tensor, d: Tensor, length: int) -> Tensor:
    """Return the matrix (T + N, T + N, H) from a frame's inputs and first state to its outputs and last state."""
    doubled = doublings(step, length)
    lags = kernel(doubled, b, c, length)
    reads = orbit(transposed(doubled), doubled[0].mT @ c.unsqueeze(2), length)  # (H, N, T)
    writes = orbit(doubled, b.unsqueeze(2), length).flip(2)
    above = torch.cat((toeplitz(lags, d), reads.mT), dim=2)
    below = torch.cat((writes, power(doubled, length)), dim=2)
    return torch.cat((above, below), dim=1).permute(1, 2, 0)

"""S4: structured state spaces (Gu, Goel and Ré 2022, arXiv 2111.00396)."""

import math

import torch
from torch import Tensor, nn

from audiossm.kernels import channelwise, dplr_kernel, pairs
from audiossm.kernels.dispatch import exporting, on_gpu
from audiossm.mixers.base import Mixer, State, log_uniform, slow
from audiossm.mixers.dense import doublings, kernel, orbit, power, respond, toeplitz, transposed
from audiossm.mixers.dplr import Loop, bilinear_loop, legs_dplr

FEW = 8  # up to this length, a live frame, the loop is run as two small matrices a channel
BLOCK = 16  # and in an exported graph, whatever the length, for so many steps at a time


class S4(Mixer):
    """H systems x' = (Λ - P P*) x + B u, y = 2 Re(C x) + D u, bilinear with a trained step each; Λ, P, B from LegS.

    A long sequence is convolved with a kernel made of Cauchy sums; the state that it starts from and the one that it
    leads to take powers of the dense Ā (dense.py), made in float64 from the Woodbury step. A frame of T steps runs the
    Woodbury step as diagonal modes in a feedback loop (dplr.py), solved for the frame beforehand. All are the same
    system, exactly.

    Cost of a frame of T steps, a channel: 4 T N + 2 N + 2 T² constants and as many products, where the diagonal S4D has
    2 T N + 2 N + T² of each and a dense Ā (N + T)²: with N 64, 386 against 257 and 4225 for T 1, 1184 against 656 and
    4624 for T 4. Longer frames, of a model on the raw waveform, come out in blocks of 16 steps. In training L steps
    cost L N / 2 complex divisions for the kernel, FFTs of 2 L, and for the states N products a step and log2 L products
    of N x N matrices.

    The real part of Λ stays negative and -P P* only damps, so that no training makes it unstable.

    Args:
        d_model: H, channels.
        d_state: N, real state dimensions a channel: N/2 conjugate pairs.
        dt_min, dt_max: range of the steps at the start, in units of the model's time: log-uniform over the channels.
        native_rate: rate in Hz at which the steps are meant, for a model on raw audio; None: it has no rate.
        lr: learning rate of the step, Λ, P and B.
    """

    when = "S4D's ancestor, with HiPPO-LegS itself for a memory: try it where S4D forgets; a frame costs 1.5 times more"

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        native_rate: int | None = None,
        lr: float = 0.001,
    ):
        super().__init__()
        if d_state < 2 or d_state % 2:
            raise ValueError(f"d_state counts real dimensions of conjugate pairs: even and at least 2, not {d_state}")
        self.d_model, self.d_state = d_model, d_state
        self.native_rate = native_rate
        self.any_rate = native_rate is not None
        w, p, b = (torch.view_as_real(x).float().repeat(d_model, 1, 1) for x in legs_dplr(d_state)[:3])  # (H, N/2, 2)
        self.log_dt = slow(nn.Parameter(log_uniform(d_model, dt_min, dt_max)), lr)
        self.log_decay = slow(nn.Parameter((-w[..., 0]).log()), lr)  # Re Λ = -exp(.) stays negative
        self.frequency = slow(nn.Parameter(w[..., 1].clone()), lr)
        self.p = slow(nn.Parameter(p), lr)
        self.b = slow(nn.Parameter(b), lr)
        self.c = nn.Parameter(torch.randn(d_model, d_state // 2, 2) * math.sqrt(0.5))
        self.d = nn.Parameter(torch.randn(d_model))

    def initial_state(self, batch: int) -> State:
        """Return {"x": (batch, H, N/2, 2)} of zeros."""
        return {"x": self.c.new_zeros(batch, *self.c.shape)}

    def continuous(self, rate: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return Λ, P and B (H, N/2), complex128, and the step dt · native_rate / rate (H, 1), float64."""
        dt = self.log_dt.double().exp().unsqueeze(1)
        dt = dt * self.step_at(rate)
        w = torch.complex(-self.log_decay.double().exp(), self.frequency.double())
        return w, pairs.as_complex(self.p.double()), pairs.as_complex(self.b.double()), dt

    def readout(self) -> Tensor:
        """Return C (H, N) in float64 as it reads a real state: 2 Re(c x) = 2 Re c Re x - 2 Im c Im x."""
        return torch.view_as_real(2 * pairs.as_complex(self.c.double()).conj()).flatten(1)

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to y (B, L, H)."""
        x = (state or self.initial_state(u.shape[0]))["x"]
        system = self.continuous(rate)
        length = u.shape[1]
        if length == 0:
            return u, {"x": x}
        loop, c = bilinear_loop(*system), self.readout()
        if length <= FEW or exporting():
            return self.frame(loop, c, u, x)
        step, gain = loop.dense()
        doubled = doublings(step, length)
        last = power(doubled, length)
        lags = cauchy_lags(*system, c - torch.einsum("hn,hnm->hm", c, last), u)
        y, x = respond(u.mT, lags, doubled, last, gain, c, self.d, x.flatten(2))
        return y.mT, {"x": x.unflatten(2, (-1, 2))}

    def frame(self, loop: Loop, c: Tensor, u: Tensor, x: Tensor) -> tuple[Tensor, State]:
        """Run a frame u (B, T, H) in blocks of steps; c (H, N) reads a real state."""
        pieces, out = u.split(BLOCK, dim=1), []
        blocks = {length: loop_block(loop, c, self.d, length) for length in {piece.shape[1] for piece in pieces}}
        for piece in pieces:
            y, x = run_block(blocks[piece.shape[1]], piece, x)
            out.append(y)
        return torch.cat(out, dim=1), {"x": x}


def cauchy_lags(w: Tensor, p: Tensor, b: Tensor, dt: Tensor, cut_off: Tensor, u: Tensor) -> Tensor:
    """Return the kernel (H, L) for an input like u (B, L, H), by Cauchy sums.

    S4 trains C (I - Ā^L), which belongs to one length (section 3.2). Here C is trained, which belongs to none, and
    `cut_off` (H, N) is C (I - Ā^L), reading a real state.

    The sums are done in float64, but for a GPU's kernel: in float32 the output is 1e-6 off (relative L2), up to 2e-4
    where poles are 400 times slower than LegS' and P is small, because a pole so close to a node is lost in rounding.
    """
    c = pairs.as_complex(cut_off.unflatten(1, (-1, 2))).conj() / 2
    dtype = torch.float32 if on_gpu(u) else torch.float64
    w, p, b, c = (torch.view_as_real(x).to(dtype) for x in (dt * w, dt.sqrt() * p, dt * b, c))
    return dplr_kernel(w, p, b, c, u.shape[1]).to(u)


Block = tuple[Tensor, Tensor, Tensor]


def run_block(block: Block, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run T steps of a system from a state x (B, H, N/2, 2), for u (B, T, H).

    Both the output and what is fed back are read from the first state and the inputs; with the inputs and what is fed
    back the modes are diagonal, and x_T = a^T x_0 + sum_j a^(T-1-j) (r u_j + s f_j).
    """
    heard, moved, turn = block
    planes = x.permute(0, 3, 2, 1)  # (B, 2, N/2, H)
    y, fed_back = channelwise(heard, torch.cat((u, planes.flatten(1, 2)), dim=1)).chunk(2, dim=1)
    written = channelwise(moved, torch.cat((u, fed_back), dim=1)).unflatten(1, (2, -1))
    planes = planes * turn[0] + planes.flip(1) * turn[1] + written
    return y, planes.permute(0, 3, 2, 1)


def loop_block(loop: Loop, c: Tensor, d: Tensor, length: int) -> Block:
    """Return the matrices of a frame of T steps. The N numbers of a state are real parts, then imaginary parts.

    Returns:
        from inputs and first state to outputs and what is fed back, (2 T, T + N, H); from inputs and what is fed back
        to the last state, (N, 2 T, H); a^T as factors of the state and of its flipped planes, (2, 2, N/2, H).
    """
    step, gain = loop.dense()
    doubled = doublings(step, length)
    q = torch.view_as_real(2 * loop.q.conj()).flatten(1)  # as it reads a real state
    y_lags = kernel(doubled, gain, c, length)
    f_lags = torch.cat((loop.direct.unsqueeze(1), kernel(doubled, gain, q, length)[:, :-1]), dim=1)
    within = torch.cat((toeplitz(y_lags, d), toeplitz(f_lags)), dim=1)
    reads = [orbit(transposed(doubled), row, length).mT for row in (step.mT @ c.unsqueeze(2), q.unsqueeze(2))]
    reads_planes = torch.cat(reads, dim=1).unflatten(2, (-1, 2)).mT.flatten(2)  # (H, 2 T, N)
    heard = torch.cat((within, reads_planes), dim=2)
    powers = [torch.ones_like(loop.a)]
    for _ in range(length):
        powers.append(powers[-1] * loop.a)
    last, back = powers[-1], torch.stack(powers[-2::-1], dim=2)  # a^(T-1) ... a^0, (H, N/2, T)
    moved = torch.cat((loop.r.unsqueeze(2) * back, loop.s.unsqueeze(2) * back), dim=2)
    turn = torch.stack((torch.stack((last.real, last.real)), torch.stack((-last.imag, last.imag))))
    moved = torch.cat((moved.real, moved.imag), dim=1)
    return heard.permute(1, 2, 0).to(d), moved.permute(1, 2, 0).to(d), turn.mT.to(d)

"""Selective scan: a diagonal SSM whose step, input and output depend on the input (Mamba's S6).

Gu and Dao 2023 (Mamba: Linear-Time Sequence Modeling with Selective State Spaces), equation 2 with algorithm 2: δ, B
and C are given for every step, the input is discretised as A' = exp(δ A), B' = δ B (zero-order hold for A, Euler's step
for B, as the authors' code does), and

    h_t = exp(δ_t A) h_{t-1} + δ_t B_t u_t,    y_t = C_t h_t + D u_t.

Glossary: B batch, D channels, G groups of channels that share B and C, N states a channel, L steps. Time is last.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from audiossm.kernels.dispatch import exporting, on_gpu
from audiossm.kernels.linear_scan import linear_scan, precision

BLOCK = 1 << 20  # states that a CPU holds at a time
FEW = 4  # steps that a graph may write one after another


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute `selective_scan` as its definition says, one step after another, in the precision of its arguments."""
    delta = step_of(delta, delta_bias, delta_softplus)
    B, C = (each_channel(x, u.shape[1]) for x in (B, C))
    h, out = zero_state(u, A) if state is None else state, [u[..., :0]]
    for x, dt, b, c in zip(*(x.unbind(-1) for x in (u.unsqueeze(2), delta.unsqueeze(2), B, C)), strict=True):
        h = torch.exp(dt * A) * h + dt * b * x
        out.append((c * h).sum(-1, keepdim=True))
    return finished(torch.cat(out, dim=-1), u, D, z), h


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y and the final state of h_t = exp(δ_t A) h_{t-1} + δ_t B_t u_t, y_t = (C_t h_t + D u_t) silu(z_t).

    Arithmetic is in float32, whatever the tensors' precision, in float64 where u is.

    Args:
        u: (B, D, L) input.
        delta: (B, D, L) steps δ, before bias and softplus.
        A: (D, N) rates, below zero.
        B: (B, N, L) or (B, G, N, L) input weights; each G-th part of the channels has its own.
        C: output weights, of B's shape.
        D: (D) weights of the skip. None is zero.
        z: (B, D, L) gate; the output is multiplied by silu(z). None is no gate.
        delta_bias: (D) is added to δ. None is zero.
        delta_softplus: δ is softplus(delta + delta_bias).
        state: (B, D, N) h_0. None is zero.

    Returns:
        y, of u's shape and dtype, and the state to hand on (B, D, N), in float32 (float64 where u is).

    Raises:
        ValueError: shapes do not fit, or a graph to export has more than 4 steps.
    """
    B, C = (x.unsqueeze(1) if x.ndim == 3 else x for x in (B, C))
    check(u, delta, A, B, C, z)
    h = zero_state(u, A) if state is None else state.to(precision(u))
    if h.shape != (u.shape[0], *A.shape):
        raise ValueError(f"the state is to be {(u.shape[0], *A.shape)}, not {tuple(h.shape)}")
    if u.numel() == 0 or A.shape[1] == 0:
        return finished(torch.zeros_like(u), u, D, z).to(u.dtype), h
    if exporting():
        read, last = few_steps(A, u, step_of(delta, delta_bias, delta_softplus), B, C, h)
        return finished(read, u, D, z), last
    if on_gpu(u):
        from audiossm.kernels.gpu.selective_scan import selective_scan as on_the_gpu

        return on_the_gpu(u, delta, A, B, C, D, z, delta_bias, delta_softplus, h)[:2]
    wide = [x.to(h.dtype) for x in (u, step_of(delta.to(h.dtype), delta_bias, delta_softplus), B, C)]
    y = []
    for part in zip(*(x.split(max(16, BLOCK // h.numel()), dim=-1) for x in wide), strict=True):
        out, h = checkpoint(block, A.to(h.dtype), *part, h, use_reentrant=False)
        y.append(out)
    return finished(torch.cat(y, dim=-1), u, D, z).to(u.dtype), h


def block(A: Tensor, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return y without skip and gate, and the state after it. All its states are held, and made again backward."""
    decay = (delta.unsqueeze(2) * A.unsqueeze(-1)).exp()  # (B, D, N, L)
    B, C = (each_channel(x, u.shape[1]) for x in (B, C))
    h, last = linear_scan(decay.flatten(1, 2), ((delta * u).unsqueeze(2) * B).flatten(1, 2), state.flatten(1, 2))
    return (h.view_as(decay) * C).sum(2), last.view_as(state)


def few_steps(A: Tensor, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Write `block` for a graph, step by step: 6 operators each, over states whose channels lie last, as in a file.

    A block form would need L² exponentials of every state, as each has its own decay.
    """
    length, groups = u.shape[-1], B.shape[1]
    if length > FEW:
        raise ValueError(f"a graph holds at most {FEW} steps of a selective scan, not {length}: pool the input first")

    def rows(x: Tensor) -> Tensor:  # (B, D, L) to (B, L, G, 1, D / G)
        return x.mT.unflatten(2, (groups, 1, -1))

    h = state.mT.unflatten(2, (groups, -1)).transpose(1, 2)  # (B, G, N, D / G)
    A = A.mT.unflatten(1, (groups, -1)).transpose(0, 1)  # (G, N, D / G)
    steps = rows(delta), rows(delta * u), B.permute(0, 3, 1, 2).unsqueeze(-1), C.permute(0, 3, 1, 2).unsqueeze(-2)
    out = []
    for dt, v, b, c in zip(*(x.unbind(1) for x in steps), strict=True):
        h = (dt * A).exp() * h + b * v
        out.append((c @ h).flatten(1))
    return torch.stack(out, dim=-1), h.transpose(1, 2).flatten(2).mT


def step_of(delta: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    """Return δ (B, D, L)."""
    delta = delta if bias is None else delta + bias.to(delta.dtype).unsqueeze(-1)
    return F.softplus(delta) if softplus else delta


def finished(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Add the skip and multiply by the gate."""
    y = y if D is None else y + D.to(y.dtype).unsqueeze(-1) * u.to(y.dtype)
    return y if z is None else y * F.silu(z.to(y.dtype))


def each_channel(x: Tensor, channels: int) -> Tensor:
    """Give every channel its group's weights: (B, G, N, L) or (B, N, L) to (B, D, N, L)."""
    x = x.unsqueeze(1) if x.ndim == 3 else x
    return x.repeat_interleave(channels // x.shape[1], dim=1)


def zero_state(u: Tensor, A: Tensor) -> Tensor:
    """Return h_0 = 0."""
    return u.new_zeros(u.shape[0], *A.shape, dtype=precision(u))


def check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, z: Tensor | None) -> None:
    """Raise ValueError where shapes do not fit."""
    batch, channels, length = u.shape
    groups = B.shape[1]
    shapes = {
        "delta": (delta, u.shape),
        "A": (A, (channels, A.shape[-1])),
        "B": (B, (batch, groups, A.shape[-1], length)),
        "C": (C, B.shape),
        "z": (u if z is None else z, u.shape),
    }
    for name, (x, shape) in shapes.items():
        if x.shape != torch.Size(shape):
            raise ValueError(f"{name} is to be {tuple(shape)}, not {tuple(x.shape)}")
    if groups == 0 or channels % groups:
        raise ValueError(f"{channels} channels are not a multiple of {groups} groups")

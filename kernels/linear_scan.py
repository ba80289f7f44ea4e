"""Linear recurrence whose decay is given for every step: h_t = a_t h_{t-1} + b_t.

A step is the map h -> a h + b, and two steps after one another are a map of the same kind: first (a, b), then (c, d) is
(c a, c b + d). This composition is associative, so that all prefixes can be had in parallel (Blelloch 1990, Prefix Sums
and Their Applications, section 1.4).

Glossary: B batch, C channels, L steps. Time is the last axis. A complex sequence is two planes, (B, C, 2, L).
"""

from typing import Any

import torch
from torch import Tensor

from audiossm.kernels.dispatch import on_gpu


def linear_scan_reference(a: Tensor, b: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute `linear_scan` as its definition says, one step after another, in the precision of its arguments."""
    h, out = zero_state(b) if state is None else state, []
    for decay, x in zip(a.unbind(-1), b.unbind(-1), strict=True):
        h = times(decay, h) + x
        out.append(h)
    return torch.stack(out, dim=-1) if out else b, h


def linear_scan(a: Tensor, b: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the states h_1 ... h_L of h_t = a_t h_{t-1} + b_t, and the last one.

    Arithmetic is in float32, whatever the tensors' precision, in float64 where b is; a carry from step to step is never
    rounded to bfloat16. Slices of |a| > 1 over thousands of steps overflow.

    Args:
        a: (B, C, L) decays, or (B, C, 2, L) for a complex scan. Real and imaginary parts are planes.
        b: inputs, of the same shape.
        state: (B, C) h_0, or (B, C, 2) for a complex scan. None is zero.

    Returns:
        h, of b's shape and dtype, and the state to hand on, of the state's shape, in float32 (float64 where b is).
    """
    if a.shape != b.shape or b.ndim not in (3, 4) or (b.ndim == 4 and b.shape[2] != 2):
        raise ValueError(f"a and b are to be (B, C, L) or (B, C, 2, L), not {tuple(a.shape)} and {tuple(b.shape)}")
    first = zero_state(b) if state is None else state.to(precision(b))
    if first.shape != b.shape[:-1]:
        raise ValueError(f"the state of {tuple(b.shape)} is to be {tuple(b.shape[:-1])}, not {tuple(first.shape)}")
    if b.numel() == 0:
        return b, first
    if on_gpu(b):
        from audiossm.kernels.gpu.linear_scan import linear_scan as on_the_gpu

        return on_the_gpu(a, b, first)
    a, x = a.to(first.dtype), b.to(first.dtype)
    if b.ndim == 4:
        z, start = torch.complex(*x.unbind(2)), torch.complex(*first.unbind(2))
        z = Prefixes.apply(torch.complex(*a.unbind(2)), z, start)
        h = torch.stack((z.real, z.imag), dim=2)
    else:
        h = Prefixes.apply(a, x, first)
    return h.to(b.dtype), h[..., -1]


def precision(x: Tensor) -> torch.dtype:
    """Return what states of a sequence are computed and handed on in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def zero_state(b: Tensor) -> Tensor:
    """Return h_0 = 0 for inputs b."""
    return b.new_zeros(b.shape[:-1], dtype=precision(b))


def times(a: Tensor, h: Tensor) -> Tensor:
    """Return the product of one step: (B, C), or complex pairs (B, C, 2)."""
    if a.ndim == 2:
        return a * h
    (a_re, a_im), (h_re, h_im) = a.unbind(-1), h.unbind(-1)
    return torch.stack((a_re * h_re - a_im * h_im, a_im * h_re + a_re * h_im), dim=-1)


def prefixes(a: Tensor, b: Tensor) -> Tensor:
    """Sum up b (..., L), real or complex, from a zero state.

    Each two steps are composed to one, the half as long sequence is summed up, which gives every second state, and
    those between follow from their neighbours: 2 L compositions in 2 log2 L operators.
    """
    length = b.shape[-1]
    if length == 1:
        return b
    even = length - length % 2
    a_odd, b_even = a[..., 1:even:2], b[..., 0::2]
    odd = prefixes(a_odd * a[..., 0:even:2], torch.addcmul(b[..., 1:even:2], a_odd, b[..., 0:even:2]))
    h = torch.empty_like(b, memory_format=torch.contiguous_format)
    h[..., 0] = b[..., 0]
    h[..., 1::2] = odd
    torch.addcmul(b_even[..., 1:], a[..., 2::2], odd[..., : b_even.shape[-1] - 1], out=h[..., 2::2])
    return h


class Prefixes(torch.autograd.Function):
    """`prefixes` from a state, with its adjoint.

    With g_t the gradient of h_t, the adjoint runs backward, l_t = g_t + ā_{t+1} l_{t+1}. It is the gradient of b_t;
    that of a_t is l_t h̄_{t-1}, and that of the first state ā_1 l_1.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, state: Tensor) -> Tensor:
        """See the class: a, b (..., L), state (...)."""
        first = (b[..., 0] + a[..., 0] * state).unsqueeze(-1)
        h = prefixes(a, torch.cat((first, b[..., 1:]), dim=-1))
        ctx.save_for_backward(a, h, state)
        return h

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        a, h, state = ctx.saved_tensors
        later = torch.cat((a[..., 1:], torch.ones_like(a[..., :1])), dim=-1).conj()
        adjoint = prefixes(later.flip(-1), grad.flip(-1)).flip(-1)
        before = torch.cat((state.unsqueeze(-1), h[..., :-1]), dim=-1)
        return adjoint * before.conj(), adjoint, a[..., 0].conj() * adjoint[..., 0]

"""Linear recurrence with a constant complex decay: x_k = a x_{k-1} + b_k.

Glossary: B batch, L steps, H channels. Sequences are planar: real and imaginary parts are two planes, (..., 2, H).
"""

from typing import Any

import torch
from torch import Tensor

from audiossm.kernels import pairs
from audiossm.kernels.channelwise import channelwise
from audiossm.kernels.dispatch import exporting, on_gpu

FEW = 4  # up to this length a graph gets one matrix a channel, of the square of it


def decay_scan_reference(log_a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    """Compute `decay_scan` as its definition says, one step after another."""
    a = pairs.as_complex(log_a).exp()
    x, out = torch.complex(state[:, 0], state[:, 1]), []
    for k in range(b.shape[1]):
        x = a * x + torch.complex(b[:, k, 0], b[:, k, 1])
        out.append(torch.stack((x.real, x.imag), dim=1))
    return torch.stack(out, dim=1) if out else b


def decay_scan(log_a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    """Return the states x_1 ... x_L of x_k = a x_{k-1} + b_k.

    Args:
        log_a: (H, 2) logarithm of the decay a, pairs.
        b: (B, L, 2, H) inputs.
        state: (B, 2, H) x_0.

    Returns:
        (B, L, 2, H) states; the last one is the state to hand on.
    """
    if b.shape[1] == 0:
        return b
    if exporting():
        return _few_steps(log_a, b, state) if b.shape[1] <= FEW else _double_planes(log_a, b, state)
    if on_gpu(b):
        from audiossm.kernels.gpu.decay_scan import decay_scan as on_the_gpu

        return on_the_gpu(log_a, b, state)
    a = pairs.as_complex(log_a)
    x = torch.complex(b[:, :, 0], b[:, :, 1])
    first = x[:, :1] + (a.exp() * torch.complex(state[:, 0], state[:, 1])).unsqueeze(1)
    x = Doubling.apply(a, torch.cat((first, x[:, 1:]), dim=1))
    return torch.stack((x.real, x.imag), dim=2)


def _few_steps(log_a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    """Write `decay_scan` as one matrix a channel: x_k = a^k x_0 + sum_j a^(k-j) b_j in real numbers."""
    _, length, _, channels = b.shape
    lag = torch.arange(1, length + 1).unsqueeze(1) - torch.arange(length + 1)  # k - j, with x_0 as b_0
    power = pairs.powers(log_a, length + 1)[:, lag.clamp(min=0)]  # (H, L, L + 1, 2)
    re, im = torch.where((lag >= 0).unsqueeze(-1), power, 0).permute(3, 1, 2, 0)  # each (L, L + 1, H)
    rows = torch.stack((torch.stack((re, -im), dim=2), torch.stack((im, re), dim=2)), dim=1)
    z = torch.cat((state, b.flatten(1, 2)), dim=1)  # (B, 2 (L + 1), H)
    return channelwise(rows.reshape(2 * length, 2 * (length + 1), channels), z).reshape(b.shape)


def _double_planes(log_a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    """Write `double` in real numbers, for a graph: log2 L passes of a few operators each."""

    def rotated(steps: int, x: Tensor) -> Tensor:
        re, im = pairs.exp(steps * log_a).unbind(-1)  # each (H,)
        x_re, x_im = x.chunk(2, dim=2)
        return torch.cat((re * x_re - im * x_im, im * x_re + re * x_im), dim=2)

    x = torch.cat((b[:, :1] + rotated(1, state.unsqueeze(1)), b[:, 1:]), dim=1)
    reach = 1
    while reach < b.shape[1]:
        x = torch.cat((x[:, :reach], x[:, reach:] + rotated(reach, x[:, :-reach])), dim=1)
        reach *= 2
    return x


def double(log_a: Tensor, x: Tensor) -> Tensor:
    """Sum up complex x (B, L, H) from a zero state by doubling (Hillis and Steele 1986).

    After pass i each x_k holds the terms of the last 2^i steps, so that log2 L passes over the whole tensor replace L
    small steps.
    """
    reach = 1
    while reach < x.shape[1]:
        x = torch.cat((x[:, :reach], x[:, reach:] + (reach * log_a).exp() * x[:, :-reach]), dim=1)
        reach *= 2
    return x


class Doubling(torch.autograd.Function):
    """`double` with its adjoint, so that no pass has to be remembered.

    With g_k the gradient of x_k, the adjoint state runs backward with the conjugate decay, l_k = g_k + ā l_{k+1}. It
    is the gradient of b_k; that of a is sum_k l_k x̄_{k-1}, and d log a = ā da.
    """

    @staticmethod
    def forward(ctx: Any, log_a: Tensor, b: Tensor) -> Tensor:
        """See `double`."""
        x = double(log_a, b)
        ctx.save_for_backward(log_a, x)
        return x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        """See the class."""
        log_a, x = ctx.saved_tensors
        adjoint = double(log_a.conj(), grad.flip(1)).flip(1)
        if not ctx.needs_input_grad[0]:
            return None, adjoint
        return log_a.exp().conj() * (adjoint[:, 1:] * x[:, :-1].conj()).sum((0, 1)), adjoint

"""Linear recurrence with a constant complex decay: x_k = a x_{k-1} + b_k.

Glossary: L steps; a pair is a complex number on a last axis of 2; ... any leading axes.
"""

from typing import Any

import torch
from torch import Tensor

from audiossm.kernels import pairs


def decay_scan_reference(log_a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    """Compute `decay_scan` as its definition says, one step after another."""
    x, out = state, []
    for k in range(b.shape[-2]):
        x = pairs.mul(pairs.exp(log_a), x) + b[..., k, :]
        out.append(x)
    return torch.stack(out, dim=-2) if out else b


def decay_scan(log_a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    """Return the states x_1 ... x_L of x_k = a x_{k-1} + b_k.

    Args:
        log_a: (..., 2) logarithm of the decay a, broadcast against the leading axes of b.
        b: (..., L, 2) inputs.
        state: (..., 2) x_0.

    Returns:
        (..., L, 2) states; the last one is the state to hand on.
    """
    if b.shape[-2] == 0:
        return b
    first = b[..., :1, :] + pairs.mul(pairs.exp(log_a), state).unsqueeze(-2)
    b = torch.cat((first, b[..., 1:, :]), dim=-2)
    return double(log_a, b) if torch.compiler.is_exporting() else Doubling.apply(log_a, b)


def double(log_a: Tensor, x: Tensor) -> Tensor:
    """Sum up from a zero state by doubling (Hillis and Steele 1986).

    After pass i each x_k holds the terms of the last 2^i steps, so that log2 L passes over the whole tensor replace L
    small steps.
    """
    reach = 1
    while reach < x.shape[-2]:
        decay = pairs.exp(log_a * reach).unsqueeze(-2)
        x = torch.cat((x[..., :reach, :], x[..., reach:, :] + pairs.mul(decay, x[..., :-reach, :])), dim=-2)
        reach *= 2
    return x


class Doubling(torch.autograd.Function):
    """`double` with its adjoint, so that no pass has to be remembered.

    With g_k the gradient of x_k, the adjoint state runs backward with the conjugate decay, l_k = g_k + ā l_{k+1}. It is the
    gradient of b_k; that of a is sum_k l_k x̄_{k-1}, and d log a = ā da.
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
        conj = torch.stack((log_a[..., 0], -log_a[..., 1]), dim=-1)
        adjoint = double(conj, grad.flip(-2)).flip(-2)
        if not ctx.needs_input_grad[0]:
            return None, adjoint
        products = pairs.as_complex(adjoint[..., 1:, :]) * pairs.as_complex(x[..., :-1, :]).conj()
        summed = torch.view_as_real(products.sum(-1))
        return pairs.mul(pairs.exp(conj), summed).sum_to_size(log_a.shape), adjoint

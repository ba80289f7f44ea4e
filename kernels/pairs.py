"""Complex numbers as pairs of real ones on a last axis of 2.

ONNX and Triton know no complex tensors, so whatever may end in a kernel or in an exported file works on (..., 2) pairs.
"""

import torch
from torch import Tensor


def pair(re: Tensor, im: Tensor) -> Tensor:
    """Put (...) real and imaginary parts together as (..., 2)."""
    return torch.stack((re, im), dim=-1)


def mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a · b; both (..., 2), broadcast.

    Written as b·Re(a) + i·b·Im(a): one multiplication of the whole tensor and one of its swapped copy, which is what a
    runtime computes cheapest when a is a constant.
    """
    re, im = a[..., :1], a[..., 1:]
    return b * re + b.flip(-1) * torch.cat((-im, im), dim=-1)


def div(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b; both (..., 2), broadcast."""
    conj = torch.stack((b[..., 0], -b[..., 1]), dim=-1)
    return mul(a, conj) / b.square().sum(-1, keepdim=True)


def exp(z: Tensor) -> Tensor:
    """Return e^z, (..., 2)."""
    size = torch.exp(z[..., 0])
    return pair(size * torch.cos(z[..., 1]), size * torch.sin(z[..., 1]))


def expm1(z: Tensor) -> Tensor:
    """Return e^z - 1, (..., 2), without cancellation for small z: Re = expm1(x) cos y - 2 sin²(y/2)."""
    x, y = z[..., 0], z[..., 1]
    re = torch.expm1(x) * torch.cos(y) - 2 * torch.sin(y / 2).square()
    return pair(re, torch.exp(x) * torch.sin(y))


def log(z: Tensor) -> Tensor:
    """Return the principal logarithm of z, (..., 2)."""
    return pair(z.square().sum(-1).log() / 2, torch.atan2(z[..., 1], z[..., 0]))


def powers(log_a: Tensor, count: int) -> Tensor:
    """Return a^0 ... a^(count-1) as (..., count, 2) from log a (..., 2)."""
    t = torch.arange(count, dtype=log_a.dtype, device=log_a.device)
    return exp(log_a.unsqueeze(-2) * t.unsqueeze(-1))

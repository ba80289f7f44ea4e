"""Complex numbers as pairs of real ones on a last axis of 2.

States and whatever else leaves a function here are pairs, because ONNX and Triton know no complex tensors. Inside,
torch's complex arithmetic is used: one launch where pairs would take six. Parameters alone go through it, and export
computes what depends on them beforehand, so that no complex number reaches a file.
"""

import torch
from torch import Tensor


def pair(re: Tensor, im: Tensor) -> Tensor:
    """Put (...) real and imaginary parts together as (..., 2)."""
    return torch.stack((re, im), dim=-1)


def as_complex(z: Tensor) -> Tensor:
    """View pairs (..., 2) as complex (...)."""
    return torch.view_as_complex(z.contiguous())


def mul(a: Tensor, b: Tensor) -> Tensor:
    """Return a · b; both (..., 2), broadcast."""
    return torch.view_as_real(as_complex(a) * as_complex(b))


def div(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b; both (..., 2), broadcast."""
    return torch.view_as_real(as_complex(a) / as_complex(b))


def exp(z: Tensor) -> Tensor:
    """Return e^z, (..., 2)."""
    return torch.view_as_real(as_complex(z).exp())


def expm1(z: Tensor) -> Tensor:
    """Return e^z - 1, (..., 2), without cancellation for small z."""
    return torch.view_as_real(as_complex(z).expm1())


def log(z: Tensor) -> Tensor:
    """Return the principal logarithm of z, (..., 2)."""
    return torch.view_as_real(as_complex(z).log())


def powers(log_a: Tensor, count: int) -> Tensor:
    """Return a^0 ... a^(count-1) as (..., count, 2) from log a (..., 2)."""
    t = torch.arange(count, dtype=log_a.dtype, device=log_a.device)
    return exp(log_a.unsqueeze(-2) * t.unsqueeze(-1))

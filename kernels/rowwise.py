"""What a residual block does to each step by itself between its matrix products: sums, norms and nonlinearities.

Each reads and writes a sequence once, with the bias of the product before it, whose gradient then costs nothing extra:
torch's own LayerNorm and its sums over all steps took 14 of 35 ms of SaShiMi's training step (H100).

Glossary: (..., H) steps with H channels last.
"""

from torch import Tensor
from torch.nn import functional as F

from audiossm.kernels.dispatch import exporting, on_gpu

EPS = 1e-5


def add_norm_reference(
    u: Tensor, y: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, eps: float = EPS
) -> tuple[Tensor, Tensor]:
    """Compute `add_norm` as its definition says."""
    s = u + (y if bias is None else y + bias)
    return s, norm_reference(s, scale, shift, eps)


def norm_reference(u: Tensor, scale: Tensor, shift: Tensor, eps: float = EPS) -> Tensor:
    """Compute `norm` as its definition says."""
    return F.layer_norm(u, u.shape[-1:], scale, shift, eps)


def bias_gelu_reference(x: Tensor, bias: Tensor) -> Tensor:
    """Compute `bias_gelu` as its definition says."""
    return F.gelu(x + bias)


def bias_glu_reference(x: Tensor, bias: Tensor) -> Tensor:
    """Compute `bias_glu` as its definition says."""
    return F.glu(x + bias, dim=-1)


def add_bias_reference(u: Tensor, y: Tensor, bias: Tensor) -> Tensor:
    """Compute `add_bias` as its definition says."""
    return u + (y + bias)


def add_norm(
    u: Tensor, y: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, eps: float = EPS
) -> tuple[Tensor, Tensor]:
    """Return s = u + y + bias and LayerNorm(s) scale + shift.

    Args:
        u, y: (..., H), y in any precision.
        bias: (H,) or None.
        scale, shift: (H,).
        eps: added to the variance.
    """
    if not fast(u, y):
        return add_norm_reference(u, y, bias, scale, shift, eps)
    from audiossm.kernels.gpu.rowwise import norm as in_triton

    return in_triton(u, y, bias, scale, shift, eps)


def norm(u: Tensor, scale: Tensor, shift: Tensor, eps: float = EPS) -> Tensor:
    """Return LayerNorm(u) scale + shift of u (..., H)."""
    if not fast(u):
        return norm_reference(u, scale, shift, eps)
    from audiossm.kernels.gpu.rowwise import norm as in_triton

    return in_triton(u, None, None, scale, shift, eps)[1]


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Return gelu(x + bias) of x (..., H)."""
    if not fast(x):
        return bias_gelu_reference(x, bias)
    from audiossm.kernels.gpu.rowwise import activate

    return activate(x, bias, False)


def bias_glu(x: Tensor, bias: Tensor) -> Tensor:
    """Return a sigmoid(b), (..., H), for the halves a, b of x + bias (..., 2H)."""
    if not fast(x):
        return bias_glu_reference(x, bias)
    from audiossm.kernels.gpu.rowwise import activate

    return activate(x, bias, True)


def add_bias(u: Tensor, y: Tensor, bias: Tensor) -> Tensor:
    """Return u + y + bias of u, y (..., H)."""
    if not fast(u, y):
        return add_bias_reference(u, y, bias)
    from audiossm.kernels.gpu.rowwise import add_bias as in_triton

    return in_triton(u, y, bias)


def fast(*tensors: Tensor) -> bool:
    """Say whether Triton takes these; a file gets plain operators."""
    return not exporting() and on_gpu(*tensors)

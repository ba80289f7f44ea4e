"""From x' = A x + B u to x_n = Ā x_{n-1} + B̄ u_n, for diagonal A.

The one convention of the project for sequences: u_n is held over the step that ends at n (S4's), so that x_n already
contains u_n. (The filterbank, which reads the microphone between samples, holds forward: see filterbank.py.)
"""

import torch
from torch import Tensor

from audiossm.kernels import pairs


def zero_order_hold(a: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Discretise exactly for an input constant over the step: Ā = e^{dt A}, B̄ = (e^{dt A} - 1) / A for B = 1.

    Args:
        a: (..., 2) eigenvalues, Re < 0.
        dt: (..., 1) steps, broadcast against a.

    Returns:
        log Ā and B̄, both (..., 2).
    """
    return dt * a, pairs.div(pairs.expm1(dt * a), a)


def bilinear(a: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Discretise by the trapezoidal rule: Ā = (1 + dt A/2) / (1 - dt A/2), B̄ = dt / (1 - dt A/2) for B = 1.

    Arguments and results as in `zero_order_hold`.
    """
    one = pairs.pair(torch.ones_like(a[..., 0]), torch.zeros_like(a[..., 0]))
    ahead, behind = one + dt * a / 2, one - dt * a / 2
    return pairs.log(pairs.div(ahead, behind)), pairs.div(dt * one, behind)


METHODS = {"zoh": zero_order_hold, "bilinear": bilinear}

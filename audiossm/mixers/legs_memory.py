"""LegS as what it was made for: the whole history of a function, online, in n numbers (HiPPO: Gu et al. 2020).

At time t the coefficients x are those of the best polynomial of degree n - 1 to f on [0, t], all of it weighed alike:
f(s) is near sum_k x_k g_k(s / t). They follow x' = (A x + B f) / t, whose 1/t makes it free of any time scale: no step
and no window are to be chosen. (S4 leaves the 1/t out, to have a convolution.)
"""

import torch
from torch import Tensor

from audiossm.mixers.hippo import legendre, legs


def remember(signal: Tensor, n: int) -> Tensor:
    """Return the coefficients after each sample of a signal (..., L), (..., L, n) float64.

    Sample k holds from k - 1 to k, in units of the step, whatever that is. The trapezoidal rule over that time is

        (1 - A / (2 k)) x_k = (1 + A / (2 (k - 1))) x_{k-1} + (1 / (k - 1) + 1 / k) / 2 B f_k

    and x_1 = (f_1, 0, 0 ...), the constant, on which the rule is exact. A step takes n² products.
    """
    a, b = (matrix.to(signal.device) for matrix in legs(n))
    eye = torch.eye(n).to(a)
    f = signal.double().unsqueeze(-1)
    x, out = f[..., :1, :] * eye[0], []
    for k in range(1, signal.shape[-1] + 1):
        if k > 1:
            right = x + x @ a.T / (2 * (k - 1)) + (1 / (k - 1) + 1 / k) / 2 * f[..., k - 1 : k, :] * b
            x = torch.linalg.solve_triangular(eye - a / (2 * k), right.mT, upper=False).mT
        out.append(x)
    return torch.cat(out, dim=-2) if out else f.expand(*signal.shape, n)


def recall(x: Tensor, when: Tensor) -> Tensor:
    """Return the history (..., M) that coefficients x (..., n) hold, at times `when` (M,): 0 its start, 1 now."""
    return x @ legendre(x.shape[-1], when).to(x).T

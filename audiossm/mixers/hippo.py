"""HiPPO matrices, and the eigenvalues with which a diagonal state matrix starts.

A system x' = A x + B u that keeps the coefficients of its input's history in Legendre polynomials (HiPPO: Gu, Dao,
Ermon, Rudra and Ré 2020, arXiv 2008.07669). The polynomials are orthonormal on [0, 1], where 1 is now:
g_k(s) = sqrt(2k + 1) P_k(2s - 1). The eigenvalues are S4D's (Gu, Gupta, Goel and Ré 2022).
"""

import math

import torch
from torch import Tensor


def legs(n: int) -> tuple[Tensor, Tensor]:
    """Return LegS, A (n, n) and B (n,) in float64: all of the history, scaled to one unit.

    As a memory of the past it runs as x' = (A x + B u) / t (see legs_memory.py). Without the 1/t, as in S4, the
    history fades exponentially instead.
    """
    row, column, both = indices(n)
    a = -torch.where(row > column, both, torch.where(row == column, row + 1, 0))
    return a, both[:, 0].clone()


def legt(n: int) -> tuple[Tensor, Tensor]:
    """Return LegT, A (n, n) and B (n,) in float64: the last unit of time.

    For a window of theta seconds divide both by theta. With the scaling (2k + 1)(-1)^k it is the LMU's system.
    """
    row, column, both = indices(n)
    sign = torch.where((row < column) & ((row - column) % 2 != 0), -1, 1)
    return -sign * both, both[:, 0].clone()


def indices(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows (n, 1), the columns (1, n) and sqrt((2 row + 1)(2 column + 1)) (n, n) of a HiPPO matrix."""
    if n < 1:
        raise ValueError(f"a HiPPO system needs at least one state dimension, not {n}")
    k = torch.arange(n, dtype=torch.float64)
    root = torch.sqrt(2 * k + 1)
    return k.unsqueeze(1), k.unsqueeze(0), root.unsqueeze(1) * root


def legendre(n: int, s: Tensor) -> Tensor:
    """Return g_0 ... g_(n-1) at positions s (...) in [0, 1], 1 being now, as (..., n) float64.

    A history is g(s) · x. By Bonnet's recurrence (k + 1) P_(k+1)(z) = (2k + 1) z P_k(z) - k P_(k-1)(z).
    """
    z = 2 * s.double() - 1
    values = [torch.ones_like(z), z]
    for k in range(1, n - 1):
        values.append(((2 * k + 1) * z * values[k] - k * values[k - 1]) / (k + 1))
    return torch.stack(values[:n], dim=-1) * torch.sqrt(2 * torch.arange(n, dtype=torch.float64, device=s.device) + 1)


def legs_skew(n: int) -> Tensor:
    """Return the skew-symmetric S (n, n) of LegS: A = -1/2 + S - P P^T with P_k = sqrt(k + 1/2) (S4, appendix C.1)."""
    both = indices(n)[2] / 2
    return torch.triu(both, 1) - torch.tril(both, -1)


def s4d_lin(n: int) -> Tensor:
    """Return S4D-Lin, A_k = -1/2 + i π k (eq. 9), (n/2, 2) float64 pairs: the upper half of the spectrum."""
    k = torch.arange(n // 2, dtype=torch.float64)
    return torch.stack((torch.full_like(k, -0.5), math.pi * k), dim=-1)


def s4d_inv(n: int) -> Tensor:
    """Return S4D-Inv, A_k = -1/2 + i n/π (n/(2k+1) - 1) (eq. 8), as (n/2, 2) float64 pairs."""
    k = torch.arange(n // 2, dtype=torch.float64)
    return torch.stack((torch.full_like(k, -0.5), n / math.pi * (n / (2 * k + 1) - 1)), dim=-1)


def s4d_legs(n: int) -> Tensor:
    """Return S4D-LegS, the eigenvalues of the normal part of HiPPO-LegS, as (n/2, 2) float64 pairs.

    A_LegS = A_N - P P^T with A_N = -1/2 + S, S skew-symmetric.
    """
    frequency = torch.linalg.eigvalsh(1j * legs_skew(n))  # of i S, real and symmetric about zero
    frequency = frequency[frequency > 0]
    return torch.stack((torch.full_like(frequency, -0.5), frequency), dim=-1)


HIPPO = {"legs": legs, "legt": legt}
EIGENVALUES = {"lin": s4d_lin, "inv": s4d_inv, "legs": s4d_legs}

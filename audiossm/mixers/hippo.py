"""Where the eigenvalues of a diagonal state matrix start (S4D: Gu, Gupta, Goel and Ré 2022, section 4)."""

import math

import torch
from torch import Tensor


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

    A_LegS = A_N - P P^T with P_k = sqrt(k + 1/2); A_N is -1/2 I plus a skew-symmetric matrix (S4, theorem 1).
    """
    k = torch.arange(n, dtype=torch.float64)
    root = torch.sqrt(2 * k + 1)
    skew = 0.5 * root.unsqueeze(1) * root.unsqueeze(0)
    skew = torch.triu(skew, 1) - torch.tril(skew, -1)
    frequency = torch.linalg.eigvalsh(1j * skew)  # of i S, real and symmetric about zero
    frequency = frequency[frequency > 0]
    return torch.stack((torch.full_like(frequency, -0.5), frequency), dim=-1)


EIGENVALUES = {"lin": s4d_lin, "inv": s4d_inv, "legs": s4d_legs}

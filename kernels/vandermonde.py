"""The convolution kernel of a diagonal SSM (S4D, Gu et al. 2022): K_l = 2 Re sum_n c_n a_n^l.

It is a Vandermonde matrix times a vector. Cut into rows of J lags, l = m J + j, every power is a^(mJ) a^j, so that two
small tables and a matrix product a channel replace H N L exponentials.

Glossary: H channels, N complex modes a channel, L length. A pair is a complex number on a last axis of 2.
"""

import math

import torch
from torch import Tensor

from audiossm.kernels import pairs


def vandermonde_reference(c: Tensor, log_a: Tensor, length: int) -> Tensor:
    """Compute `vandermonde` as its definition says; (H, N, L) in memory."""
    return 2 * pairs.mul(c.unsqueeze(-2), pairs.powers(log_a, length))[..., 0].sum(-2)


def vandermonde(c: Tensor, log_a: Tensor, length: int) -> Tensor:
    """Return the kernel of a diagonal SSM.

    Plain torch on every device: the two tables are small and the rest is a matrix product. The tables are float64
    inside, since a^l at lag 16,000 turns thousands of times and float32 would lose the phase.

    Args:
        c: (H, N, 2) output weights, input step folded in.
        log_a: (H, N, 2) logarithm of the decay a; Re <= 0.
        length: L.

    Returns:
        (H, L) kernel, float32 of float32 input.
    """
    row = 1 << max(0, math.ceil(math.log2(max(length, 1)) / 2))
    rows = -(-length // row)
    exact = log_a.double()
    fine = pairs.powers(exact, row)  # (H, N, J, 2)
    coarse = 2 * pairs.mul(c.double().unsqueeze(-2), pairs.powers(row * exact, rows))  # (H, N, M, 2)
    left = torch.cat((coarse[..., 0], -coarse[..., 1]), dim=1).to(c.dtype)  # (H, 2N, M)
    right = torch.cat((fine[..., 0], fine[..., 1]), dim=1).to(c.dtype)  # (H, 2N, J)
    return (left.mT @ right).flatten(1)[:, :length]

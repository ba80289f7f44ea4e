"""Linear recurrence with a constant complex decay: x_k = a x_{k-1} + b_k.

Glossary: L steps, a pair is a complex number on a last axis of 2, ... any leading axes.
"""

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

    Doubling (Hillis and Steele, 1986): after pass i each x_k holds the terms of the last 2^i steps, so log2 L passes over
    the whole tensor replace L small ones.

    Args:
        log_a: (..., 2) logarithm of the decay a, one for each leading index; broadcast against the rest.
        b: (..., L, 2) inputs.
        state: (..., 2) x_0.

    Returns:
        (..., L, 2) states; the last one is the state to hand on.
    """
    length = b.shape[-2]
    if length == 0:
        return b
    first = b[..., :1, :] + pairs.mul(pairs.exp(log_a), state).unsqueeze(-2)
    x = torch.cat((first, b[..., 1:, :]), dim=-2)
    reach = 1
    while reach < length:
        decay = pairs.exp(log_a * reach).unsqueeze(-2)
        x = torch.cat((x[..., :reach, :], x[..., reach:, :] + pairs.mul(decay, x[..., :-reach, :])), dim=-2)
        reach *= 2
    return x

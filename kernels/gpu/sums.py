"""What programs found apart, added up in a fixed order: the last step of `rowwise` and `ssm_conv`, without atomics.

torch's own sum over the first axis takes 8 microseconds for a few hundred rows that lie in the cache, mostly waiting
(H200, `python demos/sashimi_step.py --profile`).

Glossary: P parts, K numbers each.
"""

import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import on_device

CONFIGS: dict[str, dict[str, int]] = {"add_up": {"BP": 64, "BK": 32, "num_warps": 8}}


@triton.jit
def add_up(parts, total, P, K, BP: tl.constexpr, BK: tl.constexpr):
    """Write the sum (K,) of parts (P, K)."""
    k = tl.program_id(0) * BK + tl.arange(0, BK)[None, :]
    p = tl.arange(0, BP)[:, None]
    found = tl.zeros((BP, BK), tl.float32)
    for first in range(0, P, BP):
        found += tl.load(parts + (first + p).to(tl.int64) * K + k, (first + p < P) & (k < K), 0.0)
    tl.store(total + k, tl.sum(found, 0)[None, :], k < K)


def added_up(parts: Tensor) -> Tensor:
    """Return the sum of float32 parts (P, ...) over the first axis, P some hundreds."""
    total, config = parts.new_empty(parts.shape[1:]), CONFIGS["add_up"]
    with on_device(parts):
        add_up[(triton.cdiv(total.numel(), config["BK"]),)](parts, total, len(parts), total.numel(), **config)
    return total

"""How `ssm_conv` cuts its sequences, from a fixed table: the same input is cut the same way, so gives the same bits.

`python -m audiossm.kernels.bench ssm_conv --tune` measures what would be faster; nothing is timed when a model
runs. These are the fastest of those on an H200.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

SMS = 132  # multiprocessors of a GPU where there is none to ask: in the interpreter

# A program's rows at a time and samples a chunk, its warps, and chunks on their way at a time; "short": of 2 bytes.
CONFIGS = {
    "outputs": {"rows": 16, "chunk": 64, "warps": 4, "stages": 3},
    "outputs short": {"rows": 16, "chunk": 64, "warps": 4, "stages": 5},
    "parameters": {"rows": 16, "chunk": 64, "warps": 4, "stages": 5},
    "parameters short": {"rows": 16, "chunk": 64, "warps": 4, "stages": 3},
}


@dataclass(frozen=True)
class SsmPlan:
    """How `ssm_conv` is cut: segments a sequence, `span` chunks a segment, whole chunks and a tail a sequence."""

    rows: int
    chunk: int
    warps: int
    stages: int
    blocks: int  # of rows
    segments: int
    span: int
    full: int
    tail: int


def ssm_plan(v: Tensor, modes: int, what: str) -> SsmPlan:
    """Return how kernel `what` cuts sequences (B, H, L)."""
    tile = CONFIGS[what if v.element_size() > 2 else f"{what} short"]
    processors = torch.cuda.get_device_properties(v.device).multi_processor_count if v.is_cuda else SMS
    return cut(*v.shape, modes, processors, **tile)


@lru_cache(1024)  # a search for every call would take longer than a small kernel
def cut(
    batch: int, channels: int, length: int, modes: int, processors: int, rows: int, chunk: int, warps: int, stages: int
) -> SsmPlan:
    """Return the cut with the fewest steps of a chunk one after another.

    Segments let more programs, or fuller ones, work at a time; but their ends need a pass of their own.
    """
    full, tail = divmod(length, chunk)

    def steps(segments: int) -> float:
        programs = channels * math.ceil(batch * segments / rows)
        walk = max(1, programs / (2 * processors)) * math.ceil(full / segments)
        return walk if segments == 1 else 1.6 * walk + 8 + segments / 4

    span = math.ceil(full / min((2**i for i in range(10)), key=steps))
    segments = math.ceil(full / span) if span else 1
    return SsmPlan(
        rows=rows,
        chunk=chunk,
        warps=8 if modes > 32 else warps,  # twice the matrices to keep, over twice the threads
        stages=stages,
        blocks=math.ceil(batch * segments / rows),
        segments=segments,
        span=span,
        full=full,
        tail=tail,
    )

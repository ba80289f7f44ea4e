"""How `ssm_conv` cuts its sequences, from a fixed table: the same input is cut the same way, so gives the same bits.

`python -m audiossm.kernels.bench ssm_conv --tune` measures what would be faster; nothing is timed when a model
runs. These were chosen from registers and shared memory on Hopper and are not measured yet.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

SMS = 132  # multiprocessors of a GPU where there is none to ask: in the interpreter

# A program's rows at a time and samples a chunk, its warps, and chunks on their way at a time; "short": of 2 bytes.
CONFIGS = {
    "outputs": {"rows": 16, "chunk": 64, "warps": 4, "stages": 4},
    "outputs short": {"rows": 16, "chunk": 64, "warps": 4, "stages": 5},
    "parameters": {"rows": 16, "chunk": 64, "warps": 4, "stages": 4},
    "parameters short": {"rows": 16, "chunk": 64, "warps": 4, "stages": 5},
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
    """Return the cut for sequences (B, H, L) with the fewest steps of a chunk one after another.

    Segments let more programs, or fuller ones, work at a time; but their ends need a pass of their own.
    """
    batch, channels, length = v.shape
    tile = dict(CONFIGS[what if v.element_size() > 2 else f"{what} short"])
    if modes > 32:  # twice the matrices to keep, over twice the threads
        tile["warps"] = 8
    full, tail = divmod(length, tile["chunk"])
    room = 2 * (torch.cuda.get_device_properties(v.device).multi_processor_count if v.is_cuda else SMS)

    def steps(segments: int) -> float:
        programs = channels * triton.cdiv(batch * segments, tile["rows"])
        walk = max(1, programs / room) * triton.cdiv(full, segments)
        return walk if segments == 1 else 1.6 * walk + 8 + segments / 4

    span = triton.cdiv(full, min((2**i for i in range(10)), key=steps))
    segments = triton.cdiv(full, span) if span else 1
    return SsmPlan(
        **tile, blocks=triton.cdiv(batch * segments, tile["rows"]), segments=segments, span=span, full=full, tail=tail
    )

"""Block sizes of the kernels, from fixed tables: the same input is cut the same way each time, so gives the same bits.

The figures were measured by `python -m audiossm.kernels.bench --tune OP` on an H200; nothing is timed when a model runs.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

SMS = 132  # of a GPU that is not asked: the interpreter's


@dataclass(frozen=True)
class Tile:
    """A program's share: rows at a time, samples a chunk; its warps, and chunks that are read ahead."""

    rows: int
    chunk: int
    warps: int
    stages: int


# ssm_conv: by pass and bytes a sample.
SSM = {
    ("outputs", 4): Tile(rows=16, chunk=64, warps=4, stages=4),
    ("outputs", 2): Tile(rows=16, chunk=64, warps=4, stages=5),
    ("parameters", 4): Tile(rows=16, chunk=64, warps=8, stages=3),
    ("parameters", 2): Tile(rows=16, chunk=64, warps=8, stages=4),
}


@dataclass(frozen=True)
class SsmPlan:
    """How `ssm_conv` is cut: modes, and as many as the kernels compute, blocks of rows a channel, segments a sequence, chunks a segment."""

    tile: Tile
    modes: int
    padded: int
    blocks: int
    segments: int
    span: int
    full: int
    tail: int


def ssm_plan(v: Tensor, modes: int, what: str) -> SsmPlan:
    """Return the cut for sequences (B, H, L) that takes the fewest steps of a chunk one after another.

    Segments let more programs, or fuller ones, work at a time; but their ends need a pass of their own.
    """
    batch, channels, length = v.shape
    tile = SSM[what, v.element_size()]
    full, tail = divmod(length, tile.chunk)
    room = 2 * (torch.cuda.get_device_properties(v.device).multi_processor_count if v.is_cuda else SMS)

    def steps(segments: int) -> float:
        programs = channels * triton.cdiv(batch * segments, tile.rows)
        walk = max(1, programs / room) * triton.cdiv(full, segments)
        return walk if segments == 1 else 1.6 * walk + 8 + segments / 4

    segments = min((2**i for i in range(10)), key=steps)
    span = triton.cdiv(full, segments)
    segments = triton.cdiv(full, span) if span else 1
    blocks = triton.cdiv(batch * segments, tile.rows)
    return SsmPlan(tile, modes, max(8, triton.next_power_of_2(modes)), blocks, segments, span, full, tail)

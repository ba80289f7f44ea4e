"""What lies side by side in memory. Most kernels read steps side by side; the layers of a network keep channels so.

torch's own copy from one to the other is an elementwise kernel that writes, or reads, every element apart from the one
before, at a fifth of the memory's rate. Here a tile is read as it lies and written as it will lie.

Glossary: B batch, H channels, L length.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import on_device

CONFIGS: dict[str, dict[str, int]] = {"turn": {"BH": 64, "BL": 64, "num_warps": 8}}


@triton.jit
def turn(x, y, channels, length, x_b, x_h, x_l, BH: tl.constexpr, BL: tl.constexpr):
    """Write x (B, H, L), whose channels are neighbours, to y, whose steps are."""
    row, blocks = tl.program_id(1).to(tl.int64), tl.cdiv(channels, BH)
    h = (tl.program_id(0) % blocks) * BH + tl.arange(0, BH)
    first = ((tl.program_id(0) // blocks) * BL).to(tl.int64)
    s = tl.arange(0, BL)
    tile = tl.load(
        x + row * x_b + first * x_l + s[:, None] * x_l + h[None, :] * x_h,
        (first + s[:, None] < length) & (h[None, :] < channels),
        0.0,
    )
    to = y + row * channels * length + first + h[:, None].to(tl.int64) * length + s[None, :]
    tl.store(to, tl.trans(tile), (h[:, None] < channels) & (first + s[None, :] < length))


def channels_last(x: Tensor) -> bool:
    """Say whether x (B, H, L) is such that neighbouring channels, and not steps, are neighbours in memory."""
    return x.ndim == 3 and x.stride(1) == 1 and x.stride(2) != 1


@torch.library.custom_op("audiossm::turned", mutates_args=())
def turned(x: Tensor) -> Tensor:
    """Return a copy, its steps neighbours in memory, of x (B, H, L), its channels so. Its gradient is turned back."""
    (batch, channels, length), y, config = x.shape, x.new_empty(x.shape), CONFIGS["turn"]
    grid = triton.cdiv(length, config["BL"]) * triton.cdiv(channels, config["BH"]), batch
    with on_device(x):
        turn[grid](x, y, channels, length, *x.stride(), **config)
    return y


@turned.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def backward(ctx, grad: Tensor) -> Tensor:
    """Return the gradient laid out as x is."""
    return turned_back(grad)


turned.register_autograd(backward)


def turned_back(y: Tensor) -> Tensor:
    """Return a copy of y (B, H, L), whose steps are neighbours in memory, whose channels are."""
    return turned(y.contiguous().transpose(1, 2)).transpose(1, 2)


def along_time(x: Tensor) -> Tensor:
    """Return x such that neighbouring steps are neighbours in memory."""
    if x.stride(-1) == 1:
        return x
    return turned(x) if channels_last(x) else x.contiguous()

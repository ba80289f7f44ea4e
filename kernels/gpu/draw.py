"""`draw` on a GPU: a program takes a row of the batch from its channels to the symbol and the symbol's row.

Which symbols are kept needs no sorting: a symbol is, if those more probable have less than top_p together. To compare
all with all, they pass through a scratch row.

Glossary: B batch, H channels, K symbols; HB channels a tile, HP and KP powers of 2 that hold H and K.
"""

import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import on_device
from audiossm.kernels.draw import Readout

CONFIG = {"num_warps": 8}
TILE = 16384  # the most weights of a tile


@triton.jit
def draw_row(
    y, weight, bias, norm, uniform, table, added, to, symbols, scratch, temperature, top_p, added_b, to_b, symbols_b,
    EPS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, HP: tl.constexpr, KP: tl.constexpr, HB: tl.constexpr,
    KB: tl.constexpr, SOME: tl.constexpr,
):  # fmt: skip
    """Write a row's symbol, and its row of the table."""
    row = tl.program_id(0).to(tl.int64)
    h, k = tl.arange(0, HP), tl.arange(0, KP)
    mean, size = 0.0, 1.0
    if norm is not None:
        channels = tl.load(y + row * H + h, h < H, 0.0)
        mean = tl.sum(channels) / H
        channels = tl.where(h < H, channels - mean, 0.0)
        size = tl.rsqrt(tl.sum(channels * channels) / H + EPS)

    logits = tl.load(bias + k, k < K, float("-inf"))
    for first in tl.static_range(0, HP, HB):
        i = first + tl.arange(0, HB)
        v = tl.load(y + row * H + i, i < H, 0.0)
        if norm is not None:
            v = (v - mean) * size * tl.load(norm + i, i < H, 0.0) + tl.load(norm + H + i, i < H, 0.0)
        w = tl.load(weight + i[:, None] * K + k[None, :], (i < H)[:, None] & (k < K)[None, :], 0.0)
        logits += tl.sum(v[:, None] * w, 0)

    p = tl.exp((logits - tl.max(logits)) / temperature)
    if SOME:
        scratch += row * KP
        tl.store(scratch + k, p)
        tl.debug_barrier()
        more = tl.zeros((KB, KP), tl.float32)
        for first in tl.range(0, KP, KB):
            other = tl.load(scratch + first + tl.arange(0, KB))[:, None]
            more += tl.where(other > p[None, :], other, 0.0)
        p = tl.where(tl.sum(more, 0) < top_p * tl.sum(p), p, 0.0)
    path = tl.cumsum(p, 0)
    passed = path <= tl.load(uniform + row) * tl.sum(p)
    symbol = tl.minimum(tl.sum(passed.to(tl.int32)), tl.max(tl.where(p > 0, k, 0)))
    tl.store(symbols + row * symbols_b, symbol.to(tl.int64))

    heard = tl.load(table + symbol.to(tl.int64) * H + h, h < H, 0.0)
    if added is not None:
        heard += tl.load(added + row * added_b + h, h < H, 0.0)
    tl.store(to + row * to_b + h, heard, h < H)


def draw(
    y: Tensor,
    readout: Readout,
    uniform: Tensor,
    table: Tensor,
    to: Tensor,
    symbols: Tensor,
    temperature: float,
    top_p: float,
    added: Tensor | None,
    eps: float,
) -> None:
    """See `audiossm.kernels.draw`."""
    (batch, channels), codes = y.shape, readout.weight.shape[1]
    held = (y, uniform, table, *(part for part in readout if part is not None))
    beside = (to,) if added is None else (to, added)
    if not all(part.is_contiguous() for part in held) or any(part.stride(1) != 1 for part in beside):
        raise ValueError("draw wants contiguous tensors, and the channels of `to` and `added` side by side")
    width, inner = triton.next_power_of_2(codes), triton.next_power_of_2(channels)
    scratch = y.new_empty(batch, width)
    with on_device(y):
        draw_row[(batch,)](
            y, readout.weight, readout.bias, readout.norm, uniform, table, added, to, symbols, scratch,
            temperature, top_p, 0 if added is None else added.stride(0), to.stride(0), symbols.stride(0),
            EPS=eps, H=channels, K=codes, HP=inner, KP=width, HB=min(inner, max(1, TILE // width)), KB=min(32, width),
            SOME=top_p < 1,
            **CONFIG,
        )  # fmt: skip

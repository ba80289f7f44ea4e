"""`layers_step` on a GPU: a program takes some rows of the batch through all layers.

A row's channels pass from stage to stage through a scratch row in memory, which stays in the cache, with a barrier
between: each stage wants them laid over the threads in another way. The first matrix of a stage is loaded before its
barrier, and so is on its way while the stage before ends. All numbers are float32, and so are the products.

Glossary: B batch, H channels, N modes, F feed-forward channels; HP, NP, FP the powers of 2 that hold them; ROWS rows a
program; HB channels, OB and DB outputs of a tile.
"""

import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import on_device
from audiossm.kernels.layers_step import Layers

# The most numbers of a tile of weights, rows a program, and warps, by the channels up to which they are best.
CONFIGS: dict[int, dict[str, int]] = {
    64: {"TILE": 4096, "ROWS": 1, "num_warps": 8},
    128: {"TILE": 8192, "ROWS": 1, "num_warps": 16},
    1024: {"TILE": 8192, "ROWS": 1, "num_warps": 16},
}


def candidates() -> dict[int, list[dict[str, int]]]:
    """Return what else `CONFIGS` could be."""
    found = [
        {"TILE": tile, "ROWS": rows, "num_warps": warps}
        for tile in (2048, 4096, 8192, 16384)
        for rows in (1, 2)
        for warps in (4, 8, 16)
        if 4 <= tile * rows // (32 * warps) <= 64
    ]
    return dict.fromkeys(CONFIGS, found)


@triton.jit
def gelu(x):
    """Return x times the normal distribution's share below x."""
    return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))


@triton.jit
def normed(u, scale, shift, h, H: tl.constexpr, EPS: tl.constexpr):
    """Return the LayerNorm of u (ROWS, HP), 0 beyond H."""
    mean = tl.sum(u, 1) / H
    centred = tl.where(h < H, u - mean[:, None], 0.0)
    size = tl.rsqrt(tl.sum(centred * centred, 1) / H + EPS)
    return centred * size[:, None] * tl.load(scale + h, h < H, 0.0) + tl.load(shift + h, h < H, 0.0)


@triton.jit
def product(x, weight):
    """(ROWS, I) times (I, O)."""
    return tl.sum(x[:, :, None] * weight[None, :, :], 1)


@triton.jit(do_not_specialize=("batch", "layers"))
def layers_rows(
    u, added, y, state, scratch, a, c, d, norm, gate, gate_bias, ff_norm, ff_in, ff_in_bias, ff_out, ff_out_bias,
    u_b, added_b, batch, layers,
    EPS: tl.constexpr, H: tl.constexpr, N: tl.constexpr, F: tl.constexpr,
    HP: tl.constexpr, NP: tl.constexpr, FP: tl.constexpr, ROWS: tl.constexpr,
    HB: tl.constexpr, OB: tl.constexpr, DB: tl.constexpr,
):  # fmt: skip
    """Write y (B, H) and the states behind the step."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    inside = row < batch
    h, f = tl.arange(0, HP)[None, :], tl.arange(0, FP)[None, :]
    n = tl.arange(0, NP)[None, None, :]
    mine = inside & (h < H)
    through = scratch + row * (2 * H + max(H, F))  # u; what the norm gives; what a nonlinearity gives
    x = state + row[:, :, None] * 2 * H * N
    now = tl.load(u + row * u_b + h, mine, 0.0)
    if added is not None:
        now += tl.load(added + row * added_b + h, mine, 0.0)
    come = now
    tl.store(through + h, now, mine)

    for _ in range(layers):
        tl.store(through + H + h, normed(now, norm, norm + H, h, H, EPS), mine)
        for first in tl.static_range(0, HP, HB):
            k = first + tl.arange(0, HB)[None, :]
            at = k[:, :, None] * N + n
            known = (k[:, :, None] < H) & (n < N)
            a_re, a_im = tl.load(a + at, known, 0.0), tl.load(a + H * N + at, known, 0.0)
            c_re, c_im = tl.load(c + at, known, 0.0), tl.load(c + H * N + at, known, 0.0)
            held = known & inside[:, :, None]
            x_re, x_im = tl.load(x + at, held, 0.0), tl.load(x + H * N + at, held, 0.0)
            skip = tl.load(d + k, k < H, 0.0)
            if first == 0:
                tl.debug_barrier()
            v = tl.load(through + H + k, inside & (k < H), 0.0)
            re = a_re * x_re - a_im * x_im + v[:, :, None]
            im = a_re * x_im + a_im * x_re
            tl.store(x + at, re, held)
            tl.store(x + H * N + at, im, held)
            heard = tl.sum(c_re * re - c_im * im, 2) + skip * v
            tl.store(through + 2 * H + k, gelu(heard), inside & (k < H))

        i = tl.arange(0, HP)[:, None]
        for first in tl.static_range(0, HP, OB):
            o = first + tl.arange(0, OB)[None, :]
            known = (i < H) & (o < H)
            w = tl.load(gate + i * H + o, known, 0.0)
            w_gate = tl.load(gate + H * H + i * H + o, known, 0.0)
            if first == 0:
                tl.debug_barrier()
                g = tl.load(through + 2 * H + h, mine, 0.0)
            value = product(g, w) + tl.load(gate_bias + o, o < H, 0.0)
            opening = product(g, w_gate) + tl.load(gate_bias + H + o, o < H, 0.0)
            before = tl.load(through + o, inside & (o < H), 0.0)
            tl.store(through + o, before + value * tl.sigmoid(opening), inside & (o < H))

        for first in tl.static_range(0, FP, OB):
            o = first + tl.arange(0, OB)[None, :]
            w = tl.load(ff_in + i * F + o, (i < H) & (o < F), 0.0)
            if first == 0:
                tl.debug_barrier()
                v = normed(tl.load(through + h, mine, 0.0), ff_norm, ff_norm + H, h, H, EPS)
            inner = product(v, w) + tl.load(ff_in_bias + o, o < F, 0.0)
            tl.store(through + 2 * H + o, gelu(inner), inside & (o < F))

        i = tl.arange(0, FP)[:, None]
        for first in tl.static_range(0, HP, DB):
            o = first + tl.arange(0, DB)[None, :]
            w = tl.load(ff_out + i * H + o, (i < F) & (o < H), 0.0)
            if first == 0:
                tl.debug_barrier()
                g = tl.load(through + 2 * H + f, inside & (f < F), 0.0)
            before = tl.load(through + o, inside & (o < H), 0.0)
            after = before + product(g, w) + tl.load(ff_out_bias + o, o < H, 0.0)
            tl.store(through + o, after, inside & (o < H))

        tl.debug_barrier()
        now = tl.load(through + h, mine, 0.0)
        a, c, d, x = a + 2 * H * N, c + 2 * H * N, d + H, x + tl.cast(batch, tl.int64) * 2 * H * N
        norm, gate, gate_bias = norm + 2 * H, gate + 2 * H * H, gate_bias + 2 * H
        ff_norm, ff_in, ff_in_bias = ff_norm + 2 * H, ff_in + H * F, ff_in_bias + F
        ff_out, ff_out_bias = ff_out + F * H, ff_out_bias + H

    tl.store(y + row * H + h, come + now, mine)


def layers_step(u: Tensor, state: Tensor, layers: Layers, added: Tensor | None, eps: float) -> Tensor:
    """See `audiossm.kernels.layers_step`."""
    (batch, channels), modes, inner = u.shape, state.shape[-1], layers.ff_in.shape[-1]
    whole = all(numbers.is_contiguous() for numbers in layers)
    if not (state.is_contiguous() and whole and u.stride(1) == 1 and (added is None or added.stride(1) == 1)):
        raise ValueError("layers_step wants its state and its layers contiguous, and channels side by side")
    config = dict(next(sizes for most, sizes in CONFIGS.items() if channels <= most or most == max(CONFIGS)))
    tile = config.pop("TILE")
    padded, inner_padded = (max(16, triton.next_power_of_2(size)) for size in (channels, inner))
    modes_padded = triton.next_power_of_2(modes)
    y, scratch = u.new_empty(u.shape), u.new_empty(batch, 2 * channels + max(channels, inner))
    added_b = 0 if added is None else added.stride(0)
    with on_device(u):
        layers_rows[(triton.cdiv(batch, config["ROWS"]),)](
            u, added, y, state, scratch, *layers, u.stride(0), added_b, batch, len(layers.d),
            EPS=eps, H=channels, N=modes, F=inner, HP=padded, NP=modes_padded, FP=inner_padded,
            HB=min(padded, max(1, tile // modes_padded)), OB=min(padded, max(1, tile // padded)),
            DB=min(padded, max(1, tile // inner_padded)), **config,
        )  # fmt: skip
    return y

"""`layers_step` on a GPU: a program takes a row of the batch through all layers.

Time goes into the way from one product to the next, so the vector stays in registers, and every product is one sum over
a tile of inputs by outputs at the end. Where a matrix is more than a tile, tiles are added up before the sum, and each
fetches its inputs from a scratch row in memory, which stays in the cache: a register cannot be indexed. What a layer
needs is asked for before its first number is known, the matrices too where registers hold them (EARLY). All numbers are
float32, and so are the products.

Glossary: B batch, H channels, N modes, F feed-forward channels; HP, NP, FP the powers of 2 that hold them; TILE the
most numbers of a tile.
"""

import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import on_device
from audiossm.kernels.layers_step import Layers

# By the most channels for which they are meant.
CONFIGS: dict[int, dict[str, int]] = {
    64: {"TILE": 8192, "EARLY": True, "num_warps": 8},
    1024: {"TILE": 8192, "EARLY": False, "num_warps": 16},
}


@triton.jit
def gelu(x):
    """Return x times the normal distribution's share below x."""
    return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))


@triton.jit
def normed(u, scale, shift, h, H: tl.constexpr, EPS: tl.constexpr):
    """Return the LayerNorm of u (HP,), 0 beyond H where scale and shift are."""
    mean = tl.sum(u) / H
    centred = tl.where(h < H, u - mean, 0.0)
    return centred * tl.rsqrt(tl.sum(centred * centred) / H + EPS) * scale + shift


@triton.jit
def tile(weight, first, IN: tl.constexpr, OUT: tl.constexpr, IB: tl.constexpr, OP: tl.constexpr):
    """Return rows of a matrix (IN, OUT), (IB, OP)."""
    i, o = first + tl.arange(0, IB)[:, None], tl.arange(0, OP)[None, :]
    return tl.load(weight + i * OUT + o, (i < IN) & (o < OUT), 0.0)


@triton.jit
def early(weight, IN: tl.constexpr, OUT: tl.constexpr, IP: tl.constexpr, OP: tl.constexpr, EARLY: tl.constexpr):
    """Return a matrix as a tile, so that it is on its way; or, where it is to be fetched later, as it is."""
    if EARLY:
        return tile(weight, 0, IN, OUT, IP, OP)
    else:
        return weight


@triton.jit
def product(
    x, weight, scratch, IN: tl.constexpr, OUT: tl.constexpr, IP: tl.constexpr, OP: tl.constexpr,
    TILE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Return x (IP,) times a matrix (IN, OUT): (OP,)."""
    IB: tl.constexpr = min(IP, max(1, TILE // OP))
    if EARLY:
        terms = x[:, None] * weight
    elif IB == IP:
        terms = x[:, None] * tile(weight, 0, IN, OUT, IP, OP)
    else:
        every = tl.arange(0, IP)
        tl.store(scratch + every, x, every < IN)
        tl.debug_barrier()
        terms = tl.zeros((IB, OP), tl.float32)
        for first in tl.range(0, IP, IB, loop_unroll_factor=2):
            i = first + tl.arange(0, IB)
            terms += tl.load(scratch + i, i < IN, 0.0)[:, None] * tile(weight, first, IN, OUT, IB, OP)
        tl.debug_barrier()  # before another stage writes its own
    return tl.sum(terms, 0)


@triton.jit(do_not_specialize=("batch", "layers"))
def layers_row(
    u, added, y, state, scratch, a, c, d, norm, gate, gate_bias, ff_norm, ff_in, ff_in_bias, ff_out, ff_out_bias,
    u_b, added_b, batch, layers,
    EPS: tl.constexpr, H: tl.constexpr, N: tl.constexpr, F: tl.constexpr,
    HP: tl.constexpr, NP: tl.constexpr, FP: tl.constexpr, TILE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Write a row of y (B, H) and its states behind the step."""
    row = tl.program_id(0).to(tl.int64)
    h, f = tl.arange(0, HP), tl.arange(0, FP)
    at = h[:, None] * N + tl.arange(0, NP)[None, :]
    known = (h < H)[:, None] & (tl.arange(0, NP) < N)[None, :]
    state += row * 2 * H * N
    scratch += row * max(H, F)
    come = tl.load(u + row * u_b + h, h < H, 0.0)
    if added is not None:
        come += tl.load(added + row * added_b + h, h < H, 0.0)
    now = come
    for _ in range(layers):
        scale, shift = tl.load(norm + h, h < H, 0.0), tl.load(norm + H + h, h < H, 0.0)
        a_re, a_im = tl.load(a + at, known, 0.0), tl.load(a + H * N + at, known, 0.0)
        x_re, x_im = tl.load(state + at, known, 0.0), tl.load(state + H * N + at, known, 0.0)
        c_re, c_im = tl.load(c + at, known, 0.0), tl.load(c + H * N + at, known, 0.0)
        skip = tl.load(d + h, h < H, 0.0)
        w_gate = early(gate, H, 2 * H, HP, 2 * HP, EARLY)
        b_gate = tl.load(gate_bias + tl.arange(0, 2 * HP), tl.arange(0, 2 * HP) < 2 * H, 0.0)
        ff_scale, ff_shift = tl.load(ff_norm + h, h < H, 0.0), tl.load(ff_norm + H + h, h < H, 0.0)
        w_in, b_in = early(ff_in, H, F, HP, FP, EARLY), tl.load(ff_in_bias + f, f < F, 0.0)
        w_out, b_out = early(ff_out, F, H, FP, HP, EARLY), tl.load(ff_out_bias + h, h < H, 0.0)

        v = normed(now, scale, shift, h, H, EPS)
        re = a_re * x_re - a_im * x_im + v[:, None]
        im = a_re * x_im + a_im * x_re
        tl.store(state + at, re, known)
        tl.store(state + H * N + at, im, known)
        heard = gelu(tl.sum(c_re * re - c_im * im, 1) + skip * v)
        both = product(heard, w_gate, scratch, H, 2 * H, HP, 2 * HP, TILE, EARLY) + b_gate
        value, opening = tl.split(tl.reshape(both, (HP, 2)))
        now += value * tl.sigmoid(opening)
        v = normed(now, ff_scale, ff_shift, h, H, EPS)
        inner = gelu(product(v, w_in, scratch, H, F, HP, FP, TILE, EARLY) + b_in)
        now += product(inner, w_out, scratch, F, H, FP, HP, TILE, EARLY) + b_out

        a, c, d, state = a + 2 * H * N, c + 2 * H * N, d + H, state + tl.cast(batch, tl.int64) * 2 * H * N
        norm, gate, gate_bias = norm + 2 * H, gate + 2 * H * H, gate_bias + 2 * H
        ff_norm, ff_in, ff_in_bias = ff_norm + 2 * H, ff_in + H * F, ff_in_bias + F
        ff_out, ff_out_bias = ff_out + F * H, ff_out_bias + H
    tl.store(y + row * H + h, come + now, h < H)


def layers_step(u: Tensor, state: Tensor, layers: Layers, added: Tensor | None, eps: float) -> Tensor:
    """See `audiossm.kernels.layers_step`."""
    (batch, channels), modes, inner = u.shape, state.shape[-1], layers.ff_in.shape[-1]
    whole = all(numbers.is_contiguous() for numbers in layers)
    if not (state.is_contiguous() and whole and u.stride(1) == 1 and (added is None or added.stride(1) == 1)):
        raise ValueError("layers_step wants its state and its layers contiguous, and channels side by side")
    config = next(sizes for most, sizes in CONFIGS.items() if channels <= most or most == max(CONFIGS))
    padded, modes_padded, inner_padded = map(triton.next_power_of_2, (channels, modes, inner))
    y, scratch = u.new_empty(u.shape), u.new_empty(batch, max(channels, inner))
    added_b = 0 if added is None else added.stride(0)
    with on_device(u):
        layers_row[(batch,)](
            u, added, y, state, scratch, *layers, u.stride(0), added_b, batch, len(layers.d),
            EPS=eps, H=channels, N=modes, F=inner, HP=padded, NP=modes_padded, FP=inner_padded, **config,
        )  # fmt: skip
    return y

"""`rowwise` on a GPU: each sequence is read once and written once, and what sums over steps is summed on the way.

LayerNorm, with m and 1/r the mean and the deviation of a step, h = (s - m) r and w = scale dn:

    ds = r (w - mean(w) - h mean(w h)) + what reaches s past the norm
    dscale = sum dn h      dshift = sum dn      dbias = sum ds

A backward is run by few programs, each of which walks over many tiles of steps and writes its part of the sums once:
there are no atomics.

Glossary: M steps, C channels (of a half, where there are two), CP the power of 2 that holds them, ROWS steps a tile.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import on_device
from audiossm.kernels.gpu.sums import added_up

TILE = 4096  # numbers in a tile
WARPS = 8
PROGRAMS = 264  # of a backward: two for each processor of an H100


@triton.jit
def tile_of(block, rows, C: tl.constexpr, CP: tl.constexpr, ROWS: tl.constexpr):
    """A tile's steps (ROWS, 1), its channels (1, CP), and which there are."""
    row = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.arange(0, CP)[None, :]
    return row, c, (row < rows) & (c < C)


@triton.jit
def normal(s, c, C: tl.constexpr, EPS: tl.constexpr):
    """Return h (ROWS, CP), 0 beyond C, and r (ROWS, 1)."""
    mean = tl.sum(s, 1)[:, None] / C
    centred = tl.where(c < C, s - mean, 0.0)
    r = tl.rsqrt(tl.sum(centred * centred, 1)[:, None] / C + EPS)
    return centred * r, r


@triton.jit(do_not_specialize=("rows",))
def norm_tile(
    u, y, bias, scale, shift, s, n, rows,
    EPS: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Write s = u + y + bias, where there is y, and its norm n."""
    row, c, inside = tile_of(tl.program_id(0), rows, C, CP, ROWS)
    x = tl.load(u + row * C + c, inside, 0.0).to(tl.float32)
    if y is not None:
        x += tl.load(y + row * C + c, inside, 0.0).to(tl.float32)
        if bias is not None:
            x += tl.load(bias + c, c < C, 0.0)
        tl.store(s + row * C + c, x, inside)
    h, _ = normal(x, c, C, EPS)
    tl.store(n + row * C + c, h * tl.load(scale + c, c < C, 0.0) + tl.load(shift + c, c < C, 0.0), inside)


@triton.jit(do_not_specialize=("rows", "blocks"))
def norm_backward_tiles(
    s, of_s, of_n, scale, of_u, parts, rows, blocks,
    EPS: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of s and a program's part (3, C) of those of scale, shift and bias."""
    c = tl.arange(0, CP)[None, :]
    gain = tl.load(scale + c, c < C, 0.0)
    of_scale, of_shift, of_bias = (tl.zeros((ROWS, CP), tl.float32),) * 3
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        row, c, inside = tile_of(tl.cast(block, tl.int32), rows, C, CP, ROWS)
        h, r = normal(tl.load(s + row * C + c, inside, 0.0).to(tl.float32), c, C, EPS)
        g = tl.load(of_n + row * C + c, inside, 0.0).to(tl.float32)
        w = gain * g
        x = r * (w - tl.sum(w, 1)[:, None] / C - h * (tl.sum(w * h, 1)[:, None] / C))
        if of_s is not None:
            x += tl.load(of_s + row * C + c, inside, 0.0).to(tl.float32)
        x = tl.where(inside, x, 0.0)
        tl.store(of_u + row * C + c, x, inside)
        of_scale += g * h
        of_shift += g
        of_bias += x
    parts += tl.program_id(0) * 3 * C + tl.arange(0, CP)
    known = tl.arange(0, CP) < C
    tl.store(parts, tl.sum(of_scale, 0), known)
    tl.store(parts + C, tl.sum(of_shift, 0), known)
    tl.store(parts + 2 * C, tl.sum(of_bias, 0), known)


@triton.jit
def normal_share(x):
    """Return the normal distribution's share below x."""
    return 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)


@triton.jit(do_not_specialize=("rows",))
def activate_tile(
    x, bias, y, rows, GLU: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """Write gelu(x + bias), or with GLU a sigmoid(b) of its halves."""
    row, c, inside = tile_of(tl.program_id(0), rows, C, CP, ROWS)
    WIDTH: tl.constexpr = 2 * C if GLU else C
    a = tl.load(x + row * WIDTH + c, inside, 0.0).to(tl.float32) + tl.load(bias + c, c < C, 0.0)
    if GLU:
        b = tl.load(x + row * WIDTH + C + c, inside, 0.0).to(tl.float32) + tl.load(bias + C + c, c < C, 0.0)
        out = a * tl.sigmoid(b)
    else:
        out = a * normal_share(a)
    tl.store(y + row * C + c, out, inside)


@triton.jit(do_not_specialize=("rows", "blocks"))
def activate_backward_tiles(
    x, bias, g, of_x, parts, rows, blocks,
    GLU: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of x and a program's part of that of the bias."""
    WIDTH: tl.constexpr = 2 * C if GLU else C
    c = tl.arange(0, CP)[None, :]
    first = tl.load(bias + c, c < C, 0.0)
    of_first, of_second = (tl.zeros((ROWS, CP), tl.float32),) * 2
    if GLU:
        second = tl.load(bias + C + c, c < C, 0.0)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        row, c, inside = tile_of(tl.cast(block, tl.int32), rows, C, CP, ROWS)
        grad = tl.load(g + row * C + c, inside, 0.0).to(tl.float32)
        a = tl.load(x + row * WIDTH + c, inside, 0.0).to(tl.float32) + first
        if GLU:
            b = tl.sigmoid(tl.load(x + row * WIDTH + C + c, inside, 0.0).to(tl.float32) + second)
            of_b = grad * a * b * (1 - b)
            of_a = grad * b
            tl.store(of_x + row * WIDTH + C + c, of_b, inside)
            of_second += of_b
        else:
            of_a = grad * (normal_share(a) + a * 0.3989422804014327 * tl.exp(-0.5 * a * a))
        tl.store(of_x + row * WIDTH + c, of_a, inside)
        of_first += of_a
    parts += tl.program_id(0) * WIDTH + tl.arange(0, CP)
    tl.store(parts, tl.sum(of_first, 0), tl.arange(0, CP) < C)
    if GLU:
        tl.store(parts + C, tl.sum(of_second, 0), tl.arange(0, CP) < C)


@triton.jit(do_not_specialize=("rows",))
def add_tile(u, y, bias, s, rows, C: tl.constexpr, CP: tl.constexpr, ROWS: tl.constexpr):
    """Write u + y + bias."""
    row, c, inside = tile_of(tl.program_id(0), rows, C, CP, ROWS)
    x = tl.load(u + row * C + c, inside, 0.0).to(tl.float32) + tl.load(y + row * C + c, inside, 0.0).to(tl.float32)
    tl.store(s + row * C + c, x + tl.load(bias + c, c < C, 0.0), inside)


@triton.jit(do_not_specialize=("rows", "blocks"))
def sum_tiles(g, parts, rows, blocks, C: tl.constexpr, CP: tl.constexpr, ROWS: tl.constexpr):
    """Write a program's part of the sum over all steps."""
    total = tl.zeros((ROWS, CP), tl.float32)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        row, c, inside = tile_of(tl.cast(block, tl.int32), rows, C, CP, ROWS)
        total += tl.load(g + row * C + c, inside, 0.0).to(tl.float32)
    tl.store(parts + tl.program_id(0) * C + tl.arange(0, CP), tl.sum(total, 0), tl.arange(0, CP) < C)


def tiles(x: Tensor, channels: int) -> tuple[int, int, int, dict[str, int]]:
    """Return steps, tiles, programs that walk over them, and what all kernels are told."""
    padded = triton.next_power_of_2(channels)
    each = max(1, TILE // padded)
    rows = x.numel() // x.shape[-1]
    blocks = triton.cdiv(rows, each)
    return rows, blocks, min(blocks, PROGRAMS), {"C": channels, "CP": padded, "ROWS": each, "num_warps": WARPS}


@torch.library.custom_op("audiossm::norm", mutates_args=())
def norm(
    u: Tensor, y: Tensor | None, bias: Tensor | None, scale: Tensor, shift: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See `audiossm.kernels.add_norm`; without y the sum is left empty."""
    u, y = u.contiguous(), None if y is None else y.contiguous()
    s, n = (u.new_empty(0) if y is None else torch.empty_like(u)), torch.empty_like(u)
    rows, blocks, _, sizes = tiles(u, u.shape[-1])
    with on_device(u):
        norm_tile[(blocks,)](u, y, bias, scale, shift, s, n, rows, EPS=eps, **sizes)
    return s, n


@torch.library.custom_op("audiossm::norm_backward", mutates_args=())
def norm_backward(s: Tensor, of_s: Tensor | None, of_n: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the gradients of the sum, and (3, C) those of scale, shift and bias."""
    s, of_s, of_n = s.contiguous(), None if of_s is None else of_s.contiguous(), of_n.contiguous()
    of_u = torch.empty_like(s)
    rows, blocks, programs, sizes = tiles(s, s.shape[-1])
    parts = scale.new_empty(programs, 3, s.shape[-1])
    with on_device(s):
        norm_backward_tiles[(programs,)](s, of_s, of_n, scale, of_u, parts, rows, blocks, EPS=eps, **sizes)
    return of_u, added_up(parts)


@torch.library.custom_op("audiossm::activate", mutates_args=())
def activate(x: Tensor, bias: Tensor, glu: bool) -> Tensor:
    """See `audiossm.kernels.bias_gelu` and `bias_glu`."""
    x = x.contiguous()
    channels = x.shape[-1] // 2 if glu else x.shape[-1]
    y = x.new_empty(*x.shape[:-1], channels)
    rows, blocks, _, sizes = tiles(x, channels)
    with on_device(x):
        activate_tile[(blocks,)](x, bias, y, rows, GLU=glu, **sizes)
    return y


@torch.library.custom_op("audiossm::activate_backward", mutates_args=())
def activate_backward(x: Tensor, bias: Tensor, g: Tensor, glu: bool) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and bias."""
    x, g = x.contiguous(), g.contiguous()
    of_x = torch.empty_like(x)
    rows, blocks, programs, sizes = tiles(x, g.shape[-1])
    parts = bias.new_empty(programs, x.shape[-1])
    with on_device(x):
        activate_backward_tiles[(programs,)](x, bias, g, of_x, parts, rows, blocks, GLU=glu, **sizes)
    return of_x, added_up(parts)


@torch.library.custom_op("audiossm::add_bias", mutates_args=())
def add_bias(u: Tensor, y: Tensor, bias: Tensor) -> Tensor:
    """See `audiossm.kernels.add_bias`."""
    u, y = u.contiguous(), y.contiguous()
    s = torch.empty_like(u)
    rows, blocks, _, sizes = tiles(u, u.shape[-1])
    with on_device(u):
        add_tile[(blocks,)](u, y, bias, s, rows, **sizes)
    return s


@torch.library.custom_op("audiossm::sum_of_steps", mutates_args=())
def sum_of_steps(g: Tensor) -> Tensor:
    """Return the sum (C,) of g (..., C) over all steps, float32."""
    g = g.contiguous()
    rows, blocks, programs, sizes = tiles(g, g.shape[-1])
    parts = g.new_empty(programs, g.shape[-1], dtype=torch.float32)
    with on_device(g):
        sum_tiles[(programs,)](g, parts, rows, blocks, **sizes)
    return added_up(parts)


@norm.register_fake
def _(u, y, bias, scale, shift, eps):
    return u.new_empty(0 if y is None else u.shape), u.new_empty(u.shape)


@norm_backward.register_fake
def _(s, of_s, of_n, scale, eps):
    return s.new_empty(s.shape), scale.new_empty(3, s.shape[-1])


@activate.register_fake
def _(x, bias, glu):
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2 if glu else x.shape[-1])


@activate_backward.register_fake
def _(x, bias, g, glu):
    return x.new_empty(x.shape), torch.empty_like(bias)


@add_bias.register_fake
def _(u, y, bias):
    return u.new_empty(u.shape)


@sum_of_steps.register_fake
def _(g):
    return g.new_empty(g.shape[-1], dtype=torch.float32)


def remember_norm(ctx, inputs: tuple, output: tuple) -> None:
    """Keep the sum, of which the norm is quickly made again."""
    u, y, bias, scale, _, ctx.eps = inputs
    ctx.y_type, ctx.biased = None if y is None else y.dtype, bias is not None
    ctx.save_for_backward(u if y is None else output[0], scale)


def backward_norm(ctx, of_s: Tensor | None, of_n: Tensor) -> tuple[Tensor | None, ...]:
    """See `norm_backward`."""
    s, scale = ctx.saved_tensors
    of_s = None if ctx.y_type is None else of_s
    of_u, (of_scale, of_shift, of_bias) = norm_backward(s, of_s, of_n, scale, ctx.eps)
    of_y = None if ctx.y_type is None else of_u.to(ctx.y_type)
    return of_u, of_y, of_bias if ctx.biased else None, of_scale, of_shift, None


def remember_activate(ctx, inputs: tuple, output: Tensor) -> None:
    """Keep what went in."""
    x, bias, ctx.glu = inputs
    ctx.save_for_backward(x, bias)


def backward_activate(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
    """See `activate_backward`."""
    return *activate_backward(*ctx.saved_tensors, g, ctx.glu), None


def remember_add(ctx, inputs: tuple, output: Tensor) -> None:
    """Keep y's precision."""
    ctx.y_type = inputs[1].dtype


def backward_add(ctx, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hand on g, and its sum to the bias."""
    return g, g.to(ctx.y_type), sum_of_steps(g)


norm.register_autograd(backward_norm, setup_context=remember_norm)
activate.register_autograd(backward_activate, setup_context=remember_activate)
add_bias.register_autograd(backward_add, setup_context=remember_add)

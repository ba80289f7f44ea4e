"""`causal_conv1d` on a GPU: a thread has V neighbouring steps and those before them in registers.

V is 4 where steps lie side by side in memory and aligned; what the thread beside reads too comes from the L1 cache. A
load for each tap of each step, as without an alignment, takes longer than the memory does.

The backward computes again what went into SiLU. With g the gradient in front of it,

    dx_t = sum_w weight_w g_{t+W-1-w}      dweight_w = sum_t g_t x_{t-W+1+w}      dbias = sum_t g_t

where times before 0 are the state, of which the gradient is dx at those times.

Glossary: B batch, H channels, L length, W taps, V steps that lie in one thread.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import on_device
from audiossm.kernels.gpu.layout import along_time, channels_last, turned_back

# BH channels and BL steps a program: neighbours in memory are steps, aligned for vectors of V or not, or are channels.
CONFIGS: dict[str, dict[str, int]] = {
    "vectors": {"V": 4, "BH": 1, "BL": 1024, "num_warps": 2},
    "steps": {"V": 1, "BH": 1, "BL": 1024, "num_warps": 4},
    "channels": {"V": 1, "BH": 64, "BL": 32, "num_warps": 8},
    "vectors_backward": {"V": 4, "BH": 1, "BL": 1024, "num_warps": 4},
    "steps_backward": {"V": 1, "BH": 1, "BL": 1024, "num_warps": 4},
}


def candidates() -> dict[str, list[dict[str, int]]]:
    """Return what `python -m audiossm.kernels.bench causal_conv1d --tune` times."""
    tiles = [{"BL": n, "num_warps": w} for n in (512, 1024, 2048, 4096) for w in (1, 2, 4, 8) if n // w <= 1024]
    return {name: tiles for name in CONFIGS if name != "channels"}


@triton.jit
def parted(x, V: tl.constexpr):
    """(BH, BL) to V times (BH, BL / V): the first of each V neighbours, the second and so on, which costs nothing."""
    if V == 1:
        parts = (x,)
    else:
        even, odd = tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 4, 2, 2)))
        a, c = tl.split(even)
        b, d = tl.split(odd)
        parts = a, b, c, d  # type: ignore
    return parts


@triton.jit
def joined(parts, V: tl.constexpr):
    """The reverse of `parted`."""
    if V == 1:
        x = parts[0]
    else:
        four = tl.join(tl.join(parts[0], parts[2]), tl.join(parts[1], parts[3]))
        x = tl.reshape(four, (four.shape[0], four.shape[1] * 4))
    return x


@triton.jit
def steps(x, s, first, held, length, x_l, EARLIER: tl.constexpr, LATER: tl.constexpr, V: tl.constexpr):
    """Return x from EARLIER tiles' shifts by V before times first + s to LATER ones behind, in `parted` columns.

    x (BH, 1) points to time first. It is 0 outside the sequence.
    """
    columns = ()
    for k in tl.static_range(-EARLIER, LATER + 1):
        t = first + s + k * V
        tile = tl.load(x + (s + k * V) * x_l, held & (t >= 0) & (t < length), 0.0).to(tl.float32)
        columns = columns + parted(tile, V)
    return columns


@triton.jit
def inputs(x, state, s, first, held, length, x_l, W: tl.constexpr, LATER: tl.constexpr, V: tl.constexpr):
    """Return x likewise, from as early on as W taps need; before 0 it is the state, to which `state` (BH, 1) points."""
    earlier: tl.constexpr = (W + V - 2) // V
    columns = steps(x, s, first, held, length, x_l, earlier, LATER, V)
    if first <= 0:
        past = ()
        for k in tl.static_range(-earlier, LATER + 1):
            t = first + s + k * V
            tile = tl.load(state + t + W - 1, held & (t < 0) & (t >= 1 - W), 0.0).to(tl.float32)
            past = past + parted(tile, V)
        both = ()
        for i in tl.static_range((earlier + LATER + 1) * V):
            both = both + (columns[i] + past[i],)  # type: ignore  # noqa: RUF005
        columns = both
    return columns


@triton.jit
def convolved(columns, weight, bias, held, i: tl.constexpr, W: tl.constexpr, BIAS: tl.constexpr):
    """Return what goes into the activation at column i + W - 1 of the inputs; weight (BH, 1) points to its taps."""
    y = tl.zeros_like(columns[0])
    for w in tl.static_range(W):
        y += tl.load(weight + w, held, 0.0) * columns[i + w]
    if BIAS:
        y += tl.load(bias, held, 0.0)
    return y


def convolve(
    x, weight, bias, state, y, length, channels, x_b, x_h, x_l, y_b, y_h, y_l,
    W: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr, V: tl.constexpr, BH: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """Write y."""
    row, blocks = tl.program_id(1).to(tl.int64), tl.cdiv(channels, BH)
    h = ((tl.program_id(0) % blocks) * BH + tl.arange(0, BH)[:, None]).to(tl.int64)
    s = tl.arange(0, BL)[None, :]
    first = (tl.program_id(0) // blocks) * BL
    held = h < channels
    x += row * x_b + h * x_h + first.to(tl.int64) * x_l
    y += row * y_b + h * y_h + first.to(tl.int64) * y_l
    columns = inputs(x, state + (row * channels + h) * (W - 1), s, first, held, length, x_l, W, 0, V)
    outputs = ()
    for i in tl.static_range(V):
        acc = convolved(columns, weight + h * W, bias + h, held, (W + V - 2) // V * V - W + 1 + i, W, BIAS)
        if SILU:
            acc *= tl.sigmoid(acc)
        outputs = outputs + (acc,)  # type: ignore  # noqa: RUF005
    tl.store(y + s * y_l, joined(outputs, V), held & (first + s < length))


def convolve_backward(
    x, weight, bias, state, g, last, x_grad, state_grad, sums, length, channels,
    x_b, x_h, x_l, g_b, g_h, g_l, to_b, to_h, to_l,
    W: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr, V: tl.constexpr, BH: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """Write the gradients of x and the state, and a tile's part of those of weight and bias, (B, tiles, H, W + 1).

    last is the gradient of the state behind x. The first tile ends at time 0: it holds the state.
    """
    row, blocks = tl.program_id(1).to(tl.int64), tl.cdiv(channels, BH)
    h = ((tl.program_id(0) % blocks) * BH + tl.arange(0, BH)[:, None]).to(tl.int64)
    s = tl.arange(0, BL)[None, :]
    tile = tl.program_id(0) // blocks
    first = tile * BL - BL
    held = h < channels
    x += row * x_b + h * x_h + first.to(tl.int64) * x_l
    g += row * g_b + h * g_h + first.to(tl.int64) * g_l
    x_grad += row * to_b + h * to_h + first.to(tl.int64) * to_l
    of_state = (row * channels + h) * (W - 1)
    sums += ((row * (tl.num_programs(0) // blocks) + tile) * channels + h) * (W + 1)
    around: tl.constexpr = (W + V - 2) // V
    columns = inputs(x, state + of_state, s, first, held, length, x_l, W, around if SILU else 0, V)
    grads = steps(g, s, first, held, length, g_l, 0, around, V)
    if SILU:
        behind, grads = grads, ()
        for i in tl.static_range(V + W - 1):  # every g is needed for W steps
            y = convolved(columns, weight + h * W, bias + h, held, around * V - W + 1 + i, W, BIAS)
            sigmoid = tl.sigmoid(y)
            grads = grads + (behind[i] * sigmoid * (1 + y * (1 - sigmoid)),)  # noqa: RUF005
    for w in tl.static_range(W):
        products = tl.zeros_like(columns[0])
        for i in tl.static_range(V):
            products += grads[i] * columns[around * V + i + w - W + 1]
        tl.store(sums + w, tl.sum(products, 1)[:, None], held)
    total = tl.zeros_like(columns[0])
    outputs = ()
    for i in tl.static_range(V):
        total += grads[i]
        acc = tl.zeros_like(total)
        for m in tl.static_range(W):
            acc += tl.load(weight + h * W + (W - 1 - m), held, 0.0) * grads[i + m]
        outputs = outputs + (acc,)  # type: ignore  # noqa: RUF005
    tl.store(sums + W, tl.sum(total, 1)[:, None], held)
    acc = joined(outputs, V)
    t = first + s
    if first + BL > length - W + 1:  # what is handed on as state
        there = t - (length - W + 1)
        acc += tl.load(last + of_state + there, held & (there >= 0) & (there < W - 1), 0.0).to(tl.float32)
    tl.store(x_grad + s * to_l, acc, held & (t >= 0) & (t < length))
    if first <= 0:
        tl.store(state_grad + of_state + t + W - 1, acc, held & (t < 0) & (t >= 1 - W))


# Where steps are neighbours without an alignment, a thread takes single ones: Triton chooses so if it knows of none.
UNALIGNED = ["x", "y", "g", "x_grad"]
KERNELS = {
    "vectors": triton.jit(convolve),
    "steps": triton.jit(convolve, do_not_specialize_on_alignment=UNALIGNED),
    "channels": triton.jit(convolve),
    "vectors_backward": triton.jit(convolve_backward),
    "steps_backward": triton.jit(convolve_backward, do_not_specialize_on_alignment=UNALIGNED),
}


def layout(*sequences: Tensor) -> str:
    """Say how sequences (B, H, L) lie in memory: which of `KERNELS` takes them."""
    if channels_last(sequences[0]) and sequences[0].shape[1] > 1:
        return "channels"
    aligned = all(
        x.stride(2) == 1 and not any(n % 16 for n in (x.data_ptr(), x.shape[2], *x.stride()[:2])) for x in sequences
    )
    return "vectors" if aligned else "steps"


def last_inputs(x: Tensor, state: Tensor) -> Tensor:
    """Return the last W - 1 inputs, a copy."""
    past, length = state.shape[-1], x.shape[-1]
    return torch.cat((state[..., min(length, past) :], x[..., max(length - past, 0) :]), dim=-1)


@torch.library.custom_op("audiossm::causal_conv1d", mutates_args=())
def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, state: Tensor) -> tuple[Tensor, Tensor]:
    """See `audiossm.kernels.causal_conv1d`; x is not empty, weight and bias are float32."""
    (batch, channels, length), y, kernel = x.shape, torch.empty_like(x), layout(x)
    config = CONFIGS[kernel]
    with on_device(x):
        KERNELS[kernel][triton.cdiv(length, config["BL"]) * triton.cdiv(channels, config["BH"]), batch](
            x, weight.contiguous(), weight if bias is None else bias, state.contiguous(), y, length, channels,
            *x.stride(), *y.stride(), W=weight.shape[1], BIAS=bias is not None, SILU=silu, **config,
        )  # fmt: skip
    return y, last_inputs(x, state)


@torch.library.custom_op("audiossm::causal_conv1d_backward", mutates_args=())
def causal_conv1d_backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, state: Tensor, g: Tensor, last: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight, bias and state, given those of y and of the state behind x.

    It reads samples side by side: with channels so it took 2.2 ms in place of 0.8 (SiLU, B16 H256 L16384, H100).
    """
    if channels_last(x):
        of_x, *others = causal_conv1d_backward(along_time(x), weight, bias, silu, state, g, last)
        return turned_back(of_x), *others
    (batch, channels, length), (_, width), weight = x.shape, weight.shape, weight.contiguous()
    x, g = along_time(x), along_time(g)
    x_grad, state_grad = x.new_empty(x.shape), torch.empty_like(state, memory_format=torch.contiguous_format)
    kernel = f"{layout(x, g, x_grad)}_backward"
    config = CONFIGS[kernel]
    tiles = triton.cdiv(length, config["BL"]) + 1
    sums = weight.new_empty(batch, tiles, channels, width + 1)
    with on_device(x):
        KERNELS[kernel][tiles * triton.cdiv(channels, config["BH"]), batch](
            x, weight, weight if bias is None else bias, state.contiguous(), g, last.contiguous(),
            x_grad, state_grad, sums, length, channels, *x.stride(), *g.stride(), *x_grad.stride(),
            W=width, BIAS=bias is not None, SILU=silu, **config,
        )  # fmt: skip
    total = sums.sum((0, 1))
    return x_grad, total[:, :-1].clone(), total[:, -1].clone(), state_grad


@causal_conv1d.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, state: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(state, memory_format=torch.contiguous_format)


@causal_conv1d_backward.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, state: Tensor, g: Tensor, last: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_state = torch.empty_like(state, memory_format=torch.contiguous_format)
    of_x = x.new_empty(x.mT.shape).mT if channels_last(x) else x.new_empty(x.shape)
    return of_x, torch.empty_like(weight), weight.new_empty(weight.shape[0]), of_state


def remember(ctx, inputs: tuple, output: tuple) -> None:
    """Keep the inputs."""
    x, weight, bias, ctx.silu, state = inputs
    ctx.save_for_backward(x, weight, bias, state)


def backward(ctx, g: Tensor, last: Tensor) -> tuple[Tensor | None, ...]:
    """See `causal_conv1d_backward`."""
    x, weight, bias, state = ctx.saved_tensors
    of_x, of_weight, of_bias, of_state = causal_conv1d_backward(x, weight, bias, ctx.silu, state, g, last)
    return of_x, of_weight, None if bias is None else of_bias, None, of_state


causal_conv1d.register_autograd(backward, setup_context=remember)

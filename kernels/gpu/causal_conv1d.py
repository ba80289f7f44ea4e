"""`causal_conv1d` on a GPU: every tap reads its own shifted tile, of which all but the first come from the L1 cache.

The backward computes again what went into SiLU, in a pass of its own: every g is needed for W steps, and its derivative
costs more than to write it. With g the gradient in front of the activation,

    dx_t = sum_w weight_w g_{t+W-1-w}      dweight_w = sum_t g_t x_{t-W+1+w}      dbias = sum_t g_t

where times before 0 are the state, of which the gradient is dx at those times.

Glossary: B batch, H channels, L length, W taps.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import on_device
from audiossm.kernels.gpu.layout import along_time, channels_last, turned_back

# BH channels and BL steps a program, where neighbours in memory are steps or are channels.
CONFIGS: dict[str, dict[str, int]] = {
    "steps": {"BH": 1, "BL": 1024, "num_warps": 4},
    "channels": {"BH": 64, "BL": 32, "num_warps": 8},
    "backward": {"BH": 1, "BL": 1024, "num_warps": 4},
}


def candidates() -> dict[str, list[dict[str, int]]]:
    """Return what `python -m audiossm.kernels.bench causal_conv1d --tune` times."""
    steps = [{"BL": n, "num_warps": w} for n in (256, 512, 1024, 2048) for w in (1, 2, 4, 8)]
    return {"steps": steps, "backward": steps}


@triton.jit
def inputs_at(x, s, first, h, held, length, x_h, x_l):
    """Return x (BH, BL) at times first + s, 0 outside the sequence. x points to time first."""
    return tl.load(x + h * x_h + s * x_l, held & (first + s >= 0) & (first + s < length), 0.0).to(tl.float32)


@triton.jit
def state_at(state, t, h, held, W: tl.constexpr):
    """Return the inputs (BH, BL) at times t before 0, else 0. state points to its row."""
    return tl.load(state + h * (W - 1) + t + W - 1, held & (t < 0) & (t >= 1 - W), 0.0).to(tl.float32)


def convolve(
    x, weight, bias, state, g, y, length, channels, x_b, x_h, x_l, y_b, y_h, y_l,
    W: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr, BEHIND: tl.constexpr, BH: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """Write y, or, where g is the gradient behind SiLU, laid out as y is, that in front of it."""
    row, blocks = tl.program_id(1).to(tl.int64), tl.cdiv(channels, BH)
    h, s = (tl.program_id(0) % blocks) * BH + tl.arange(0, BH)[:, None], tl.arange(0, BL)[None, :]
    first = (tl.program_id(0) // blocks) * BL
    held = h < channels
    x += row * x_b + first.to(tl.int64) * x_l
    y += row * y_b + first.to(tl.int64) * y_l
    state += row * channels * (W - 1)
    acc = tl.zeros((BH, BL), tl.float32)
    for w in tl.static_range(W):
        tap = tl.load(weight + h * W + w, held, 0.0)
        acc += tap * inputs_at(x, s + (w - W + 1), first, h, held, length, x_h, x_l)
    if first == 0:
        for w in tl.static_range(W - 1):
            acc += tl.load(weight + h * W + w, held, 0.0) * state_at(state, s + (w - W + 1), h, held, W)
    if BIAS:
        acc += tl.load(bias + h, held, 0.0)
    there = held & (first + s < length)
    if SILU:
        sigmoid = tl.sigmoid(acc)
        if BEHIND:
            g += row * y_b + first.to(tl.int64) * y_l
            acc = tl.load(g + h * y_h + s * y_l, there, 0.0).to(tl.float32) * sigmoid * (1 + acc * (1 - sigmoid))
        else:
            acc *= sigmoid
    tl.store(y + h * y_h + s * y_l, acc, there)


def convolve_backward(
    x, weight, state, g, last, x_grad, state_grad, parts, length, channels,
    x_b, x_h, x_l, g_b, g_h, g_l, to_b, to_h, to_l,
    W: tl.constexpr, BH: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """Write the gradients of x and the state, and a tile's part of those of weight and bias, (B, tiles, H, W + 1).

    last is the gradient of the state behind x. The first tile ends at time 0: it holds the state.
    """
    row, blocks = tl.program_id(1).to(tl.int64), tl.cdiv(channels, BH)
    h, s = (tl.program_id(0) % blocks) * BH + tl.arange(0, BH)[:, None], tl.arange(0, BL)[None, :]
    tile = tl.program_id(0) // blocks
    first = tile * BL - BL
    held = h < channels
    x += row * x_b + first.to(tl.int64) * x_l
    g += row * g_b + first.to(tl.int64) * g_l
    x_grad += row * to_b + first.to(tl.int64) * to_l
    state += row * channels * (W - 1)
    state_grad += row * channels * (W - 1)
    last += row * channels * (W - 1)
    parts += ((row * (tl.num_programs(0) // blocks) + tile) * channels + h) * (W + 1)
    past = ()  # x at times s - W + 1 ... s
    for k in tl.static_range(W):
        past = past + (inputs_at(x, s + (k - W + 1), first, h, held, length, x_h, x_l),)  # type: ignore  # noqa: RUF005
    if first <= 0:
        early = ()
        for k in tl.static_range(W):
            early = early + (past[k] + state_at(state, first + s + (k - W + 1), h, held, W),)  # type: ignore  # noqa: RUF005
        past = early
    acc = tl.zeros((BH, BL), tl.float32)
    for m in tl.static_range(W):
        t = first + s + m
        grad = tl.load(g + h * g_h + (s + m) * g_l, held & (t >= 0) & (t < length), 0.0).to(tl.float32)
        acc += tl.load(weight + h * W + (W - 1 - m), held, 0.0) * grad
        if m == 0:
            for w in tl.static_range(W):
                tl.store(parts + w, tl.sum(grad * past[w], 1)[:, None], held)
            tl.store(parts + W, tl.sum(grad, 1)[:, None], held)
    t = first + s
    if first + BL > length - W + 1:  # what is handed on as state
        there = t - (length - W + 1)
        acc += tl.load(last + h * (W - 1) + there, held & (there >= 0) & (there < W - 1), 0.0).to(tl.float32)
    tl.store(x_grad + h * to_h + s * to_l, acc, held & (t >= 0) & (t < length))
    if first <= 0:
        tl.store(state_grad + h * (W - 1) + t + W - 1, acc, held & (t < 0) & (t >= 1 - W))


# Where steps are neighbours, a thread takes single steps: shifted vectors would not be aligned. Triton chooses so if it
# does not know of an alignment.
UNALIGNED = ["x", "y", "g", "x_grad"]
KERNELS = {
    "steps": triton.jit(convolve, do_not_specialize_on_alignment=UNALIGNED),
    "channels": triton.jit(convolve),
    "backward": triton.jit(convolve_backward, do_not_specialize_on_alignment=UNALIGNED),
}


def layout(x: Tensor) -> str:
    """Say what lies side by side in memory."""
    return "channels" if channels_last(x) and x.shape[1] > 1 else "steps"


def last_inputs(x: Tensor, state: Tensor) -> Tensor:
    """Return the last W - 1 inputs, a copy."""
    past, length = state.shape[-1], x.shape[-1]
    return torch.cat((state[..., min(length, past) :], x[..., max(length - past, 0) :]), dim=-1)


def launch(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, state: Tensor, g: Tensor | None, y: Tensor
) -> None:
    """Write y: see `convolve`."""
    (batch, channels, length), kernel = x.shape, layout(x)
    config = CONFIGS[kernel]
    grid = triton.cdiv(length, config["BL"]) * triton.cdiv(channels, config["BH"]), batch
    with on_device(x):
        KERNELS[kernel][grid](
            x, weight, weight if bias is None else bias, state.contiguous(), x if g is None else g, y, length, channels,
            *x.stride(), *y.stride(),
            W=weight.shape[1], BIAS=bias is not None, SILU=silu, BEHIND=g is not None, **config,
        )  # fmt: skip


@torch.library.custom_op("audiossm::causal_conv1d", mutates_args=())
def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, state: Tensor) -> tuple[Tensor, Tensor]:
    """See `audiossm.kernels.causal_conv1d`; x is not empty, weight and bias are float32."""
    y = torch.empty_like(x)
    launch(x, weight.contiguous(), bias, silu, state, None, y)
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
    if silu:
        behind, g = g.contiguous(), weight.new_empty(g.shape)
        launch(x, weight, bias, silu, state, behind, g)
    config = CONFIGS["backward"]
    tiles = triton.cdiv(length, config["BL"]) + 1
    x_grad, state_grad = x.new_empty(x.shape), torch.empty_like(state, memory_format=torch.contiguous_format)
    parts = weight.new_empty(batch, tiles, channels, width + 1)
    with on_device(x):
        KERNELS["backward"][tiles * triton.cdiv(channels, config["BH"]), batch](
            x, weight, state.contiguous(), g, last.contiguous(), x_grad, state_grad, parts, length, channels,
            *x.stride(), *g.stride(), *x_grad.stride(), W=width, **config,
        )  # fmt: skip
    total = parts.sum((0, 1))
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

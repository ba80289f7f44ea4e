"""`decay_scan` on a GPU: x_k = a x_{k-1} + b_k with a constant complex decay, in chunks of Q steps.

Each chunk is summed up from a zero state, which gives the state that it adds at its end; a chunk's first state follows
from those of the chunks before it, with decay a^Q; then each chunk is summed up again from its first state. Chunks are
many, so that a whole GPU works although every step waits for the one before: two readings and one writing in all.

The adjoint is the same scan with time turned round and the decay's conjugate (see `decay_scan.Doubling`).

Glossary: B batch, L steps, H channels, Q steps a chunk, K chunks. Planes: real and imaginary parts, (..., 2, H).
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import on_device
from audiossm.kernels.gpu.complex import times

WIDTH = 128  # channels a program


@triton.jit
def chunk_ends(b, decay, ends, length, channels, b_batch, b_step, b_plane, Q, H: tl.constexpr):
    """Write what each chunk adds to the state at its end, (B, K, 2, H). b_step is negative where time is turned."""
    chunk, row = tl.program_id(0), tl.program_id(2).to(tl.int64)
    h = tl.program_id(1) * H + tl.arange(0, H)
    inside = h < channels
    a_re, a_im = tl.load(decay + h, inside), tl.load(decay + channels + h, inside)
    x_re, x_im = tl.zeros_like(a_re), tl.zeros_like(a_re)
    at = b + row * b_batch + (chunk * Q).to(tl.int64) * b_step + h
    for _ in range(chunk * Q, min(chunk * Q + Q, length)):
        x_re, x_im = times(a_re, a_im, x_re, x_im)
        x_re += tl.load(at, inside).to(a_re.dtype)
        x_im += tl.load(at + b_plane, inside).to(a_re.dtype)
        at += b_step
    end = ends + ((row * tl.num_programs(0) + chunk) * 2) * channels + h
    tl.store(end, x_re, inside)
    tl.store(end + channels, x_im, inside)


@triton.jit
def first_state(state, decay, ends, row, chunk, chunks, h, channels, inside):
    """Return the state (H) in which a chunk begins: that at the very start and all chunks' ends, each decayed."""
    q_re, q_im = tl.load(decay + 2 * channels + h, inside), tl.load(decay + 3 * channels + h, inside)
    x_re = tl.load(state + row * 2 * channels + h, inside).to(q_re.dtype)
    x_im = tl.load(state + (row * 2 + 1) * channels + h, inside).to(q_re.dtype)
    end = ends + row * chunks * 2 * channels + h
    for _ in range(chunk):
        x_re, x_im = times(q_re, q_im, x_re, x_im)
        x_re += tl.load(end, inside)
        x_im += tl.load(end + channels, inside)
        end += 2 * channels
    return x_re, x_im


@triton.jit
def chunk_states(b, decay, ends, state, out, length, channels, b_batch, b_step, b_plane, Q, H: tl.constexpr):
    """Write all states (B, L, 2, H)."""
    chunk, row = tl.program_id(0), tl.program_id(2).to(tl.int64)
    h = tl.program_id(1) * H + tl.arange(0, H)
    inside = h < channels
    a_re, a_im = tl.load(decay + h, inside), tl.load(decay + channels + h, inside)
    x_re, x_im = first_state(state, decay, ends, row, chunk, tl.num_programs(0), h, channels, inside)
    at = b + row * b_batch + (chunk * Q).to(tl.int64) * b_step + h
    to = out + (row * length + chunk * Q) * 2 * channels + h
    for _ in range(chunk * Q, min(chunk * Q + Q, length)):
        x_re, x_im = times(a_re, a_im, x_re, x_im)
        x_re += tl.load(at, inside).to(a_re.dtype)
        x_im += tl.load(at + b_plane, inside).to(a_re.dtype)
        tl.store(to, x_re, inside)
        tl.store(to + channels, x_im, inside)
        at += b_step
        to += 2 * channels


@triton.jit
def chunk_adjoints(
    grad, decay, ends, zeros, states, state, out, a_grad,
    length, channels, g_batch, g_step, g_plane, Q, H: tl.constexpr,
):  # fmt: skip
    """Write the adjoint states (B, L, 2, H) and what each chunk adds to the decay's gradient, (B, K, 2, H).

    Time is turned: step j here is step length - 1 - j of `states`, and `decay` is the conjugate.
    """
    chunk, row = tl.program_id(0), tl.program_id(2).to(tl.int64)
    h = tl.program_id(1) * H + tl.arange(0, H)
    inside = h < channels
    a_re, a_im = tl.load(decay + h, inside), tl.load(decay + channels + h, inside)
    x_re, x_im = first_state(zeros, decay, ends, row, chunk, tl.num_programs(0), h, channels, inside)
    sum_re, sum_im = tl.zeros_like(a_re), tl.zeros_like(a_re)
    at = grad + row * g_batch + (chunk * Q).to(tl.int64) * g_step + h
    last = row * length + length - 1 - chunk * Q
    to, before = out + last * 2 * channels + h, states + (last - 1) * 2 * channels + h
    for j in range(chunk * Q, min(chunk * Q + Q, length)):
        x_re, x_im = times(a_re, a_im, x_re, x_im)
        x_re += tl.load(at, inside).to(a_re.dtype)
        x_im += tl.load(at + g_plane, inside).to(a_re.dtype)
        tl.store(to, x_re, inside)
        tl.store(to + channels, x_im, inside)
        if j == length - 1:
            before = state + row * 2 * channels + h
        s_re, s_im = tl.load(before, inside).to(a_re.dtype), tl.load(before + channels, inside).to(a_re.dtype)
        sum_re += x_re * s_re + x_im * s_im
        sum_im += x_im * s_re - x_re * s_im
        at += g_step
        to -= 2 * channels
        before -= 2 * channels
    end = a_grad + ((row * tl.num_programs(0) + chunk) * 2) * channels + h
    tl.store(end, sum_re, inside)
    tl.store(end + channels, sum_im, inside)


def lanes(x: Tensor) -> Tensor:
    """Return x such that neighbouring channels are neighbours in memory."""
    return x if x.stride(-1) == 1 else x.contiguous()


def chunk_length(length: int) -> int:
    """Return Q, about √L: a program walks Q steps, and as many chunk ends as lie before its own."""
    return max(32, triton.next_power_of_2(math.isqrt(length)))


def decays(log_a: Tensor, steps: int) -> Tensor:
    """Return a and a^Q as planes, (2, 2, H), from log a (H, 2)."""
    power = torch.stack((log_a, steps * log_a))
    return torch.view_as_real(torch.view_as_complex(power).exp()).movedim(-1, 1).contiguous()


def grid_of(b: Tensor, steps: int) -> tuple[int, int, int]:
    """Return the programs: chunks, blocks of channels, rows."""
    return triton.cdiv(b.shape[1], steps), triton.cdiv(b.shape[3], WIDTH), b.shape[0]


@torch.library.custom_op("audiossm::decay_scan", mutates_args=())
def decay_scan(log_a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    """See `audiossm.kernels.decay_scan`; b is not empty."""
    b, state = lanes(b), state.contiguous()
    (batch, length, _, channels), steps = b.shape, chunk_length(b.shape[1])
    grid, decay = grid_of(b, steps), decays(log_a, steps)
    ends, out = decay.new_empty(batch, grid[0], 2, channels), torch.empty_like(b, memory_format=torch.contiguous_format)
    strides = b.stride()[:3]
    with on_device(b):
        chunk_ends[grid](b, decay, ends, length, channels, *strides, steps, H=WIDTH)
        chunk_states[grid](b, decay, ends, state, out, length, channels, *strides, steps, H=WIDTH)
    return out


@torch.library.custom_op("audiossm::decay_scan_backward", mutates_args=())
def decay_scan_backward(log_a: Tensor, x: Tensor, state: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of log a, of b and of the state, given the states x (B, L, 2, H) and their gradient."""
    grad, state = lanes(grad), state.contiguous()
    (batch, length, _, channels), steps = x.shape, chunk_length(x.shape[1])
    grid, conjugate = grid_of(x, steps), decays(torch.stack((log_a[:, 0], -log_a[:, 1]), dim=1), steps)
    ends = conjugate.new_empty(batch, grid[0], 2, channels)
    parts, out = torch.empty_like(ends), torch.empty_like(x)
    turned, strides = grad[:, -1:], (grad.stride(0), -grad.stride(1), grad.stride(2))
    with on_device(x):
        chunk_ends[grid](turned, conjugate, ends, length, channels, *strides, steps, H=WIDTH)
        chunk_adjoints[grid](
            turned, conjugate, ends, torch.zeros_like(state), x, state, out, parts,
            length, channels, *strides, steps, H=WIDTH,
        )  # fmt: skip
    a_bar = torch.complex(*conjugate[0])
    of_log_a = torch.view_as_real(a_bar * torch.complex(*parts.sum((0, 1)))).to(log_a.dtype)
    first = torch.complex(out[:, 0, 0], out[:, 0, 1]) * a_bar
    return of_log_a, out, torch.stack((first.real, first.imag), dim=1).to(state.dtype)


@decay_scan.register_fake
def _(log_a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    return torch.empty_like(b, memory_format=torch.contiguous_format)


@decay_scan_backward.register_fake
def _(log_a: Tensor, x: Tensor, state: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(log_a), torch.empty_like(x), torch.empty_like(state)


def remember(ctx, inputs: tuple, output: Tensor) -> None:
    """Keep what the backward reads."""
    log_a, _, state = inputs
    ctx.save_for_backward(log_a, output, state)


def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `decay_scan_backward`."""
    return decay_scan_backward(*ctx.saved_tensors, grad)


decay_scan.register_autograd(backward, setup_context=remember)

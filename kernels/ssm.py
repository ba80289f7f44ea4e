"""The time-invariant diagonal state space model as a convolution with a state (S4D, Gu et al. 2022).

    x_n = a x_{n-1} + u_n          y_n = 2 Re(c · x_n) + d u_n

with a, c, x complex. The step of the input, dt B, is a factor of c: callers fold it in.

Glossary: B batch, H channels, L length, N complex modes a channel (half the state size that papers count), Q chunk
length, K chunks. A pair is a complex number on a last axis of 2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from audiossm.kernels import pairs
from audiossm.kernels.channelwise import channelwise
from audiossm.kernels.dispatch import exporting, on_gpu
from audiossm.kernels.scan import decay_scan

FEW = 8  # up to this length, a live frame, channels stay last and nothing is transposed
LONGEST_CHUNK = 48  # a chunk costs q² products a channel, and as many to make its matrix


def ssm_conv_reference(
    u: Tensor, log_a: Tensor, c: Tensor, d: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `ssm_conv` as its definition says, one sample after another."""
    a, x, out = pairs.exp(log_a), zeros(u, log_a) if state is None else state, []
    for n in range(u.shape[-1]):
        v = u[..., n]  # (B, H)
        x = pairs.mul(a, x) + torch.stack((v, torch.zeros_like(v)), -1).unsqueeze(-2)  # (B, H, N, 2)
        out.append(2 * pairs.mul(c, x)[..., 0].sum(-1) + d * v)
    return (torch.stack(out, dim=-1) if out else u), x


def ssm_conv(u: Tensor, log_a: Tensor, c: Tensor, d: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Run a diagonal SSM over a sequence from a state, in block form.

    Inside a chunk the outputs are a lower-triangular Toeplitz matrix times the inputs plus a matrix times the chunk's
    first state; the chunks' states follow by a short scan with decay a^Q. No (H, N, L) tensor is made. A sequence of a
    few samples, a frame of an exported model, is one block. On a GPU one kernel does all of it.

    Args:
        u: (B, H, L) inputs, in any memory layout; float32, bfloat16 or float16 on a GPU.
        log_a: (H, N, 2) logarithm of the decay a; Re < 0.
        c: (H, N, 2) output weights, input step folded in.
        d: (H,) skip.
        state: (B, H, N, 2) x_0; None is zero.

    Returns:
        y (B, H, L) and the state x_L (B, H, N, 2).
    """
    if exporting() or not on_gpu(u, log_a):
        y, x = _in_torch(u.to(log_a.dtype), log_a, c, d, zeros(u, log_a) if state is None else state)
    else:
        y, x = _in_triton(u, log_a, c, d, state)
    return y.to(u.dtype), x if state is None else x.to(state.dtype)


def zeros(u: Tensor, log_a: Tensor) -> Tensor:
    """Return the zero state (B, H, N, 2)."""
    return log_a.new_zeros(u.shape[0], *log_a.shape)


def _in_triton(u: Tensor, log_a: Tensor, c: Tensor, d: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Run `ssm_conv` as Triton kernels, which hold a channel's modes on the chip: too many take several calls.

    They read and write steps side by side. Inputs whose channels lie so, as in a layer, are turned here and the outputs
    turned back, so that the backward keeps and gets them turned.
    """
    from audiossm.kernels.gpu.layout import channels_last, turned, turned_back
    from audiossm.kernels.gpu.ssm_conv import MOST_MODES, ssm_conv

    if channels_last(u):
        y, x = _in_triton(turned(u), log_a, c, d, state)
        return turned_back(y), x
    y, x = ssm_conv(u, log_a[:, :MOST_MODES], c[:, :MOST_MODES], d, None if state is None else state[:, :, :MOST_MODES])
    if log_a.shape[1] <= MOST_MODES:
        return y, x
    others = None if state is None else state[:, :, MOST_MODES:]
    z, x_others = _in_triton(u, log_a[:, MOST_MODES:], c[:, MOST_MODES:], torch.zeros_like(d), others)
    return y + z, torch.cat((x, x_others), dim=2)


def _in_torch(u: Tensor, log_a: Tensor, c: Tensor, d: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Run `ssm_conv` as a few matrix products."""
    length = u.shape[-1]
    if length == 0:
        return u, state
    if length <= FEW:
        return _few(u, log_a, c, d, state)
    q = chunk_length(length)
    whole = length // q * q
    y, state = _chunks(u[..., :whole], log_a, c, d, state, q)
    if whole < length:
        tail, state = _in_torch(u[..., whole:], log_a, c, d, state)
        y = torch.cat((y, tail), dim=-1)
    return y, state


def chunk_length(length: int) -> int:
    """Return the longest chunk that cuts a length without a rest, if there is one of at least half the longest."""
    if length <= LONGEST_CHUNK:
        return length
    return next((q for q in range(LONGEST_CHUNK, LONGEST_CHUNK // 2, -1) if length % q == 0), LONGEST_CHUNK)


def _few(u: Tensor, log_a: Tensor, c: Tensor, d: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Run `ssm_conv` over a few samples as two small matrices a channel, channels last and complex planes apart."""
    within, reads, writes = (matrix.permute(2, 1, 0) for matrix in ssm_block(log_a, c, d, u.shape[-1]))
    v = u.transpose(1, 2)  # (B, L, H)
    x = state.permute(0, 3, 2, 1)  # (B, 2, N, H)
    y = channelwise(reads, x.flatten(1, 2)) + channelwise(within, v)
    x = rotate(u.shape[-1] * log_a, x) + channelwise(writes, v).unflatten(1, (2, -1))
    return y.transpose(1, 2), x.permute(0, 3, 2, 1)


def rotate(log_a: Tensor, x: Tensor) -> Tensor:
    """Return a · x for log a (H, N, 2) and planes x (B, 2, N, H)."""
    re, im = pairs.exp(log_a).permute(2, 1, 0)  # each (N, H)
    return x * torch.stack((re, re)) + x.flip(1) * torch.stack((-im, im))


def _chunks(u: Tensor, log_a: Tensor, c: Tensor, d: Tensor, state: Tensor, q: int) -> tuple[Tensor, Tensor]:
    """Run `ssm_conv` over K whole chunks of q samples as batched matrix products."""
    batch, channels, length = u.shape
    modes, chunks = log_a.shape[1], length // q
    within, reads, writes = ssm_block(log_a, c, d, q)
    # A channel leads: one product over (B K) rows each. Laid out so once, or every product would copy it.
    v = u.transpose(0, 1).reshape(channels, batch * chunks, q).contiguous()
    added = (v @ writes).reshape(channels, batch, chunks, 2, modes).permute(1, 2, 3, 0, 4).flatten(3)  # (B, K, 2, H N)
    first = state.permute(0, 3, 1, 2).flatten(2)  # (B, 2, H N)
    path = torch.cat((first.unsqueeze(1), decay_scan((q * log_a).flatten(0, 1), added, first)), dim=1)
    starts = path[:, :-1].unflatten(3, (channels, modes)).permute(3, 0, 1, 2, 4)  # (H, B, K, 2, N)
    y = v @ within + starts.reshape(channels, batch * chunks, 2 * modes) @ reads
    final = path[:, -1].unflatten(2, (channels, modes)).permute(0, 2, 3, 1)
    return y.reshape(channels, batch, length).transpose(0, 1), final


def ssm_block(log_a: Tensor, c: Tensor, d: Tensor, q: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a block's matrices: inputs to outputs (H, q, q), state to outputs (H, 2N, q), inputs to state (H, q, 2N).

    The 2N real numbers of a state are all real parts, then all imaginary parts.
    """
    power = pairs.powers(log_a, q + 1)  # (H, N, q + 1, 2)
    out = 2 * pairs.mul(c.unsqueeze(-2), power)  # 2 c a^t
    kernel = out[..., :q, 0].sum(1)  # (H, q)
    kernel = torch.cat((kernel[:, :1] + d[:, None], kernel[:, 1:]), dim=1)
    # Row s of the Toeplitz matrix is the kernel delayed by s: windows of the kernel behind q - 1 zeros.
    within = F.pad(kernel, (q - 1, 0)).unfold(-1, q, 1).flip(1)
    # Re(w x) = Re w Re x - Im w Im x
    reads = torch.cat((out[..., 1:, 0], -out[..., 1:, 1]), dim=1)  # (H, 2N, q)
    writes = power[:, :, :q].flip(2).permute(0, 2, 3, 1).flatten(2)  # a^(q-1-s)
    return within, reads, writes

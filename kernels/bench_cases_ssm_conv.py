"""What the bench measures of `ssm_conv`: beside the same chunks in plain torch, and the FFT form with its kernel."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from audiossm.kernels import pairs, ssm
from audiossm.kernels.bench import Case
from audiossm.kernels.fft_conv import fft_conv
from audiossm.kernels.vandermonde import vandermonde

SHAPES = (  # B, H, N (real), L
    (16, 256, 64, 16384, torch.float32),
    (16, 256, 64, 16384, torch.bfloat16),
    (16, 256, 64, 16000, torch.float32),
    (16, 256, 64, 65536, torch.float32),
    (64, 256, 64, 16384, torch.float32),
    (16, 64, 64, 16384, torch.float32),
    (1, 256, 64, 16384, torch.float32),
    (1, 64, 64, 1_000_000, torch.float32),
    (8, 64, 64, 16000, torch.float32),  # a layer of SaShiMi
    (64, 100, 64, 50, torch.float32),  # and of a keyword model
    (64, 100, 64, 3000, torch.float32),
)


def inputs(shape: Sequence[int], dtype: torch.dtype, turned: bool, device: torch.device) -> list[Tensor]:
    """Return u, log a, c and d of an S4D layer (its "lin" modes, steps from 0.001 to 0.1)."""
    batch, channels, states, length = shape
    dt = torch.logspace(-3, -1, channels, device=device)[:, None, None]
    n = torch.arange(states // 2, device=device)
    log_a = dt * pairs.pair(torch.full((states // 2,), -0.5, device=device), torch.pi * n)
    c = dt * torch.randn(channels, states // 2, 2, device=device)
    u = torch.randn(batch, length, channels, device=device).transpose(1, 2)
    u = (u if turned else u.contiguous()).to(dtype)
    return [x.requires_grad_() for x in (u, log_a, c, torch.randn(channels, device=device))]


def outputs(*arguments: Tensor) -> Tensor:
    """`ssm_conv` without its last state, as in training."""
    return ssm.ssm_conv(*arguments)[0]


def chunks(u: Tensor, log_a: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The same as matrix products and a scan."""
    return ssm._in_torch(u.to(log_a.dtype), log_a, c, d, ssm.zeros(u, log_a))[0].to(u.dtype)


def fft(u: Tensor, log_a: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The same as one long convolution."""
    return fft_conv(u, vandermonde(c, log_a, u.shape[-1]), d)


def real_fft(u: Tensor, log_a: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """`fft` with the kernel summed up in real numbers, which torch.compile can fuse."""
    t = torch.arange(u.shape[-1], device=u.device)
    angle, size = log_a[..., 1, None] * t, (log_a[..., 0, None] * t).exp()
    kernel = 2 * (size * (c[..., 0, None] * angle.cos() - c[..., 1, None] * angle.sin())).sum(1)
    return fft_conv(u, kernel, d)


@cache
def compiled() -> Any:
    """`real_fft` compiled."""
    return torch.compile(real_fft, dynamic=False)


def case(shape: tuple[int, ...], dtype: torch.dtype, turned: bool = False) -> Case:
    """Return the line of a shape; `turned` with channels side by side, as layers hold them."""
    batch, channels, states, length = shape
    samples = batch * channels * length
    forward, chunk = 2 * samples, 64
    forms = {"chunks": chunks, "fft": fft, "compiled fft": lambda *x: compiled()(*x)}
    return Case(
        op="ssm_conv",
        shape=f"B{batch} H{channels} N{states} L{length}" + " channels last" * turned,
        dtype=str(dtype).removeprefix("torch."),
        inputs=partial(inputs, shape, dtype, turned),
        function=outputs,
        bytes_forward=forward * dtype.itemsize,
        bytes_both=(forward + 3 * samples) * dtype.itemsize,
        flops_forward=2.0 * samples * (chunk + 2 * states),
        flops_both=2.0 * samples * (3 * chunk + 8 * states),
        forms=forms,
    )


def cases() -> list[Case]:
    """Return what to measure."""
    first = SHAPES[0][:4]
    turned = [case(first, dtype, turned=True) for dtype in (torch.float32, torch.bfloat16)]
    return [case(shape[:4], shape[4]) for shape in SHAPES] + turned

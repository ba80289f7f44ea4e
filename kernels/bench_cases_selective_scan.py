"""What the bench measures of `selective_scan`, in Mamba's sizes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from audiossm.kernels.bench import Case
from audiossm.kernels.selective_scan import block, selective_scan, step_of

SHAPES = (  # B, D, N, L, gated
    (8, 512, 16, 16384, False, torch.float32),
    (8, 512, 16, 16384, False, torch.bfloat16),
    (8, 512, 16, 16384, True, torch.float32),
    (8, 512, 16, 16000, False, torch.float32),
    (8, 1536, 16, 16384, False, torch.float32),
    (8, 1536, 16, 16384, False, torch.bfloat16),
    (8, 512, 16, 2048, False, torch.float32),
    (1, 512, 16, 16384, False, torch.float32),
    (8, 512, 64, 4096, False, torch.float32),
)


def inputs(shape: tuple[int, int, int, int, bool], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Return u, δ, A, B, C, D, δ's bias and perhaps a gate, as a Mamba layer begins its training."""
    batch, channels, states, length, gated = shape
    sequences = [torch.randn(batch, channels, length, device=device).to(dtype) for _ in range(3 if gated else 2)]
    weights = [torch.randn(batch, states, length, device=device).to(dtype) for _ in range(2)]
    A = -torch.arange(1.0, states + 1, device=device).repeat(channels, 1)
    bias = torch.logspace(-3, -1, channels, device=device).expm1().log()
    given = (sequences[0], 0.5 * sequences[1], A, *weights, torch.ones(channels, device=device), bias, *sequences[2:])
    return [x.detach().requires_grad_() for x in given]


def outputs(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor, *z: Tensor) -> Tensor:
    """`selective_scan` without its last state, as in training."""
    return selective_scan(u, delta, A, B, C, D, z[0] if z else None, bias, delta_softplus=True)[0]


def torch_form(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """The same with all states in memory and `linear_scan` of them."""
    state = torch.zeros(len(u), *A.shape, device=u.device)
    y, _ = block(A, u.float(), step_of(delta.float(), bias, True), B.float(), C.float(), state)
    return (y + D[:, None] * u).to(u.dtype)


def mamba() -> Callable[..., Any]:
    """Return mamba-ssm's CUDA kernel."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    def call(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor, *z: Tensor) -> Tensor:
        return selective_scan_fn(u, delta, A, B, C, D, z[0] if z else None, bias, delta_softplus=True)

    return call


def case(shape: tuple[int, int, int, int, bool], dtype: torch.dtype) -> Case:
    """Return the line of a shape. Memory is not what bounds it: an H200 needs 0.24 ms for 10^9 exponentials alone."""
    batch, channels, states, length, gated = shape
    samples, weights = batch * channels * length * dtype.itemsize, 2 * batch * states * length * dtype.itemsize
    work = float(batch * channels * length * states)
    return Case(
        op="selective_scan",
        shape=f"B{batch} D{channels} N{states} L{length}" + " gated" * gated,
        dtype=str(dtype).removeprefix("torch."),
        inputs=partial(inputs, shape, dtype),
        function=outputs,
        bytes_forward=(4 if gated else 3) * samples + weights,
        bytes_both=(11 if gated else 8) * samples + 3 * weights,
        flops_forward=7 * work,
        flops_both=7 * work + 18 * work,
        forms={} if gated or states * samples > 1 << 33 else {"states in memory": torch_form},
        peers={"mamba_ssm": mamba},
    )


def cases() -> list[Case]:
    """Return what to measure."""
    return [case(shape[:5], shape[5]) for shape in SHAPES]

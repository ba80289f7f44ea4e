"""What the bench measures of `linear_scan`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from audiossm.kernels.bench import Case
from audiossm.kernels.linear_scan import Prefixes, linear_scan

SHAPES = (  # B, C, L, planes
    (8, 1536, 16384, 1, torch.float32),
    (8, 1536, 16384, 1, torch.bfloat16),
    (8, 1536, 16000, 1, torch.float32),
    (8, 512, 16384, 2, torch.float32),
    (64, 256, 1024, 1, torch.float32),
    (1, 256, 16384, 1, torch.float32),
    (1, 64, 1_000_000, 1, torch.float32),
)


def inputs(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Return decays a little below 1 and noise."""
    batch, channels, length, planes = shape
    size = (batch, channels, 2, length) if planes == 2 else (batch, channels, length)
    a = 0.999 * torch.rand(size, device=device) ** 0.01 / planes**0.5
    return [x.to(dtype).requires_grad_() for x in (a, torch.randn(size, device=device))]


def states(a: Tensor, b: Tensor) -> Tensor:
    """`linear_scan` without its last state, as in training."""
    return linear_scan(a, b)[0]


def torch_form(a: Tensor, b: Tensor) -> Tensor:
    """The form in plain torch that CPUs take."""
    wide = [torch.complex(*x.float().unbind(2)) if x.ndim == 4 else x.float() for x in (a, b)]
    h = Prefixes.apply(*wide, torch.zeros_like(wide[1][..., 0]))
    return (torch.stack((h.real, h.imag), dim=2) if b.ndim == 4 else h).to(b.dtype)


def accelerated_scan() -> Callable[..., Any]:
    """Return accelerated-scan's Triton kernel, from its version 0.3."""
    from accelerated_scan.scalar import scan

    return scan


def case(shape: tuple[int, int, int, int], dtype: torch.dtype) -> Case:
    """Return the line of a shape: a, b and h forward; a, h and their gradients, and b's, backward."""
    batch, channels, length, planes = shape
    numbers = batch * channels * length * planes * dtype.itemsize
    return Case(
        op="linear_scan",
        shape=f"B{batch} C{channels} L{length}" + " complex" * (planes == 2),
        dtype=str(dtype).removeprefix("torch."),
        inputs=partial(inputs, shape, dtype),
        function=states,
        bytes_forward=3 * numbers,
        bytes_both=8 * numbers,
        forms={"pairs of steps": torch_form},
        peers={"accelerated_scan": accelerated_scan} if planes == 1 else {},
    )


def cases() -> list[Case]:
    """Return what to measure."""
    return [case(shape[:4], shape[4]) for shape in SHAPES]

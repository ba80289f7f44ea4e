"""Cases of `cauchy`: the kernel of S4, and the sums that it is made of."""

import torch
from torch import Tensor

from audiossm.kernels.bench import Case
from audiossm.kernels.cauchy import cauchy, dplr_kernel, kernel_of, nodes, products, weights


def cases() -> list[Case]:
    """Return the cases, 32 pairs of poles."""
    return [dplr(256, 32, 16384), sums(256, 32, 8193)]


def dplr(channels: int, modes: int, length: int) -> Case:
    """Return S4's whole kernel."""

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        w = torch.randn(channels, modes, 2, device=device)
        w[..., 0], w[..., 1] = -0.005, torch.arange(modes, device=device) * 0.03
        rest = torch.randn(3, channels, modes, 2, device=device).unbind()
        return tuple(v.requires_grad_() for v in (w, 0.1 * rest[0], *rest[1:]))

    def in_torch(w: Tensor, p: Tensor, b: Tensor, c: Tensor) -> Tensor:
        z = nodes(length, w)
        return kernel_of(products(weights(p, b, c), z, w), z, length)

    return Case(
        op="cauchy",
        shape=f"S4 kernel H{channels} N{2 * modes} L{length}",
        dtype="float32",
        inputs=inputs,
        function=lambda w, p, b, c: dplr_kernel(w, p, b, c, length),
        bytes_forward=4 * channels * (length + 8 * modes),
        bytes_both=4 * channels * (2 * length + 24 * modes),
        forms={"products": in_torch},
    )


def sums(channels: int, modes: int, count: int, rows: int = 4) -> Case:
    """Return the sums alone."""

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        v, w = torch.randn(rows, channels, modes, 2, device=device), torch.randn(channels, modes, 2, device=device) - 4
        height = torch.linspace(0, 50, count, device=device)
        return v.requires_grad_(), torch.stack((torch.zeros_like(height), height), dim=-1), w.requires_grad_()

    return Case(
        op="cauchy",
        shape=f"R{rows} H{channels} {modes} pairs, {count} nodes",
        dtype="float32",
        inputs=inputs,
        function=cauchy,
        bytes_forward=8 * channels * (rows * (count + modes) + modes),
        bytes_both=8 * channels * (rows * (2 * count + 3 * modes) + 3 * modes),
        forms={"products": products},
    )

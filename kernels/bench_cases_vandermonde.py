"""Cases of `vandermonde`: S4D's kernel."""

import torch
from torch import Tensor

from audiossm.kernels.bench import Case
from audiossm.kernels.vandermonde import vandermonde, vandermonde_reference


def cases() -> list[Case]:
    """Return the cases, 32 conjugate pairs."""
    return [case(256, 32, 16384), case(64, 32, 1_000_000)]


def case(channels: int, modes: int, length: int) -> Case:
    """Return one case."""

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        log_a = torch.rand(channels, modes, 2, device=device) * torch.tensor((-0.01, 3.0), device=device)
        return torch.randn(channels, modes, 2, device=device).requires_grad_(), log_a.requires_grad_()

    return Case(
        op="vandermonde",
        shape=f"H{channels} N{2 * modes} L{length}",
        dtype="float32",
        inputs=inputs,
        function=lambda c, log_a: vandermonde(c, log_a, length),
        bytes_forward=4 * channels * (length + 4 * modes),
        bytes_both=4 * channels * (2 * length + 12 * modes),
        forms={"powers": lambda c, log_a: vandermonde_reference(c, log_a, length)},
    )

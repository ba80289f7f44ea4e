"""Cases of `fft_conv`, which is torch's own: what `ssm_conv` is measured against."""

import torch
from torch import Tensor

from audiossm.kernels.bench import Case
from audiossm.kernels.fft_conv import fft_conv


def cases() -> list[Case]:
    """Return the cases."""
    return [case(16, 256, 16384), case(16, 256, 16000), case(1, 256, 16384)]


def case(batch: int, channels: int, length: int) -> Case:
    """Return one case; the kernel is as long as the sequence."""
    size = 4 * batch * channels * length

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        u, kernel = torch.randn(batch, channels, length, device=device), torch.randn(channels, length, device=device)
        return u.requires_grad_(), kernel.requires_grad_(), torch.randn(channels, device=device).requires_grad_()

    return Case(
        op="fft_conv",
        shape=f"B{batch} H{channels} L{length}",
        dtype="float32",
        inputs=inputs,
        function=fft_conv,
        bytes_forward=2 * size + size // batch,
        bytes_both=5 * size + 3 * size // batch,
    )

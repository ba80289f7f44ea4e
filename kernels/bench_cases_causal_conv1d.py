"""Cases of `causal_conv1d`: four taps."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from audiossm.kernels.bench import Case
from audiossm.kernels.causal_conv1d import causal_conv1d


def cases() -> list[Case]:
    """Return the cases: plain and with SiLU, time last and channels last."""
    return [
        case(torch.float32, silu=False),
        case(torch.float32, silu=True),
        case(torch.bfloat16, silu=True),
        case(torch.float32, silu=True, channels_last=True),
        case(torch.bfloat16, silu=True, channels_last=True),
    ]


def case(
    dtype: torch.dtype,
    silu: bool,
    channels_last: bool = False,
    batch: int = 16,
    channels: int = 256,
    length: int = 16384,
) -> Case:
    """Return one case."""
    size = batch * channels * length * dtype.itemsize

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        x = torch.randn(batch, length, channels, device=device, dtype=dtype).transpose(1, 2)
        x = x if channels_last else x.contiguous()
        weight, bias = torch.randn(channels, 4, device=device), torch.randn(channels, device=device)
        return tuple(v.requires_grad_() for v in (x, weight, bias))

    def in_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.conv1d(F.pad(x, (3, 0)), weight.to(x.dtype).unsqueeze(1), bias.to(x.dtype), groups=channels)
        return F.silu(y) if silu else y

    def peer() -> Callable[..., Tensor]:
        from causal_conv1d import causal_conv1d_fn

        return lambda x, weight, bias: causal_conv1d_fn(
            x, weight.to(x.dtype), bias.to(x.dtype), activation="silu" if silu else None
        )

    return Case(
        op="causal_conv1d",
        shape=f"B{batch} H{channels} L{length} W4{' silu' * silu}{' channels last' * channels_last}",
        dtype=str(dtype).removeprefix("torch."),
        inputs=inputs,
        function=lambda x, weight, bias: causal_conv1d(x, weight, bias, silu)[0],
        bytes_forward=2 * size,
        bytes_both=5 * size,
        forms={"conv1d": in_torch},
        peers={"causal_conv1d": peer},
    )

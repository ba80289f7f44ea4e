"""Short causal convolution of each channel with its own few taps, as in front of Mamba's and H3's scans.

    y_t = act(bias + sum_w weight_w x_{t-W+1+w})

Glossary: B batch, H channels, L length, W taps. The state is the last W - 1 inputs.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from audiossm.kernels.channelwise import channelwise
from audiossm.kernels.dispatch import exporting, on_gpu

FEW = 4  # up to this length a graph gets one matrix a channel


def causal_conv1d_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, silu: bool = False, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `causal_conv1d` as its definition says, one output after another."""
    length, past = x.shape[-1], weight.shape[-1] - 1
    inputs = torch.cat((first_state(x, past, initial_state), x), dim=-1)
    out = [(inputs[..., t : t + past + 1] * weight).sum(-1) for t in range(length)]
    y = torch.stack(out, dim=-1) if out else torch.zeros_like(x)
    y = y if bias is None else y + bias[:, None]
    return (F.silu(y) if silu else y), inputs[..., length:]


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, silu: bool = False, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Convolve each channel with its taps, from a state.

    Args:
        x: (B, H, L) inputs, any memory layout: channels last is as fast as time last, and y is laid out as x is.
        weight: (H, W) taps, the last one for the newest input; W from 1 to 8.
        bias: (H,).
        silu: y goes through SiLU.
        initial_state: (B, H, W - 1) the inputs before x, zeros if None.

    Returns:
        y (B, H, L) and the last W - 1 inputs (B, H, W - 1), both as x is.
    """
    state = first_state(x, weight.shape[-1] - 1, initial_state)
    if exporting() and 0 < x.shape[-1] <= FEW:
        return few_steps(x, weight, bias, silu, state)
    if on_gpu(x, state) and not exporting():
        from audiossm.kernels.gpu.causal_conv1d import causal_conv1d as on_the_gpu

        return on_the_gpu(x, weight.float(), None if bias is None else bias.float(), silu, state)
    inputs = torch.cat((state, x), dim=-1)
    if x.numel() == 0:
        return x, inputs[..., x.shape[-1] :]
    wide = torch.promote_types(weight.dtype, x.dtype)
    y = F.conv1d(inputs.to(wide), weight.to(wide).unsqueeze(1), bias, groups=x.shape[1])
    return (F.silu(y) if silu else y).to(x.dtype), inputs[..., x.shape[-1] :]


def first_state(x: Tensor, past: int, state: Tensor | None) -> Tensor:
    """Return the inputs before x."""
    return x.new_zeros(*x.shape[:2], past) if state is None else state.to(x.dtype)


def few_steps(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, state: Tensor) -> tuple[Tensor, Tensor]:
    """Write `causal_conv1d` for a graph: a band matrix a channel, channels last, as a file keeps them."""
    inputs = torch.cat((state.mT, x.mT), dim=1)  # (B, W - 1 + L, H)
    tap = torch.arange(inputs.shape[1]) - torch.arange(x.shape[-1]).unsqueeze(1)  # (L, W - 1 + L)
    within = (tap >= 0) & (tap < weight.shape[-1])
    band = torch.where(within.unsqueeze(-1), weight.T[tap.clamp(0, weight.shape[-1] - 1)], 0)
    y = channelwise(band, inputs)
    y = y if bias is None else y + bias
    return (F.silu(y) if silu else y).mT, inputs[:, x.shape[-1] :].mT

"""A long convolution by FFT in plain torch: what everybody uses for S4, here to be measured against `ssm_conv`."""

import torch
from torch import Tensor


def fft_conv_reference(u: Tensor, kernel: Tensor, d: Tensor | None = None) -> Tensor:
    """Compute `fft_conv` as its definition says, one lag after another."""
    y = torch.zeros_like(u)
    for lag in range(min(u.shape[-1], kernel.shape[-1])):
        y = y + kernel[:, lag, None] * torch.nn.functional.pad(u, (lag, 0))[..., : u.shape[-1]]
    return y if d is None else y + d[:, None] * u


def fft_conv(u: Tensor, kernel: Tensor, d: Tensor | None = None) -> Tensor:
    """Return y_t = sum_s kernel_s u_{t-s} + d u_t, padded so that nothing wraps round; float32 inside, or float64.

    Args:
        u: (B, H, L) inputs.
        kernel: (H, K) kernel of each channel, of any length.
        d: (H,) skip.

    Returns:
        (B, H, L), as u is.
    """
    length = u.shape[-1]
    if u.numel() == 0 or kernel.shape[-1] == 0:
        return torch.zeros_like(u) if d is None else (d[:, None] * u).to(u.dtype)
    dtype = torch.promote_types(u.dtype, torch.float32)
    kernel = kernel[:, :length].to(dtype)
    size = smooth(length + kernel.shape[-1] - 1)
    spectrum = torch.fft.rfft(u.to(dtype), n=size) * torch.fft.rfft(kernel, n=size)
    y = torch.fft.irfft(spectrum, n=size)[..., :length]
    return (y if d is None else y + d[:, None] * u).to(u.dtype)


def smooth(least: int) -> int:
    """Return the smallest even product of twos, threes and fives from `least` on, for which FFTs are fast."""
    best = 1 << max(1, (least - 1).bit_length())
    for fives in range(least.bit_length() // 2):
        for threes in range(least.bit_length()):
            odd = 5**fives * 3**threes
            best = min(best, odd << max(1, (-(-least // odd) - 1).bit_length()))
    return best

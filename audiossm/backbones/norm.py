"""Batch normalisation of channels that come last."""

from torch import Tensor, nn


class ChannelNorm(nn.BatchNorm2d):
    """BatchNorm over every axis of (..., H) but the last. In eval mode it is u · scale + shift, constants of a file."""

    def forward(self, u: Tensor) -> Tensor:
        """Normalise u (..., H)."""
        if self.training:
            # As an image with channels last: torch's fast path for this memory layout.
            image = u.reshape(1, -1, 1, u.shape[-1]).permute(0, 3, 1, 2)
            return super().forward(image).permute(0, 2, 3, 1).reshape(u.shape)
        scale, shift = self.constants()
        return u * scale + shift

    def constants(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift (H,) of eval mode."""
        assert self.running_mean is not None and self.running_var is not None
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

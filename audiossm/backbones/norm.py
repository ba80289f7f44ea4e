"""Batch normalisation of channels that come last."""

from torch import Tensor, nn


class ChannelNorm(nn.BatchNorm1d):
    """BatchNorm over every axis of (..., H) but the last. In eval mode it is u · scale + shift, constants of a file."""

    def forward(self, u: Tensor) -> Tensor:
        """Normalise u (..., H)."""
        if self.training:
            return super().forward(u.reshape(-1, u.shape[-1])).reshape(u.shape)
        assert self.running_mean is not None and self.running_var is not None
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return u * scale + (self.bias - self.running_mean * scale)

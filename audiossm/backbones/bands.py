"""A block over time and over the bands of a spectrum."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.backbones.norm import ChannelNorm
from audiossm.mixers.base import Mixer, State


class BandBlock(Mixer):
    """P bands of C channels, side by side: v = u + GLU(W gelu(mixer(norm(u)))), then v + M gelu(norm(v)).

    Over time each channel of each band has a system of its own; channels are mixed by W, which all bands share, and
    bands by M, which all channels share. So a frame is two small matrix products, whatever its parameters are.

    Args:
        mixer: from (B, L, P C) to (B, L, P C), of channels that never meet.
        bands: P.
        channels: C.
        dropout: probability that a channel of a sequence is left out, in training.
    """

    def __init__(self, mixer: Mixer, bands: int, channels: int, dropout: float = 0.0):
        super().__init__()
        self.bands, self.channels = bands, channels
        self.norm = ChannelNorm(bands * channels)
        self.mixer = mixer
        self.gate = nn.Linear(channels, 2 * channels)
        self.band_norm = ChannelNorm(bands * channels)
        self.across = nn.Parameter(torch.randn(bands, bands) / bands)
        self.dropout = nn.Dropout1d(dropout)
        self.streamable, self.any_rate = mixer.streamable, mixer.any_rate

    def initial_state(self, batch: int) -> State:
        """Return the mixer's zero state."""
        return self.mixer.initial_state(batch)

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, P C) to (B, L, P C)."""
        y, state = self.mixer(self.norm(u), state, rate=rate)
        u = u + self.drop(F.glu(self.gate(F.gelu(self.apart(y))), dim=-1).flatten(2))
        return u + self.drop((self.across @ self.apart(F.gelu(self.band_norm(u)))).flatten(2)), state

    def apart(self, u: Tensor) -> Tensor:
        """Return u (B, L, P C) as (B, L, P, C)."""
        return u.unflatten(-1, (self.bands, self.channels))

    def drop(self, y: Tensor) -> Tensor:
        """Leave out channels of y (B, L, P C), each over all of time."""
        return self.dropout(y.transpose(1, 2)).transpose(1, 2) if self.training and self.dropout.p else y

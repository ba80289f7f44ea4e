"""Enhancement: speech in noise to the speech, sample for sample, a fixed time later.

Two encoders under one law. On the spectrum a stack over time and bands draws a mask of bounded complex gains. On the
waveform SaShiMi's U-Net maps samples to samples, in the manner of aTENNuate (Pei et al. 2024, arXiv 2409.03377).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from audiossm.backbones import ChannelNorm, Stack
from audiossm.backbones.bands import BandBlock
from audiossm.backbones.places import EveryPlace
from audiossm.backbones.sashimi import SaShiMi
from audiossm.mixers import S4D
from audiossm.mixers.base import Mixer, State, part, whole
from audiossm.mixers.catalog import build_mixer, find_mixer
from audiossm.tasks.spectrum import Analysis, Compression, Synthesis, erb_bands

LONGEST = 0.020  # seconds of algorithmic latency that a call bears
LONGEST_WINDOW = 0.128  # seconds of a window of the spectrum, which costs its square
STEPS = (0.008, 0.5)  # of S4D at the start, whose memory is 2 / step frames: at 8 ms a frame 2 s to 32 ms
FEATURES = 3  # of a band: magnitude, real and imaginary part


@dataclass(frozen=True)
class EnhancementConfig:
    """What an enhancement model is built from.

    Attributes:
        rate: native rate in Hz, that of the training data.
        encoder: "spectrum", or "waveform" for layers at the sample rate.
        window: seconds of a window of the spectrum, whose newest sample is the latest: how near harmonics may lie.
        frame: seconds from a window to the next; two frames are the latency.
        bands: of the spectrum's features and of the mask.
        fold: bands side by side that share channels.
        d_model: channels of each group of bands; width at the sample rate of a waveform's encoder.
        layers: blocks; of each tier of a waveform's encoder.
        mixer: over time, a name of `audiossm.mixers.catalog`. S4D has a system for each channel of each group of bands,
            any other mixer is the same in all groups. A waveform's encoder has S4D.
        d_state: N of a channel, where the mixer has such; None: the mixer's own.
        floor: share of the input that stays once the model is trained: with 0.05 noise is 26 dB softer. Holes in a
            spectrum sound worse than what is left of the noise, by 0.1 of PESQ.
        pools: samples that become one at each pool of a waveform's encoder.
        dropout: share of channels left out in training.
    """

    rate: int = 16000
    encoder: str = "spectrum"
    window: float = 0.032
    frame: float = 0.008
    bands: int = 128
    fold: int = 4
    d_model: int = 48
    layers: int = 6
    mixer: str = "s4d"
    d_state: int | None = 8
    floor: float = 0.05
    pools: tuple[int, ...] = (4, 4, 4)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be built."""
        if self.encoder not in ("spectrum", "waveform"):
            raise ValueError(f"encoder must be 'spectrum' or 'waveform', not {self.encoder!r}")
        if find_mixer(self.mixer) is not S4D and self.encoder == "waveform":
            raise ValueError(f"a waveform's encoder has S4D in all layers, not {self.mixer}")
        if not 4000 <= self.rate <= 192000:
            raise ValueError(f"rate, the native one, must be from 4000 to 192000 Hz, not {self.rate}")
        if not 0.001 <= self.frame <= LONGEST / 2:
            raise ValueError(f"frame must be from 0.001 to {LONGEST / 2:g} s, half of the latency, not {self.frame}")
        if not 2 * self.frame <= self.window <= LONGEST_WINDOW:
            raise ValueError(f"window must be from two frames to {LONGEST_WINDOW:g} seconds, not {self.window}")
        if not 0 <= self.floor < 1:
            raise ValueError(f"floor, the share of the input that stays, must be from 0 to below 1, not {self.floor}")
        if min(self.bands, self.fold, self.d_model, self.layers) < 1 or self.bands % self.fold:
            raise ValueError(
                f"bands must be a multiple of fold, and all sizes at least 1, not {self.bands} bands by {self.fold}"
            )


class EnhancementModel(Mixer):
    """Audio (B, L, 1) to enhanced audio, `frame` samples for each frame that it completes.

    y[:, i] is made of u[:, i - delay] and what was before u[:, i - delay + latency]. The state is the network's.

    Attributes:
        network: a `SpectralMask` or a `WaveformNetwork`.
        frame: samples of a call of an exported file.
        delay: samples by which the output lags.
        latency: frame + delay, from a sample's coming to its leaving.
    """

    task: ClassVar[str] = "enhancement"
    config_type = EnhancementConfig

    def __init__(self, config: EnhancementConfig):
        super().__init__()
        self.config = config
        self.network = SpectralMask(config) if config.encoder == "spectrum" else WaveformNetwork(config)
        self.frame, self.delay = self.network.frame, self.network.delay
        self.any_rate, self.native_rate = self.network.any_rate, self.network.native_rate
        self.latency = self.frame + self.delay

    def initial_state(self, batch: int) -> State:
        """Return the network's zero state."""
        return self.network.initial_state(batch)

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, 1) at `rate` Hz to (B, n frame, 1); a waveform's network answers to each sample, (B, L, 1)."""
        return self.network(u, state, rate=rate)


class SpectralMask(Mixer):
    """A mask on a short-time spectrum.

    The spectrum's compressed magnitude, real and imaginary part are averaged over ERB-like bands; groups of bands
    become P places of C channels each; blocks over time and places follow; and each place answers with a complex gain
    for each of its bands, of which real and imaginary part are within -1 to 1. In eval mode `floor` of the input stays.

    State: "analysis.*", "blocks.*", "synthesis.*".
    """

    spread: Tensor
    gather: Tensor
    passing: Tensor

    def __init__(self, config: EnhancementConfig):
        super().__init__()
        self.frame = self.delay = round(config.frame * config.rate)
        half = round(config.window * config.rate / 2)  # of a window, which has half + 1 frequencies
        places, channels = config.bands // config.fold, config.d_model
        self.places = places
        self.analysis, self.synthesis = Analysis(2 * half, self.frame), Synthesis(2 * half, self.frame)
        self.compression, self.floor = Compression(), config.floor
        self.register_buffer("passing", torch.tensor([[config.floor], [0.0]]), persistent=False)
        triangles = erb_bands(config.bands, half + 1, config.rate)
        self.register_buffer("spread", triangles, persistent=False)  # (bands, F): a gain of each frequency
        self.register_buffer("gather", (triangles / triangles.sum(1, keepdim=True)).T.contiguous(), persistent=False)
        self.norm = ChannelNorm(FEATURES * config.bands)
        self.widen = nn.Linear(FEATURES * config.fold, channels)
        self.place = nn.Parameter(0.02 * torch.randn(places, channels))

        self.blocks = Stack(
            BandBlock(over_time(config), places, channels, config.dropout) for _ in range(config.layers)
        )
        self.head = nn.Linear(channels, 2 * config.fold)
        self.head_place = nn.Parameter(torch.zeros(places, 2 * config.fold))
        with torch.no_grad():  # at first the audio passes
            self.head.weight.mul_(0.1)
            self.head.bias.copy_(torch.tensor([1.0, 0.0]).repeat_interleave(config.fold))

    def initial_state(self, batch: int) -> State:
        """Return zeros."""
        parts = {"analysis": self.analysis, "blocks": self.blocks, "synthesis": self.synthesis}
        return whole({name: module.initial_state(batch) for name, module in parts.items()})

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, 1) to (B, K frame, 1) for the K frames that it completes."""
        self.refuse_rate(rate)
        before = {name: part(state, name) if state else None for name in ("analysis", "blocks", "synthesis")}
        spectra, analysis = self.analysis(u, before["analysis"])
        mask, blocks = self.mask(spectra, before["blocks"])
        y, synthesis = self.synthesis(self.apply_mask(spectra, mask), before["synthesis"])
        return y, whole({"analysis": analysis, "blocks": blocks, "synthesis": synthesis})

    def mask(self, spectra: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the gains (B, K, 2, F) of spectra (B, K, 2, F), and the state of the blocks."""
        features = self.norm((self.compression(spectra) @ self.gather).flatten(2))
        grouped = features.unflatten(-1, (FEATURES, self.places, -1)).transpose(2, 3).flatten(3)  # (B, K, P, 3 fold)
        u, state = self.blocks((self.widen(grouped) + self.place).flatten(2), state)
        gains = self.head(u.unflatten(-1, (self.places, -1))) + self.head_place  # (B, K, P, 2 fold)
        gains = gains.unflatten(-1, (2, -1)).transpose(2, 3).flatten(3)  # (B, K, 2, bands)
        return self.bounded(gains) @ self.spread, state

    def bounded(self, gains: Tensor) -> Tensor:
        """Return gains (..., 2, bands) within -1 to 1, of which the real ones let the floor pass."""
        gains = gains.tanh()
        return gains if self.training else (1 - self.floor) * gains + self.passing

    def apply_mask(self, spectra: Tensor, mask: Tensor) -> Tensor:
        """Return the product of complex numbers (B, K, 2, F)."""
        (re, im), (gain_re, gain_im) = spectra.unbind(2), mask.unbind(2)
        return torch.stack((re * gain_re - im * gain_im, re * gain_im + im * gain_re), dim=2)


def over_time(config: EnhancementConfig) -> Mixer:
    """Return what mixes frames: (B, K, P C) to (B, K, P C)."""
    places, channels = config.bands // config.fold, config.d_model
    alike = find_mixer(config.mixer) is not S4D
    width = channels if alike else places * channels
    mixer = build_mixer(config.mixer, width, d_state=config.d_state, dt_min=STEPS[0], dt_max=STEPS[1])
    return EveryPlace(mixer, places) if alike else mixer


class WaveformNetwork(Mixer):
    """SaShiMi's U-Net from samples to samples; in eval mode `floor` of the input stays. State: SaShiMi's."""

    any_rate = True
    delay = 0

    def __init__(self, config: EnhancementConfig):
        super().__init__()
        self.native_rate, self.floor = config.rate, config.floor
        self.widen = nn.Linear(1, config.d_model)
        self.backbone = SaShiMi(
            config.d_model,
            config.layers,
            config.pools,
            unet=True,
            dropout=config.dropout,
            native_rate=config.rate,
            d_state=config.d_state,
        )
        self.frame = self.backbone.periods[-1]
        self.head = nn.Linear(config.d_model, 1)

    def initial_state(self, batch: int) -> State:
        """Return the backbone's zero state."""
        return self.backbone.initial_state(batch)

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, 1) to (B, L, 1): each sample as soon as it has come."""
        h, state = self.backbone(self.widen(u), state, rate=rate)
        y = self.head(h)
        return y if self.training else torch.lerp(y, u, self.floor), state

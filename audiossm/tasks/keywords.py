"""Keywords: audio at any rate to a probability of each word, fifty times a second."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from audiossm.backbones import ChannelNorm, DownPool, hybrid_stack
from audiossm.backbones.hybrid import read_pattern
from audiossm.mixers import Filterbank
from audiossm.mixers.base import Mixer, State, part, whole
from audiossm.mixers.catalog import build_mixer
from audiossm.mixers.filterbank import TICKS_PER_SECOND
from audiossm.tasks.pooling import FadingMean
from audiossm.tasks.waveform import WaveformEncoder

STEP_TICKS = 4  # of the filterbank in a step of the stack: 20 ms
STEPS_PER_SECOND = TICKS_PER_SECOND // STEP_TICKS


@dataclass(frozen=True)
class KeywordConfig:
    """What a keyword model is built from.

    Attributes:
        labels: the classes in order; one that begins with "_" is background and never reported.
        rate: native rate in Hz, that of the training clips.
        encoder: "filterbank", or "waveform": all layers at the sample rate, the literature's classifier.
        channels, modes, readouts: size of the filterbank.
        pattern: what the stack's layers are, repeated to the depth: see `audiossm.backbones.hybrid`.
        d_model, layers: width and depth.
        d_state: N of the mixers that have one, as each counts it; None: each one's own.
        dropout: share of channels left out in training.
        memory: time constant of the pooling at the start, in seconds.
    """

    labels: tuple[str, ...]
    rate: int = 16000
    encoder: str = "filterbank"
    channels: int = 56
    modes: int = 3
    readouts: int = 2
    pattern: str = "s4d"
    d_model: int = 128
    layers: int = 5
    d_state: int | None = 8
    dropout: float = 0.1
    memory: float = 0.5

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown encoder, a wrong pattern, or a rate at which 20 ms are no whole samples."""
        if self.encoder not in ("filterbank", "waveform"):
            raise ValueError(f"encoder must be 'filterbank' or 'waveform', not {self.encoder!r}")
        read_pattern(self.pattern, self.layers)
        if self.rate < 4000 or self.rate % 50:
            raise ValueError(f"rate, the native one, must be a multiple of 50 Hz from 4000, not {self.rate}")


class KeywordModel(Mixer):
    """Encoder, fading mean and a linear layer: audio (B, L, 1) to logits (B, T, classes) at each step of 20 ms.

    The filterbank answers on a clock of 5 ms and four of its ticks are a step of the stack behind it, so that the
    same weights hear every sampling rate. The waveform's encoder has the stack in itself, at the sample rate.
    """

    task: ClassVar[str] = "keywords"
    config_type = KeywordConfig
    any_rate = True

    def __init__(self, config: KeywordConfig):
        super().__init__()
        self.config = config
        self.encoder: Filterbank | WaveformEncoder
        self.stages: tuple[str, ...]  # what follows the norm, by name
        if config.encoder == "waveform":
            self.encoder = WaveformEncoder(
                config.pattern,
                config.d_model,
                config.layers,
                config.d_state,
                config.dropout,
                config.rate,
                STEPS_PER_SECOND,
            )
            self.norm = ChannelNorm(config.d_model)
            self.stages = ("pool",)
        else:
            self.encoder = Filterbank(config.channels, config.modes, config.readouts, config.rate)
            self.norm = ChannelNorm(config.channels)
            self.widen = DownPool(config.channels, config.d_model, STEP_TICKS)
            make = partial(build_mixer, d_model=config.d_model, d_state=config.d_state, dt_min=0.016, dt_max=0.25)
            self.backbone = hybrid_stack(config.pattern, config.d_model, config.layers, make, config.dropout)
            self.stages = ("widen", "backbone", "pool")
        self.pool = FadingMean(config.d_model, config.memory * STEPS_PER_SECOND)
        self.head = nn.Linear(config.d_model, len(config.labels))

    def initial_state(self, batch: int, rate: int | None = None) -> State:
        """Return the zero state for `batch` streams at `rate` Hz."""
        stages = {name: getattr(self, name).initial_state(batch) for name in self.stages}
        return whole({"encoder": self.encoder.initial_state(batch, rate)} | stages)

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map audio u (B, L, 1) in [-1, 1] at `rate` Hz to logits (B, T, classes) for the T steps that it completes."""
        state = state or self.initial_state(u.shape[0], rate)
        features, encoder = self.encoder(u, part(state, "encoder"), rate=rate)
        logits, later = self.classify(features, state)
        return logits, whole({"encoder": encoder}) | later

    def classify(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Map the encoder's features (B, ticks, channels) to logits (B, T, classes); its state is left alone."""
        h, states = self.norm(features), {}
        for name in self.stages:
            h, states[name] = getattr(self, name)(h, part(state, name) if state else None)
        return self.head(h), whole(states)

"""Generation: the samples so far to a distribution of the next one, at the sample rate.

MambaByte's idea for audio (Wang et al. 2024, arXiv 2401.13660): codes in, no tokenizer, and any stack as the byte
model. With pools it is SaShiMi (Goel et al. 2022, arXiv 2202.09729).
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from audiossm.backbones import hybrid_stack
from audiossm.backbones.hybrid import read_pattern
from audiossm.backbones.sashimi import SaShiMi
from audiossm.mixers.base import Mixer, State, log_uniform
from audiossm.mixers.catalog import build_mixer
from audiossm.tasks.quantise import find_coding

# A layer of the mixer "tcn" is one of WaveNet's stacks: ten convolutions that reach 1,024 samples back.
WAVENET = {"taps": 2, "dilations": tuple(2**i for i in range(10))}


@dataclass(frozen=True)
class GenerationConfig:
    """What a generation model is built from.

    Attributes:
        rate: native rate in Hz, that of the training data; None: the recordings' own.
        coding: "mu-law", "linear" or "mixture": see `audiossm.tasks.quantise`.
        components: logistics in a mixture.
        classes: what is to be heard, in order, where the model is told; empty for a model that is not.
        pattern: what the layers are (`audiossm.backbones.hybrid`), repeated to the depth.
        centre: the same for the layers behind the last pool; None: as the others.
        d_model: width at the sample rate.
        layers: of each tier of SaShiMi, or of the whole stack.
        pools: samples that become one at each pool of SaShiMi; none: a plain stack at the sample rate.
        expand: by which each pool widens, and an MLP of a plain stack.
        feed_forward: width of SaShiMi's feed-forward layers over the tier's.
        d_state: N of the mixers that have one, as each counts it; None: each one's own.
        dropout: share of channels left out in training.
    """

    rate: int | None = None
    coding: str = "mu-law"
    components: int = 10
    classes: tuple[str, ...] = ()
    pattern: str = "s4d"
    centre: str | None = None
    d_model: int = 64
    layers: int = 8
    pools: tuple[int, ...] = (4, 4)
    expand: int = 2
    feed_forward: int = 2
    d_state: int | None = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be built."""
        find_coding(self.coding)
        for pattern in filter(None, (self.pattern, self.centre)):
            read_pattern(pattern, self.layers)
        if self.rate is not None and not 1000 <= self.rate <= 192000:
            raise ValueError(f"rate, the native one, must be from 1000 to 192000 Hz, not {self.rate}")
        if self.components < 1 or min(self.pools, default=2) < 2:
            raise ValueError("a mixture has at least 1 component, and a pool makes one step of at least 2")


class GenerationModel(Mixer):
    """Embedding, backbone and a linear layer: codes (B, L) to what is known of the code after each, (B, L, K).

    The code before the first sample is START, one more than there are, and its embedding is zero. A model of classes
    adds the embedding of the class to that of every code.
    """

    task: ClassVar[str] = "generation"
    config_type = GenerationConfig

    def __init__(self, config: GenerationConfig):
        super().__init__()
        self.config, self.coding = config, find_coding(config.coding)
        self.start = self.coding.codes
        if config.coding == "mixture":
            self.embedding: nn.Module = Value(config.d_model, self.start)
        else:
            rows = torch.cat((waves(self.start, config.d_model), torch.zeros(1, config.d_model)))
            self.embedding = nn.Embedding.from_pretrained(rows, freeze=False, padding_idx=self.start)
        self.class_embedding = nn.Embedding(len(config.classes), config.d_model) if config.classes else None
        self.backbone = build_backbone(config)
        outputs = 3 * config.components if config.coding == "mixture" else self.coding.codes
        self.head = nn.Linear(config.d_model, outputs)
        self.streamable, self.any_rate = self.backbone.streamable, self.backbone.any_rate
        self.native_rate = config.rate

    def initial_state(self, batch: int) -> State:
        """Return the backbone's zero state."""
        return self.backbone.initial_state(batch)

    def forward(
        self, codes: Tensor, state: State | None = None, rate: int | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Map codes (B, L) to the outputs (B, L, K) for the code after each; label (B,): the class, if there are any.

        Of a whole clip x_0 .. x_n-1 the codes are START, x_0 .. x_n-2, and the outputs are for x_0 .. x_n-1.
        """
        h, state = self.backbone(self.embed(codes, label), state, rate=rate)
        return self.head(h), state

    def embed(self, codes: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the backbone's input (B, L, H)."""
        h = self.embedding(codes)
        if self.class_embedding is None:
            return h
        if label is None:
            raise ValueError(f"this model is told what to say: give one of its classes ({self.config.classes})")
        return h + self.class_embedding(label).unsqueeze(1)

    def bits(self, outputs: Tensor, codes: Tensor) -> Tensor:
        """Return -log2 of the probability that outputs (..., K) give to codes (...)."""
        return self.coding.bits(outputs, codes)


class Value(nn.Module):
    """A linear layer of the sample's value, for codes too many to have an embedding each; START's is zero."""

    def __init__(self, d_model: int, start: int):
        super().__init__()
        self.start = start
        self.linear = nn.Linear(1, d_model)

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes (..., ) to (..., H)."""
        value = (codes.unsqueeze(-1) - self.start // 2).to(self.linear.weight.dtype) / (self.start // 2)
        return self.linear(value) * (codes != self.start).unsqueeze(-1)


def waves(codes: int, width: int) -> Tensor:
    """Return how embeddings of codes in a row begin, (codes, width): cosines of the code with random frequencies.

    Random Fourier features (Rahimi and Recht 2007): each number has variance 1, as usual, but codes that stand for like
    samples are alike from the start, which a model else has to find out of each of 256. After 226 steps on piano at
    4 kHz a small SaShiMi had 6.5 bits on validation so, and 7.3 with independent numbers.
    """
    place = torch.linspace(-1, 1, codes).unsqueeze(1)
    frequency, phase = log_uniform(width, 1.0, 100.0).exp(), 2 * math.pi * torch.rand(width)
    return math.sqrt(2) * torch.cos(place * frequency + phase)


def build_backbone(config: GenerationConfig) -> Mixer:
    """Build the stack that the config tells, at the sample rate on both sides."""
    sizes: dict[str, Any] = {"d_state": config.d_state, **WAVENET}  # each mixer takes those that it knows
    if config.pools:
        backbone = SaShiMi(
            config.d_model,
            config.layers,
            config.pools,
            config.expand,
            config.feed_forward,
            [config.pattern] * len(config.pools) + [config.centre or config.pattern],
            dropout=config.dropout,
            native_rate=config.rate,
            **sizes,
        )
        slow_down(backbone)
        return backbone

    def mixer(name: str) -> Mixer:
        return build_mixer(name, config.d_model, native_rate=config.rate, **sizes)

    return hybrid_stack(config.pattern, config.d_model, config.layers, mixer, config.dropout, config.expand)


def slow_down(backbone: SaShiMi) -> None:
    """Let slow tiers learn slowly: by 1 / √period of the learning rate, which their parameters carry as `lr_share`.

    A tier has a step for each period of samples, so that its gradients are the mean of as many fewer, with √period the
    noise, and Adam divides by the size of that. At the rate of the samples' tier what the slow ones say stays noise for
    long, in which the samples' tier learns next to nothing: on piano at 4 kHz, with a layer of width 32 in each tier,
    after 300 steps of 8,192 samples at 0.004 it stood at 7.14 bits, just below the entropy of single samples (7.26),
    and at 6.48 with this.
    """
    for k, period in enumerate(backbone.periods):
        ends_here = (backbone.down[k - 1], backbone.up[k - 1]) if k else ()
        for module in (backbone.tiers[k], *backbone.descents[k : k + 1], *ends_here):
            for parameter in module.parameters():
                parameter.lr_share = period**-0.5  # type: ignore[attr-defined]

"""Stacks of unlike layers, told by a pattern such as "s4d*3 attention" or "mamba+mlp attention+experts".

    pattern   one or more layers, with spaces between; it is repeated to the stack's depth
    layer     mixer, mixer+mlp or mixer+experts; with *n behind it, n of them
    mixer     a name of `audiossm.mixers.catalog`; bidirectional:s4d for a pair of them in both directions of time

or "jamba", Jamba's pattern at the depth asked for.

A mixer alone makes S4's block, whose channel layer is a gate (`Block`). With "+mlp" or "+experts" the layer is that of
a Transformer: a residual branch for the mixer and one for the channels (`BranchPair`). So "attention+mlp" is a causal
Transformer, "mamba+experts" is MoE-Mamba (Pióro et al. 2024, arXiv 2401.04081), and `jamba` writes Jamba's pattern.
"""

import re
from collections.abc import Callable

from torch import Tensor, nn

from audiossm.backbones.mlp import GatedMLP
from audiossm.backbones.moe import MixtureOfExperts
from audiossm.backbones.norm import ChannelNorm
from audiossm.backbones.stack import Block, Stack
from audiossm.mixers.base import Mixer, State
from audiossm.mixers.bidirectional import Bidirectional
from audiossm.mixers.catalog import build_mixer, find_mixer

LAYER = re.compile(r"(?P<both>bidirectional:)?(?P<mixer>[\w-]+)(\+(?P<channels>\w+))?(\*(?P<count>[1-9]\d*))?")
CHANNEL_MIXERS = ("mlp", "experts")


class BranchPair(Mixer):
    """u + dropout(mixer(norm(u))), then the same with a channel mixer: the layer of Transformers and of Jamba.

    Args:
        mixer: any mixer from (B, L, H) to (B, L, H).
        channels: one without a state, `GatedMLP` or `MixtureOfExperts`.
        d_model: H.
        dropout: probability that a channel of a sequence is left out, in training.
    """

    def __init__(self, mixer: Mixer, channels: Mixer, d_model: int, dropout: float = 0.0):
        super().__init__()
        self.mixer, self.channels = mixer, channels
        self.mixer_norm, self.channels_norm = ChannelNorm(d_model), ChannelNorm(d_model)
        self.dropout = nn.Dropout1d(dropout)
        self.streamable, self.any_rate = mixer.streamable, mixer.any_rate

    def initial_state(self, batch: int) -> State:
        """Return the mixer's zero state."""
        return self.mixer.initial_state(batch)

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to (B, L, H)."""
        y, state = self.mixer(self.mixer_norm(u), state, rate=rate)
        u = u + self.drop(y)
        y, _ = self.channels(self.channels_norm(u))
        return u + self.drop(y), state

    def drop(self, y: Tensor) -> Tensor:
        """Leave out channels of y (B, L, H), each over all of time."""
        return self.dropout(y.transpose(1, 2)).transpose(1, 2)


def hybrid_stack(
    pattern: str,
    d_model: int,
    depth: int | None = None,
    make: Callable[[str], Mixer] | None = None,
    dropout: float = 0.0,
    expand: int = 2,
    experts: int = 8,
    top: int = 2,
) -> Stack:
    """Build the stack that a pattern tells.

    Args:
        pattern: see the head of this file.
        d_model: H.
        depth: layers; a multiple of the pattern's. None: the pattern once.
        make: builds the mixer of a name of `audiossm.mixers.catalog`; None: each from d_model alone.
        dropout: of every layer.
        expand, experts, top: sizes of "+mlp" and "+experts".

    Raises:
        ValueError: the pattern cannot be read, names an unknown mixer, or does not fit the depth.
    """

    def mixer(name: str) -> Mixer:
        return make(name) if make else build_mixer(name, d_model)

    def layer(both: bool, name: str, channels: str | None) -> Mixer:
        inner = Bidirectional(d_model, lambda _: mixer(name)) if both else mixer(name)
        if channels is None:
            return Block(inner, d_model, dropout)
        if channels == "mlp":
            return BranchPair(inner, GatedMLP(d_model, expand), d_model, dropout)
        return BranchPair(inner, MixtureOfExperts(d_model, experts, top, expand), d_model, dropout)

    return Stack(layer(*parts) for parts in read_pattern(pattern, depth))


def read_pattern(pattern: str, depth: int | None = None) -> list[tuple[bool, str, str | None]]:
    """Return (both directions, mixer, channel mixer) of each layer; raise ValueError as `hybrid_stack` says."""
    if pattern.strip() == "jamba":
        pattern = jamba(8 if depth is None else depth)
    layers: list[tuple[bool, str, str | None]] = []
    for word in pattern.split():
        match = LAYER.fullmatch(word)
        if match is None:
            raise ValueError(
                f"cannot read {word!r} in pattern {pattern!r}: write a layer as 's4d', 's4d*3' or 's4d+mlp*3'"
            )
        mixer, channels = match["mixer"], match["channels"]
        find_mixer(mixer)
        if channels not in (None, *CHANNEL_MIXERS):
            raise ValueError(f"no channel mixer {channels!r} for pattern {pattern!r}: there are mlp and experts")
        layers += [(match["both"] is not None, mixer, channels)] * int(match["count"] or 1)
    if not layers:
        raise ValueError("the pattern is empty: name a mixer for each layer, as in 's4d*3 attention'")
    depth = len(layers) if depth is None else depth
    if depth < 1 or depth % len(layers):
        raise ValueError(
            f"pattern {pattern!r} has {len(layers)} layers, which do not fit into {depth}: "
            f"make the depth a multiple of {len(layers)}, or change the pattern"
        )
    return layers * (depth // len(layers))


def jamba(
    depth: int,
    mixer: str = "mamba",
    period: int = 8,
    offset: int = 4,
    expert_period: int = 2,
    expert_offset: int = 1,
) -> str:
    """Return the pattern of Jamba (Lieber et al. 2024, arXiv 2403.19887, section 3.1), with the offsets of its release.

    Layer i of `depth`, counted from 0, is attention where i mod period = offset, else `mixer`; its channels are mixed
    by experts where i mod expert_period = expert_offset, else by an MLP.

    Raises:
        ValueError: too few layers for one of attention.
    """
    if depth <= offset:
        raise ValueError(f"Jamba's attention is layer {offset + 1} of every {period}, which does not fit into {depth}")
    mixers = ("attention" if i % period == offset else mixer for i in range(depth))
    channels = ("experts" if i % expert_period == expert_offset else "mlp" for i in range(depth))
    return " ".join("+".join(layer) for layer in zip(mixers, channels, strict=True))

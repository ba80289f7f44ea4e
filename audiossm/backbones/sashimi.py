"""SaShiMi: a stack on the waveform's clock around one on a slower clock around one slower still (Goel et al. 2022).

    samples ─┬─ pool ─┬─ pool ─┬─ stack ─ + ─ unpool ─ + ─ stack ─ + ─ unpool ─ + ─ stack ─ + ─ norm
             │        │        └──────────┘            │           │            │           │
             │        └────────────────────────────────┴───────────┘            │           │
             └──────────────────────────────────────────────────────────────────┴───────────┘

Tier 0 is the waveform's; tier k has a step every p_1 ... p_k samples and expand^k times the channels. What an unpooled
step says reaches the samples after it alone, so the whole is causal. The U-Net form has stacks on the way down too, and
a skip from the input of each of their layers to the output of its mirror image on the way up.
"""

from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.backbones.downpool import DownPool
from audiossm.backbones.hybrid import read_pattern
from audiossm.backbones.stack import Stack
from audiossm.backbones.uppool import UpPool
from audiossm.kernels import add_bias, add_norm, bias_gelu, bias_glu, norm
from audiossm.mixers.base import Mixer, State, part, whole
from audiossm.mixers.bidirectional import Bidirectional
from audiossm.mixers.catalog import build_mixer

CHANNELS_APART = ("lssl", "s4", "s4d")  # mixers whose channels never meet: a gated linear layer follows them


Late = tuple[Tensor, Tensor]  # a sequence and a bias (H,) that are still to be added


def joined(u: Tensor, late: Late | None) -> Tensor:
    """Return u with what is still to be added to it."""
    return u if late is None else add_bias(u, *late)


class SaShiMiLayer(Mixer):
    """u + GLU(W gelu(mixer(norm(u)))), then u + W_out gelu(W_in norm(u)): the two residual blocks of SaShiMi.

    Args:
        mixer: any mixer from (B, L, H) to (B, L, H).
        d_model: H.
        ff: channels inside the second block are ff · H; 0: there is none.
        gate: whether the first has its gated linear layer; without it is u + mixer(norm(u)), for mixers that end in a
            linear layer of their own.
        dropout: probability that a channel of a sequence is left out, in training.
    """

    def __init__(self, mixer: Mixer, d_model: int, ff: int = 2, gate: bool = True, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.mixer = mixer
        self.gate = nn.Linear(d_model, 2 * d_model) if gate else None
        self.ff_norm = nn.LayerNorm(d_model) if ff else None
        self.ff_in = nn.Linear(d_model, ff * d_model) if ff else None
        self.ff_out = nn.Linear(ff * d_model, d_model) if ff else None
        self.dropout = nn.Dropout1d(dropout)
        self.streamable, self.any_rate = mixer.streamable, mixer.any_rate

    def initial_state(self, batch: int) -> State:
        """Return the mixer's zero state."""
        return self.mixer.initial_state(batch)

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to (B, L, H)."""
        u, late, state = self.chained(u, None, state, rate)
        return joined(u, late), state

    def chained(
        self, u: Tensor, late: Late | None, state: State | None = None, rate: int | None = None
    ) -> tuple[Tensor, Late | None, State]:
        """Do as `forward` does, but the last sum of the layer before, and of this one, is left to the layer after.

        There it is one with the norm, forward and backward, so that training reads and writes a sequence less.
        """
        if late is None:
            v = norm(u, self.norm.weight, self.norm.bias)
        else:
            u, v = add_norm(u, *late, self.norm.weight, self.norm.bias)
        y, state = self.mixer(v, state, rate=rate)
        if self.gate is not None:
            y = bias_glu(F.linear(F.gelu(y), self.gate.weight), self.gate.bias)
        if self.ff_norm is None or self.ff_in is None or self.ff_out is None:
            return u + self.drop(y), None, state
        u, v = add_norm(u, self.drop(y), None, self.ff_norm.weight, self.ff_norm.bias)
        inner = bias_gelu(F.linear(v, self.ff_in.weight), self.ff_in.bias)
        if self.training and self.dropout.p:
            return u + self.drop(self.ff_out(inner)), None, state
        return u, (F.linear(inner, self.ff_out.weight), self.ff_out.bias), state

    def drop(self, y: Tensor) -> Tensor:
        """Leave out channels of y (B, L, H), each over all of time."""
        return self.dropout(y.transpose(1, 2)).transpose(1, 2) if self.training and self.dropout.p else y


class TierCost(NamedTuple):
    """What a tier asks for: `weights` once every `period` samples, and `state` numbers a sequence for ever."""

    period: int
    weights: int
    state: int


class SaShiMi(Mixer):
    """The backbone of raw waveforms, (B, L, d_model) to (B, L, d_model), at any cut and on a state of constant size.

    Args:
        d_model: H, channels of tier 0.
        layers: in each tier (and, in the U-Net form, in each tier but the last again on the way down).
        pool: p_1, p_2 ...: steps of a tier that make one of the next. (): a single tier.
        expand: a tier has as many times the channels of the one before.
        ff: channels inside a feed-forward block, in those outside; 0: no such blocks.
        mixers: pattern of each tier, the waveform's first, as in `audiossm.backbones.hybrid` but without "+": a mixer,
            or several that repeat. One pattern is for all tiers. Near the waveform s4d or s4 are best; what selects or
            attends pays behind the pools, as in ("s4d", "s4d", "mamba") (Mamba, arXiv 2312.00752, appendix E.4).
        unet: stacks on the way down too.
        dropout: of every residual block.
        native_rate: rate in Hz of the samples, for mixers that may then change it; None: they have no rate.
        **sizes: of the mixers, for all tiers, by the names that these know (d_state ...).

    The published sizes are the defaults: 4.96 million parameters, and 33 thousand for 256 codes in and out of them.
    (5.2 million in the authors' form, which trains S4D's B as well; B is but a factor of C.) Then a step takes

        tier   every        multiply-adds   state
        0      sample              0.30 M    33 k numbers
        1      4 samples           1.05 M    66 k
        2      16 samples          3.80 M   132 k

    with the pools below a tier counted as its own: 0.80 M a sample on average, 12.7 G a second at 16 kHz, and 5.15 M
    for every 16th sample. `costs` tells what other sizes take.

    Attributes:
        tiers: the stack of each tier, the waveform's first, the last in the centre.
        descents: in the U-Net form the stacks on the way down, one for each pool; else none.
        down, up: `DownPool` and `UpPool` between tier k and tier k + 1.
        norm: the last LayerNorm.

    State: "tiers.k.i.*" of layer i of tier k, "descents.k.i.*", "down.k.held", "down.k.count" (steps of tier k that
    wait for a whole group: the phase of its pool, on the CPU whatever holds the rest) and "up.k.group".

    Raises:
        ValueError: no layer, a pool or an expansion below 1, a number of patterns unlike that of tiers, or what a
            pattern or a mixer does not take.
    """

    def __init__(
        self,
        d_model: int = 64,
        layers: int = 8,
        pool: Sequence[int] = (4, 4),
        expand: int = 2,
        ff: int = 2,
        mixers: str | Sequence[str] = "s4d",
        unet: bool = False,
        dropout: float = 0.0,
        native_rate: int | None = None,
        **sizes: Any,
    ):
        super().__init__()
        if d_model < 1 or layers < 1 or expand < 1 or ff < 0 or any(p < 1 for p in pool):
            raise ValueError(
                "SaShiMi wants d_model, layers, expand and each pool to be at least 1, and ff at least 0, "
                f"not {d_model}, {layers}, {expand}, {tuple(pool)} and {ff}"
            )
        patterns = [mixers] * (len(pool) + 1) if isinstance(mixers, str) else list(mixers)
        if len(patterns) != len(pool) + 1:
            raise ValueError(
                f"{len(pool)} pools make {len(pool) + 1} tiers, but {len(patterns)} patterns of mixers are given: "
                "give one for each tier, the waveform's first, or one for all"
            )
        self.pool, self.native_rate = tuple(pool), native_rate
        self.periods = tuple(accumulate(pool, mul, initial=1))  # samples a step of each tier
        self.widths = widths = tuple(d_model * expand**k for k in range(len(patterns)))

        def stack(k: int) -> Stack:
            slower = None if native_rate is None else native_rate / self.periods[k]

            def layer(both: bool, name: str, channels: str | None) -> SaShiMiLayer:
                if channels is not None:
                    raise ValueError(
                        f"a tier's layers have their feed-forward block: write {name!r} without +{channels}"
                    )
                width = widths[k]

                def mixer(_: int) -> Mixer:
                    return build_mixer(name, width, native_rate=slower, **sizes)

                inner = Bidirectional(width, mixer) if both else mixer(width)
                return SaShiMiLayer(inner, width, ff, name in CHANNELS_APART, dropout)

            return Stack(layer(*parts) for parts in read_pattern(patterns[k], layers))

        self.tiers = nn.ModuleList(stack(k) for k in range(len(patterns)))
        self.descents = nn.ModuleList(stack(k) for k in range(len(pool)) if unet)
        between = list(zip(widths, widths[1:], pool, strict=False))
        self.down = nn.ModuleList(DownPool(outer, inner, p) for outer, inner, p in between)
        self.up = nn.ModuleList(UpPool(inner, outer, p) for outer, inner, p in between)
        self.norm = nn.LayerNorm(d_model)
        self.streamable = all(tier.streamable for tier in self.stacks())
        self.any_rate = all(tier.any_rate for tier in self.stacks())

    def stacks(self) -> list[Stack]:
        """Return all stacks, those of the tiers first."""
        return [*self.tiers, *self.descents]  # type: ignore[list-item]

    def initial_state(self, batch: int) -> State:
        """Return the zero state of every part."""
        return whole({name: module.initial_state(batch) for name, module in self.stateful()})

    def stateful(self) -> list[tuple[str, Any]]:
        """Return what has a state, in the order in which it runs."""
        parts = [(f"tiers.{len(self.pool)}", self.tiers[-1])]
        for k in reversed(range(len(self.pool))):
            descent = [(f"descents.{k}", self.descents[k])] if self.descents else []
            parts = [
                *descent,
                (f"down.{k}", self.down[k]),
                *parts,
                (f"up.{k}", self.up[k]),
                (f"tiers.{k}", self.tiers[k]),
            ]
        return parts

    def phase(self, state: State | None) -> int:
        """Return how many samples of the current period, prod(pool) of them, a state has heard."""
        if state is None:
            return 0
        return sum(int(state[f"down.{k}.count"]) * self.periods[k] for k in range(len(self.pool)))

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to (B, L, H)."""
        if rate is not None and not self.any_rate:
            self.refuse_rate(rate)
        new: dict[str, State] = {}

        def run(name: str, module: nn.Module, u: Tensor, **rate: Any) -> Tensor:
            y, new[name] = module(u, None if state is None else part(state, name), **rate)
            return y

        def layers(name: str, k: int) -> list[Any]:
            stack = self.get_submodule(f"{name}.{k}")
            at = None if rate is None else rate / self.periods[k]
            return [(f"{name}.{k}.{i}", layer, at) for i, layer in enumerate(stack.layers)]  # type: ignore[arg-type]

        skips: list[Tensor] = []
        for k in range(len(self.pool)):
            if self.descents:
                for name, layer, at in layers("descents", k):
                    skips.append(u)
                    u = run(name, layer, u, rate=at)
            skips.append(u)
            u = run(f"down.{k}", self.down[k], u)
        for k in reversed(range(len(self.tiers))):
            if k < len(self.pool):
                fast = skips.pop()
                phase = 0 if state is None else int(state[f"down.{k}.count"])
                u = run(f"up.{k}", self.up[k], u)[:, phase : phase + fast.shape[1]] + fast
            mirrored = self.descents and k < len(self.pool)
            outer, late = u, None
            for name, layer, at in layers("tiers", k):
                u, late, new[name] = layer.chained(u, late, None if state is None else part(state, name), at)
                if mirrored:
                    u, late = joined(u, late) + skips.pop(), None
            u = joined(u, late) if mirrored else joined(u, late) + outer
        return norm(u, self.norm.weight, self.norm.bias), whole(new)

    def costs(self) -> list[TierCost]:
        """Return what each tier costs, its stacks and the pools that end in it.

        Of a step's multiply-adds a linear layer takes one a weight, S4D three a number of its state.
        """
        rows = []
        for k, period in enumerate(self.periods):
            mine = [
                m
                for name, m in self.stateful()
                if name in (f"tiers.{k}", f"descents.{k}", f"up.{k - 1}", f"down.{k - 1}")
            ]
            weights = sum(p.numel() for m in mine for p in m.parameters())
            state = sum(t.numel() for m in mine for t in m.initial_state(1).values())
            rows.append(TierCost(period, weights, state))
        return rows

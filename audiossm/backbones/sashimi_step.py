"""SaShiMi one sample at a time with its state in place: what a CUDA graph can record.

    step = SaShiMiStep(model, state)
    step.slot().copy_(u)            # (B, H) the input of the next sample
    y = step()                      # (B, H) what `model` gives before its last norm
    step.settle()                   # before a recording ends

A slower tier is due with the last sample of a group, and what it says is first heard with the next sample: on a GPU it
takes its step beside that last sample's, on a stream of its own.

A tier's stack of S4D layers is one launch (`audiossm.kernels.layers_step`); other mixers take their own step. The phase
is a Python number, so that what a sample launches is fixed when it is recorded; after prod(pool) samples it is what it
was. Nothing here trains: weights are copied as they are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from audiossm.backbones.sashimi import SaShiMi, SaShiMiLayer
from audiossm.backbones.stack import Stack, layers_of
from audiossm.kernels import Layers, layers_step
from audiossm.mixers.base import Mixer, State, part
from audiossm.mixers.s4d import S4D

Step = Callable[[Tensor, Tensor | None], Tensor]  # (u, added or None), each (B, H), to v + stack(v), v = u + added


class SaShiMiStep:
    """The autoregressive form, from a state that `model` gave.

    Args:
        model: a SaShiMi that streams, in eval mode.
        state: of B sequences.
        rate: as in a call of the model.

    Attributes:
        phase: samples of the present period that were heard.
        period: prod(pool).

    Raises:
        ValueError: the model has stacks on the way down.
    """

    def __init__(self, model: SaShiMi, state: State, rate: int | None = None):
        if model.descents or not model.streamable:
            raise ValueError("the U-Net form and models that hear both directions have no step of this kind")
        self.model, self.phase, self.period = model, model.phase(state), prod(model.pool)
        batch = next(iter(state.values() if not model.pool else [state["up.0.group"]])).shape[0]
        self.stacks: list[Step] = []
        gpu = model.norm.weight.is_cuda
        self.streams = [torch.cuda.Stream() if gpu else None for _ in model.pool]  # of the tier below each
        self.said: dict[int, Tensor] = {}  # what the tier below tier k has said, not yet in the groups
        self.rows: list[Tensor] = []  # (B, p, H) of each tier: the inputs of the group under way
        self.groups = [state[f"up.{k}.group"].clone() for k in range(len(model.pool))]
        self.states: list[Tensor] = []  # what the stacks change in place
        for k, stack in enumerate(model.tiers):
            assert isinstance(stack, Stack)
            at, mine = None if rate is None else rate / model.periods[k], part(state, f"tiers.{k}")
            step, states = (fused if fusable(stack) else plain)(stack, mine, at)  # type: ignore[arg-type]
            self.stacks.append(step)
            self.states += states
            pool = model.pool[k] if k < len(model.pool) else 1
            rows = model.norm.weight.new_zeros(batch, pool, model.widths[k])
            if k < len(model.pool):
                waiting, held = int(state[f"down.{k}.count"]), state[f"down.{k}.held"]
                rows[:, :waiting] = held[:, pool - 1 - waiting :]
            self.rows.append(rows)

    def slot(self) -> Tensor:
        """Return where the next sample's input belongs, (B, H)."""
        return self.rows[0][:, self.phase % self.rows[0].shape[1]]

    def buffers(self) -> list[Tensor]:
        """Return all that a sample changes."""
        return [*self.rows, *self.groups, *self.states]

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Hear the sample in its slot; return (B, H)."""
        y = self.run(0, self.phase)
        self.phase = (self.phase + 1) % self.period
        return y

    def run(self, k: int, n: int) -> Tensor:
        """Take tier k one step on; n counts its own steps."""
        if k == len(self.groups):
            return self.stacks[k](self.rows[k][:, 0], None)
        self.hear(k)
        down: Any = self.model.down[k].linear
        up: Any = self.model.up[k].linear
        pool = self.model.pool[k]
        read = None
        if n % pool == pool - 1:
            with beside(self.streams[k]) as stream:
                slower = self.rows[k + 1]
                slower[:, n // pool % slower.shape[1]] = down(self.rows[k].flatten(1))
                read = None if stream is None else stream.record_event()
                self.said[k] = up(self.run(k + 1, n // pool))
        y = self.stacks[k](self.rows[k][:, n % pool], self.groups[k][:, n % pool])
        if read is not None:  # what comes next is written over the group: not before it was read
            torch.cuda.current_stream().wait_event(read)
        return y

    def hear(self, k: int) -> None:
        """Take over what the tier below tier k has said, if it has."""
        if k in self.said:
            stream = self.streams[k]
            if stream is not None:
                torch.cuda.current_stream().wait_stream(stream)
            self.groups[k].copy_(self.said.pop(k).view_as(self.groups[k]))

    def settle(self) -> None:
        """Wait for all tiers."""
        for k in range(len(self.groups)):
            self.hear(k)


@contextmanager
def beside(stream: torch.cuda.Stream | None) -> Iterator[torch.cuda.Stream | None]:
    """Launch on another stream, as soon as what was launched before is done; None: on this one."""
    if stream is None:
        yield None
        return
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield stream


def fusable(stack: Stack) -> bool:
    """Say whether `layers_step` takes a stack: S4D layers with all their parts."""
    return all(
        type(layer) is SaShiMiLayer and type(layer.mixer) is S4D and layer.gate is not None and layer.ff_in is not None
        for layer in stack.layers
    )


def fused(stack: Stack, state: State, rate: int | None) -> tuple[Step, list[Tensor]]:
    """Return a stack's step as one launch, and what it changes."""
    weights = pack(stack, rate)
    x = torch.stack([state[f"{i}.x"].permute(0, 3, 1, 2) for i in range(len(stack.layers))]).contiguous()
    return partial(one_launch, x, weights), [x]


def one_launch(x: Tensor, weights: Layers, u: Tensor, added: Tensor | None) -> Tensor:
    """Run `layers_step` with its arguments in another order."""
    return layers_step(u, x, weights, added)


@torch.no_grad()
def pack(stack: Stack, rate: int | None = None) -> Layers:
    """Return the numbers of a stack that is `fusable`."""

    def numbers(layer: SaShiMiLayer) -> Layers:
        mixer, gate, ff_in, ff_out = layer.mixer, layer.gate, layer.ff_in, layer.ff_out
        assert isinstance(mixer, S4D) and gate and ff_in and ff_out and layer.ff_norm
        log_a, c = mixer.discrete(rate)
        size, angle = log_a[..., 0].exp(), log_a[..., 1]
        return Layers(
            a=torch.stack((size * angle.cos(), size * angle.sin())),
            c=2 * c.permute(2, 0, 1),
            d=mixer.d,
            norm=torch.stack((layer.norm.weight, layer.norm.bias)),
            gate=gate.weight.unflatten(0, (2, -1)).permute(2, 1, 0),
            gate_bias=gate.bias.unflatten(0, (2, -1)).t(),
            ff_norm=torch.stack((layer.ff_norm.weight, layer.ff_norm.bias)),
            ff_in=ff_in.weight.mT,
            ff_in_bias=ff_in.bias,
            ff_out=ff_out.weight.mT,
            ff_out_bias=ff_out.bias,
        )

    return Layers(*map(torch.stack, zip(*(numbers(layer) for layer in layers_of(stack)), strict=True)))  # type: ignore


def plain(module: Mixer, state: State, rate: int | None) -> tuple[Step, list[Tensor]]:
    """Return any module's step with a skip around it, and what it changes: its own state, overwritten."""
    held = {name: value.clone() for name, value in state.items()}

    def step(u: Tensor, added: Tensor | None) -> Tensor:
        v = u if added is None else u + added
        y, behind = module(v.unsqueeze(1), held, rate=rate)
        for name, value in behind.items():
            held[name].copy_(value)
        return v + y[:, 0]

    return step, list(held.values())

"""One frame of a keyword model as a function of tensors: what an exported file computes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.export.packing import Packing, reverse
from audiossm.export.stack import StackStep, is_one_system
from audiossm.kernels.channelwise import add_rows
from audiossm.mixers import Filterbank
from audiossm.mixers.base import State, part
from audiossm.tasks import KeywordModel
from audiossm.tasks.waveform import WaveformEncoder

PENDING = {"encoder.held", "encoder.clock", "encoder.sum", "widen.held", "widen.count"}


def file_state(state: State, one_system: bool) -> State:
    """Return a model's state as a file keeps it, in the order in which a frame reads it.

    Each part has its axes reversed: channels last, complex planes first. Layers that are one system (`StackStep`) lie
    side by side as one part, (B, 2, N, layers, H). What is pending within a frame is left out: frames are whole ticks
    and whole steps.
    """
    kept = {name: reverse(value) for name, value in state.items() if name not in PENDING}
    if not one_system:
        return kept
    layers = {"backbone.x": torch.stack(list(part(kept, "backbone").values()), dim=3)}
    return {"encoder.modes": kept["encoder.modes"], **layers, "pool.sums": kept["pool.sums"]}


class StateLayout(Packing):
    """How a keyword model's state is packed; `one_system`: whether all layers of its backbone are one part."""

    def __init__(self, model: KeywordModel):
        self.one_system = "backbone" in model.stages and is_one_system(model.backbone)
        super().__init__(file_state(model.initial_state(1), self.one_system))

    def pack(self, state: State) -> Tensor:
        """Return a model's state as (B, size)."""
        return super().pack(file_state(state, self.one_system))


class KeywordFrame(nn.Module):
    """What follows the taps in a frame of a filterbank: (seen (B, 4, K), state (B, S)) to (posteriors, state_out)."""

    def __init__(self, model: KeywordModel):
        super().__init__()
        self.model = model
        self.layout = StateLayout(model)
        self.stack = StackStep(model.backbone) if self.layout.one_system else None

    def forward(self, seen: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return each label's probability at the end of the frame (B, classes), and the state to hand on (B, S)."""
        model, before = self.model, self.layout.unpack(state)
        assert isinstance(model.encoder, Filterbank)
        features, modes = model.encoder.advance(seen, before["encoder.modes"])
        u, layers = self.layers(self.widen(features), before)
        posteriors, sums = decide(model, u, before["pool.sums"])
        return posteriors, torch.cat([value.flatten(1) for value in (modes, *layers, sums)], dim=1)

    def layers(self, u: Tensor, before: State) -> tuple[Tensor, Sequence[Tensor]]:
        """Run one step (B, H) of the backbone; return its output and its states as the file keeps them."""
        if self.stack is not None:
            return self.stack(u, before["backbone.x"])
        states = {name: reverse(value) for name, value in part(self.layout.shaped(before), "backbone").items()}
        y, after = self.model.backbone(u.unsqueeze(1), states)
        return y.squeeze(1), [reverse(value) for value in after.values()]

    def widen(self, features: Tensor) -> Tensor:
        """Return the stack's input (B, H) for a frame's log-power (B, 4, C): norm and linear layer as one matrix."""
        linear = self.model.widen.linear
        scale, shift = (part.repeat(self.model.widen.pool) for part in self.model.norm.constants())
        return F.linear(features.flatten(1), linear.weight * scale, linear.bias + linear.weight @ shift)


class WaveformFrame(nn.Module):
    """A frame of a model on the raw waveform at a rate: (audio (B, samples), state (B, S)) to (posteriors, state_out).

    The stack runs over the frame's samples as it is, in block form.
    """

    def __init__(self, model: KeywordModel, rate: int):
        super().__init__()
        self.model, self.rate = model, rate
        self.layout = StateLayout(model)

    def forward(self, audio: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return each label's probability at the end of the frame (B, classes), and the state to hand on (B, S)."""
        model, before = self.model, self.layout.unpack(state)
        assert isinstance(model.encoder, WaveformEncoder)
        states = {name: reverse(value) for name, value in part(self.layout.shaped(before), "encoder.stack").items()}
        h, after = model.encoder.samples(audio.unsqueeze(-1), states, self.rate)
        mean = add_rows(h / h.shape[1]).squeeze(1)
        posteriors, sums = decide(model, model.norm(mean), before["pool.sums"])
        kept = (*(reverse(value) for value in after.values()), sums)
        return posteriors, torch.cat([value.flatten(1) for value in kept], dim=1)


def decide(model: KeywordModel, u: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities (B, classes) after a step u (B, H), and the sums of the pooling to hand on."""
    sums = sums * model.pool.log_fade().exp() + model.pool.terms(u)  # one step of the pool
    return model.head(model.pool.mean(sums)).softmax(-1), sums


def unstreamable(module: nn.Module) -> Sequence[str]:
    """Name the parts of a module that need the future."""
    return [name or type(m).__name__ for name, m in module.named_modules() if not getattr(m, "streamable", True)]

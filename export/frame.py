"""One frame of a keyword model as a function of tensors: what an exported file computes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.export.stack import StackStep
from audiossm.mixers.base import State, part
from audiossm.tasks import KeywordModel


def file_state(state: State) -> State:
    """Return a model's state as a file keeps it, in the order in which a frame reads it.

    Each part has its axes reversed (channels last, complex planes first), and the layers' states lie side by side as
    one part. What is pending within a frame is left out: frames are whole ticks and whole steps.
    """
    layers = [reverse(x) for x in part(state, "backbone").values()]
    return {
        "encoder.modes": reverse(state["encoder.modes"]),  # (B, 2, M, C)
        "backbone.x": torch.stack(layers, dim=3),  # (B, 2, N, layers, H)
        "pool.sums": state["pool.sums"],  # (B, H + 1)
    }


def reverse(x: Tensor) -> Tensor:
    """Reverse the order of all axes but the first."""
    return x.permute(0, *range(x.ndim - 1, 0, -1))


class StateLayout:
    """How a model's state is packed into one row of floats.

    Attributes:
        parts: (name, shape without the batch axis, offset) of each part.
        sizes: floats of each part.
    """

    def __init__(self, model: KeywordModel):
        kept = file_state(model.initial_state(1))
        self.sizes = [value.numel() for value in kept.values()]
        offsets = [sum(self.sizes[:i]) for i in range(len(kept))]
        self.parts = [
            (name, tuple(value.shape[1:]), offset) for (name, value), offset in zip(kept.items(), offsets, strict=True)
        ]

    @property
    def size(self) -> int:
        """Floats a stream."""
        return sum(self.sizes)

    def pack(self, state: State) -> Tensor:
        """Return a model's state as (B, size)."""
        return torch.cat([value.flatten(1) for value in file_state(state).values()], dim=1)


class KeywordFrame(nn.Module):
    """The part of a frame that follows the taps: (seen (B, 4, K), state (B, S)) to (posteriors, state_out)."""

    def __init__(self, model: KeywordModel):
        super().__init__()
        self.model = model
        self.layout = StateLayout(model)
        self.stack = StackStep(model.backbone)

    def forward(self, seen: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return each label's probability at the end of the frame (B, classes), and the state to hand on (B, S)."""
        model = self.model
        modes, x, sums = state.split(self.layout.sizes, dim=1)
        c, m = model.encoder.channels, model.encoder.modes
        features, modes = model.encoder.read(seen, reverse(modes.unflatten(1, (2, m, c))))
        u, planes = self.stack(self.widen(features), x.unflatten(1, (-1, model.config.layers * model.config.d_model)))
        pooled, after = model.pool(u.unsqueeze(1), {"sums": sums})
        posteriors = model.head(pooled.flatten(1)).softmax(-1)
        kept = (reverse(modes), *planes, after["sums"])
        return posteriors, torch.cat([value.flatten(1) for value in kept], dim=1)

    def widen(self, features: Tensor) -> Tensor:
        """Return the stack's input (B, H) for a frame's log-power (B, 4, C): norm and linear layer as one matrix."""
        linear = self.model.widen.linear
        scale, shift = (part.repeat(self.model.widen.pool) for part in self.model.norm.constants())
        return F.linear(features.flatten(1), linear.weight * scale, linear.bias + linear.weight @ shift)


def unstreamable(module: nn.Module) -> Sequence[str]:
    """Name the parts of a module that need the future."""
    return [name or type(m).__name__ for name, m in module.named_modules() if not getattr(m, "streamable", True)]

"""One frame of a keyword model as a function of tensors: what an exported file computes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from audiossm.mixers.base import State
from audiossm.tasks import KeywordModel

# Frames are whole ticks, so what the filterbank keeps for a tick that has only begun is not part of a file's state.
BETWEEN_TICKS = ("encoder.held", "encoder.clock")


class StateLayout:
    """How a flat dict of states is packed into one row of floats.

    Each part is stored with its axes reversed (channels last, complex planes first): the order in which a frame reads
    it.

    Attributes:
        parts: (name, stored shape without the batch axis, offset) of each part.
        size: floats a stream.
    """

    def __init__(self, state: State):
        self.parts: list[tuple[str, tuple[int, ...], int]] = []
        self.size = 0
        for name, value in state.items():
            if name not in BETWEEN_TICKS:
                self.parts.append((name, tuple(reversed(value.shape[1:])), self.size))
                self.size += value[0].numel()

    def pack(self, state: State) -> Tensor:
        """Return (B, size)."""
        return torch.cat([reverse(state[name]).flatten(1) for name, _, _ in self.parts], dim=1)

    def unpack(self, packed: Tensor) -> State:
        """Return the state as the module knows it."""
        sizes = [math.prod(shape) for _, shape, _ in self.parts]
        rows = packed.split(sizes, dim=1)
        return {name: reverse(row.reshape(-1, *shape)) for (name, shape, _), row in zip(self.parts, rows, strict=True)}


def reverse(x: Tensor) -> Tensor:
    """Reverse the order of all axes but the first."""
    return x.permute(0, *range(x.ndim - 1, 0, -1))


class KeywordFrame(nn.Module):
    """The part of a frame that follows the taps: (seen (B, 4, K), state (B, S)) to (posteriors, state_out)."""

    def __init__(self, model: KeywordModel):
        super().__init__()
        self.model = model
        self.layout = StateLayout(model.initial_state(1))

    def forward(self, seen: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return each label's probability at the end of the frame (B, classes), and the state to hand on (B, S)."""
        before = self.layout.unpack(state)
        features, modes = self.model.encoder.read(seen, before["encoder.modes"])
        logits, after = self.model.classify(features, before)
        return logits[:, -1].softmax(-1), self.layout.pack({"encoder.modes": modes, **after})


def unstreamable(module: nn.Module) -> Sequence[str]:
    """Name the parts of a module that need the future."""
    return [name or type(m).__name__ for name, m in module.named_modules() if not getattr(m, "streamable", True)]

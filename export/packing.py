"""A state as a file keeps it: one row of floats a stream."""

import torch
from torch import Tensor

from audiossm.mixers.base import State


def reverse(x: Tensor) -> Tensor:
    """Reverse the order of all axes but the first: channels last, complex planes first, and back again."""
    return x.permute(0, *range(x.ndim - 1, 0, -1))


class Packing:
    """How named tensors lie in one row of floats a stream.

    Args:
        kept: a state of any batch, in the order and the shapes in which the file keeps it.

    Attributes:
        parts: (name, shape without the batch axis, offset) of each part.
        sizes: floats of each part.
    """

    def __init__(self, kept: State):
        self.sizes = [value[0].numel() for value in kept.values()]
        offsets = [sum(self.sizes[:i]) for i in range(len(kept))]
        self.parts = [
            (name, tuple(value.shape[1:]), offset) for (name, value), offset in zip(kept.items(), offsets, strict=True)
        ]

    @property
    def size(self) -> int:
        """Floats a stream."""
        return sum(self.sizes)

    def pack(self, kept: State) -> Tensor:
        """Return parts as (B, size)."""
        return torch.cat([value.flatten(1) for value in kept.values()], dim=1)

    def unpack(self, packed: Tensor) -> State:
        """Return the parts of (B, size), each still a row of floats a stream."""
        return dict(zip((name for name, _, _ in self.parts), packed.split(self.sizes, dim=1), strict=True))

    def shaped(self, rows: State) -> State:
        """Return parts in their shapes."""
        return {name: rows[name].unflatten(1, shape) for name, shape, _ in self.parts}

    def described(self) -> list[dict[str, object]]:
        """Return the parts as metadata tells them."""
        return [{"name": name, "shape": list(shape), "offset": offset} for name, shape, offset in self.parts]

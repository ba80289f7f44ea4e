"""Both directions of time, for offline use (Vision Mamba: Zhu et al. 2024, arXiv 2401.09417, algorithm 1)."""

from collections.abc import Callable

from torch import Tensor

from audiossm.mixers.base import Mixer, State
from audiossm.mixers.s4d import S4D


class Bidirectional(Mixer):
    """Two mixers, one on the sequence and one on the sequence backward, summed: y = f(u) + flip(g(flip(u))).

    It needs the end of a sequence before its first output, so it cannot stream, has no state, and hears each call as a
    whole sequence.

    Args:
        d_model: H.
        make: builds a mixer from H; it is called twice.
    """

    streamable = False
    when = "for recordings that lie complete on disk: hears both directions of time, and never live"

    def __init__(self, d_model: int, make: Callable[[int], Mixer] = S4D):
        super().__init__()
        self.ahead, self.back = make(d_model), make(d_model)
        self.any_rate = self.ahead.any_rate

    def initial_state(self, batch: int) -> State:
        """Return {}: nothing is handed on."""
        return {}

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map a whole sequence u (B, L, H) to y (B, L, H)."""
        y, _ = self.ahead(u, rate=rate)
        backward, _ = self.back(u.flip(1), rate=rate)
        return y + backward.flip(1), {}

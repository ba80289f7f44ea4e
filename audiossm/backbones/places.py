"""One mixer for many places: the bands of a spectrum, the microphones of an array."""

from torch import Tensor

from audiossm.mixers.base import Mixer, State


class EveryPlace(Mixer):
    """The same mixer over time at each of P places, which do not meet: (B, L, P C) to (B, L, P C).

    Its weights are as many as for one place, its work is that of P rows of a batch.

    Args:
        mixer: from (B, L, C) to (B, L, C).
        places: P.

    State: the mixer's, (B, P ...) for each (B, ...).
    """

    def __init__(self, mixer: Mixer, places: int):
        super().__init__()
        self.mixer, self.places = mixer, places
        self.streamable = mixer.streamable

    def initial_state(self, batch: int) -> State:
        """Return the mixer's zero state at all places."""
        return self.together(self.mixer.initial_state(batch * self.places))

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, P C) to (B, L, P C)."""
        self.refuse_rate(rate)
        rows = u.unflatten(2, (self.places, -1)).transpose(1, 2).flatten(0, 1)  # (B P, L, C)
        y, after = self.mixer(rows, self.apart(state))
        return y.unflatten(0, (-1, self.places)).transpose(1, 2).flatten(2), self.together(after)

    def apart(self, state: State | None) -> State | None:
        """Return a state of B rows as one of B P."""
        return None if state is None else {name: value.flatten(0, 1) for name, value in state.items()}

    def together(self, state: State) -> State:
        """Return a state of B P rows as one of B."""
        return {name: value.unflatten(0, (-1, self.places)) for name, value in state.items()}

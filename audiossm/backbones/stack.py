"""The isotropic stack: residual blocks of one width, each a norm, a mixer and a gated channel layer (S4's block)."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.backbones.norm import ChannelNorm
from audiossm.mixers.base import Mixer, State, part, whole


class Block(Mixer):
    """u + dropout(GLU(W gelu(mixer(norm(u))))).

    Args:
        mixer: any mixer from (B, L, H) to (B, L, H).
        d_model: H.
        dropout: probability that a channel of a sequence is left out, in training.
    """

    def __init__(self, mixer: Mixer, d_model: int, dropout: float = 0.0):
        super().__init__()
        self.norm = ChannelNorm(d_model)
        self.mixer = mixer
        self.gate = nn.Linear(d_model, 2 * d_model)
        self.dropout = nn.Dropout1d(dropout)  # a whole channel at once, over all of time
        self.streamable, self.any_rate = mixer.streamable, mixer.any_rate

    def initial_state(self, batch: int) -> State:
        """Return the mixer's zero state."""
        return self.mixer.initial_state(batch)

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to (B, L, H)."""
        y, state = self.mixer(self.norm(u), state, rate=rate)
        y = F.glu(self.gate(F.gelu(y)), dim=-1)
        return u + self.dropout(y.transpose(1, 2)).transpose(1, 2), state


class Stack(Mixer):
    """Modules of one width, one after another; their states are named by position, "0.x", "1.x" ..."""

    def __init__(self, layers: Iterable[Mixer]):
        super().__init__()
        self.layers: nn.ModuleList = nn.ModuleList(layers)
        self.streamable = all(layer.streamable for layer in layers_of(self))
        self.any_rate = all(layer.any_rate for layer in layers_of(self))

    def initial_state(self, batch: int) -> State:
        """Return every layer's zero state."""
        return whole({str(i): layer.initial_state(batch) for i, layer in enumerate(layers_of(self))})

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to (B, L, H)."""
        states = {}
        for i, layer in enumerate(self.layers):
            u, states[str(i)] = layer(u, None if state is None else part(state, str(i)), rate=rate)
        return u, whole(states)


def layers_of(stack: Stack) -> list[Mixer]:
    """Return a stack's layers, typed."""
    return list(stack.layers)  # type: ignore[arg-type]

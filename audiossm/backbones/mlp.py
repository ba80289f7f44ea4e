"""The gated MLP: a channel mixer, each step by itself."""

from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.mixers.base import Mixer, State


class GatedMLP(Mixer):
    """W_out (silu(W_gate u) · W_value u): SwiGLU (Shazeer 2020, arXiv 2002.05202).

    Args:
        d_model: H.
        expand: channels inside are expand · H.
    """

    def __init__(self, d_model: int, expand: int = 2):
        super().__init__()
        self.widen = nn.Linear(d_model, 2 * expand * d_model, bias=False)
        self.out = nn.Linear(expand * d_model, d_model, bias=False)

    def initial_state(self, batch: int) -> State:
        """Return {}: a step knows no other."""
        return {}

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to (B, L, H)."""
        self.refuse_rate(rate)
        return self.out(gated(self.widen(u))), {}


def gated(x: Tensor) -> Tensor:
    """Return silu(a) · b for the halves a, b of the channels (..., 2F)."""
    a, b = x.chunk(2, dim=-1)
    return F.silu(a) * b

"""Back to the fast clock: one step becomes p."""

import torch
from torch import Tensor, nn

from audiossm.mixers.base import State


class UpPool(nn.Module):
    """A linear layer whose channels unfold into p steps, a group late (SaShiMi: Goel et al. 2022, section 4.2).

    A slow step is known when the last sample of its group is, so it may speak of the next group only: that is the
    causal shift by one.

    Args:
        d_in, d_out: channels before and after.
        pool: p.
    """

    def __init__(self, d_in: int, d_out: int, pool: int):
        super().__init__()
        self.pool = pool
        self.linear = nn.Linear(d_in, pool * d_out)

    def initial_state(self, batch: int) -> State:
        """Return {"group": (batch, p, d_out) the steps of the group under way}."""
        weight = self.linear.weight
        return {"group": weight.new_zeros(batch, self.pool, self.linear.out_features // self.pool)}

    def forward(self, u: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Map u (B, K, d_in) to (B, p (K + 1), d_out): the group under way, then one for each row of u."""
        state = state or self.initial_state(u.shape[0])
        unfolded = self.linear(u).reshape(u.shape[0], u.shape[1] * self.pool, state["group"].shape[-1])
        rows = torch.cat((state["group"], unfolded), dim=1)
        return rows, {"group": rows[:, u.shape[1] * self.pool :]}

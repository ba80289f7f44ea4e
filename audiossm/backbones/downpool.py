"""A slower clock: p steps become one."""

import torch
from torch import Tensor, nn

from audiossm.mixers.base import Mixer, State


class DownPool(Mixer):
    """Fold p steps in a row into the channels, then a linear layer (SaShiMi: Goel et al. 2022, section 4.2).

    Args:
        d_in, d_out: channels before and after.
        pool: p.
    """

    def __init__(self, d_in: int, d_out: int, pool: int):
        super().__init__()
        self.pool = pool
        self.linear = nn.Linear(pool * d_in, d_out)

    def initial_state(self, batch: int) -> State:
        """Return {"held": (batch, p - 1, d_in) the latest steps, "count": (1,) how many of them wait for others}.

        The count is on the CPU, whatever holds the rest: it decides what is computed, and no GPU is asked for it.
        """
        weight = self.linear.weight
        held = weight.new_zeros(batch, self.pool - 1, self.linear.in_features // self.pool)
        return {"held": held, "count": torch.zeros(1, dtype=torch.int64)}

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, d_in) to (B, K, d_out), a row for each group of p steps that u completes."""
        self.refuse_rate(rate)
        waiting = 0 if state is None else int(state["count"])
        state = state or self.initial_state(u.shape[0])
        groups, rest = divmod(waiting + u.shape[1], self.pool)
        steps = torch.cat((state["held"][:, self.pool - 1 - waiting :], u), dim=1) if waiting else u
        folded = steps[:, : groups * self.pool].reshape(u.shape[0], groups, self.linear.in_features)
        held = torch.cat((state["held"], u), dim=1)[:, u.shape[1] :]
        return self.linear(folded), {"held": held, "count": torch.full_like(state["count"], rest)}

"""A mixture of experts: a channel mixer that has many parameters and uses a few of them for each step.

The router and its balance loss are those of Switch Transformers (Fedus et al. 2021, arXiv 2101.03961, equations 1 to
6), with the k best experts weighed as in Mixtral (Jiang et al. 2024, arXiv 2401.04088, section 2.1); the z-loss is that
of ST-MoE (Zoph et al. 2022, arXiv 2202.08906, equation 5).

Glossary: B batch, L length, S = B L steps, H channels, F channels inside an expert, N experts, k of them a step.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.backbones.mlp import gated
from audiossm.mixers.base import Mixer, State


class MixtureOfExperts(Mixer):
    """y = sum of g_i(u) MLP_i(u) over the k experts that the router gives the highest probability p_i at this step.

    The gates g are those p, divided by their sum where k > 1; a single gate stays p, else the router would not learn.
    All experts are computed and the others masked, in matrix products that every runtime knows: 6 N H F operations a
    step, N / k times what the chosen experts need.

    In training an expert takes no more than its capacity, first every step's first choice, in order of the batch; what
    is beyond is dropped. In eval mode nothing is, and a step's experts depend on that step alone.

    Args:
        d_model: H.
        experts: N.
        top: k.
        expand: F is expand · H.
        capacity: in training an expert takes at most capacity · k S / N steps of a batch, rounded up; None: all.

    Attributes:
        balance: of the last call in training, N sum_i f_i P_i: f_i the share of choices that fell on expert i, P_i the
            mean of p_i. 1 where all are used alike. Training adds it to its loss (`routing`, `routing_loss`).
        z: of the last call in training, the mean of (log sum_i exp(logit_i))².
        dropped, choices: how many choices the last call in training dropped, an integer tensor, of how many, k S.

    Raises:
        ValueError: k is not between 1 and N, or the capacity is not positive.
    """

    def __init__(self, d_model: int, experts: int = 8, top: int = 2, expand: int = 2, capacity: float | None = None):
        super().__init__()
        if not 1 <= top <= experts:
            raise ValueError(f"top, the experts a step uses, must be from 1 to {experts} experts, not {top}")
        if capacity is not None and capacity <= 0:
            raise ValueError(f"capacity must be positive (1.25 is usual), or None to drop nothing, not {capacity}")
        self.top, self.capacity = top, capacity
        self.router = nn.Linear(d_model, experts, bias=False)
        self.widen = nn.Parameter(uniform(experts, d_model, 2 * expand * d_model))
        self.out = nn.Parameter(uniform(experts, expand * d_model, d_model))
        self.balance = self.z = self.dropped = torch.zeros(())
        self.choices = 0

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy gets: the losses' values, without the graph behind them."""
        return self.__dict__ | {"balance": self.balance.detach(), "z": self.z.detach()}

    def initial_state(self, batch: int) -> State:
        """Return {}: a step knows no other."""
        return {}

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to (B, L, H)."""
        self.refuse_rate(rate)
        steps = u.flatten(0, 1)  # (S, H)
        inside = gated(steps @ self.widen)  # (N, S, F)
        gates = self.route(steps).t().unsqueeze(-1)  # (N, S, 1)
        return ((gates * inside) @ self.out).sum(0).view_as(u), {}

    def route(self, steps: Tensor) -> Tensor:
        """Return the gate of every expert for steps (S, H), (S, N): zero for those that are not chosen."""
        logits = self.router(steps)
        p = logits.softmax(-1)
        best, chosen = p.topk(self.top)  # (S, k)
        if self.top > 1:
            best = best / best.sum(-1, keepdim=True)
        if self.training:
            best = best * self.note(logits, p, chosen)
        return torch.zeros_like(p).scatter(-1, chosen, best)

    def note(self, logits: Tensor, p: Tensor, chosen: Tensor) -> Tensor:
        """Keep what a task wants to know of the routing; return which choices are kept, (S, k) of 0 and 1."""
        experts, choices = p.shape[-1], chosen.numel()
        self.choices = choices
        taken = F.one_hot(chosen.t().flatten(), experts)  # (k S, N): first choices come first
        share = taken.sum(0) / max(choices, 1)
        self.balance = experts * (share * p.mean(0)).sum()
        self.z = logits.logsumexp(-1).square().mean()
        room = choices if self.capacity is None else math.ceil(self.capacity * choices / experts)
        queue = (taken.cumsum(0) * taken).sum(-1)  # how many an expert has taken, this one counted
        kept = queue <= room
        self.dropped = (~kept).sum()
        return kept.view(self.top, -1).t().to(p.dtype)


def uniform(experts: int, rows: int, columns: int) -> Tensor:
    """Return matrices (experts, rows, columns) as nn.Linear starts its own."""
    return torch.empty(experts, rows, columns).uniform_(-1, 1) / math.sqrt(rows)


def routers(model: nn.Module) -> list[MixtureOfExperts]:
    """List the experts' layers of a model."""
    return [module for module in model.modules() if isinstance(module, MixtureOfExperts)]


def routing(model: nn.Module) -> Tensor:
    """Return a row for each router of a model after a call in training, (R, 3).

    A row is its `balance`, its `z` and the share of its choices that it dropped. The last carries no gradient.
    """
    rows = [torch.stack((r.balance, r.z, r.dropped / max(r.choices, 1))) for r in routers(model)]
    return torch.stack(rows) if rows else next(model.parameters()).new_zeros(0, 3)


def routing_loss(rows: Tensor, balance: float = 0.01, z: float = 0.001) -> Tensor:
    """Return the weighted losses of all routers, given their rows: what is added to a task's loss.

    The weights are Switch Transformers' and ST-MoE's. Without experts it is zero.
    """
    return balance * rows[:, 0].sum() + z * rows[:, 1].sum()

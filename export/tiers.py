"""One step of a generation model as functions of tensors: a graph for each tier of SaShiMi, one for a plain stack."""

from typing import Any

import torch
from torch import Tensor, nn

from audiossm.backbones import SaShiMi
from audiossm.export.stack import StackFrame
from audiossm.tasks import GenerationModel


class FirstTier(nn.Module):
    """The step of every sample: a code in, what is known of the next one out. A plain stack is this tier alone.

    Inputs: `code` (B, 1) int64; `class` (B, 1) int64 in a model of classes; `coarse` (B, H) where there are pools, what
    the next tier says of this sample; `state` (B, S). Outputs: `logits` (B, K); `fine` (B, H), what the next tier
    pools; `state_out`.
    """

    def __init__(self, model: GenerationModel):
        super().__init__()
        backbone: Any = model.backbone
        self.pooled = isinstance(backbone, SaShiMi)
        self.embedding, self.class_embedding, self.head = model.embedding, model.class_embedding, model.head
        self.layers = StackFrame(backbone.tiers[0] if self.pooled else backbone)
        self.norm = backbone.norm if self.pooled else None
        self.inputs = ["code", "state", *(["class"] if model.config.classes else []), *(["coarse"] * self.pooled)]
        self.outputs = ["logits", *(["fine"] * self.pooled), "state_out"]

    def forward(
        self, code: Tensor, state: Tensor, third: Tensor | None = None, fourth: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run one step; the arguments are `inputs`, the results `outputs`."""
        named: dict[str, Any] = dict(zip(self.inputs, (code, state, third, fourth), strict=False))
        fine = self.embedding(named["code"]).squeeze(1)
        if self.class_embedding is not None:
            fine = fine + self.class_embedding(named["class"]).squeeze(1)
        if self.norm is None:
            y, state = self.layers(fine, named["state"])
            return self.head(y), state
        v = fine + named["coarse"]
        y, state = self.layers(v, named["state"])
        return self.head(self.norm(v + y)), fine, state


class SlowTier(nn.Module):
    """The step of tier k >= 1, once for every p steps of the tier before.

    Inputs: `fine` (B, p, H_k-1), what it pools, the oldest first; `coarse` (B, H_k) where there is a slower tier;
    `state`. Outputs: `coarse_out` (B, p, H_k-1) for the next p steps of the tier before; `fine_out` (B, H_k) where
    there is a slower tier; `state_out`.
    """

    def __init__(self, backbone: SaShiMi, k: int):
        super().__init__()
        parts: Any = backbone
        self.pool = backbone.pool[k - 1]
        self.down, self.up = parts.down[k - 1].linear, parts.up[k - 1].linear
        self.layers = StackFrame(parts.tiers[k])
        self.last = k == len(backbone.pool)
        self.inputs = ["fine", "state", *([] if self.last else ["coarse"])]
        self.outputs = ["coarse_out", *([] if self.last else ["fine_out"]), "state_out"]

    def forward(self, fine: Tensor, state: Tensor, coarse: Tensor | None = None) -> tuple[Tensor, ...]:
        """Run one step; the arguments are `inputs`, the results `outputs`."""
        x = self.down(fine.flatten(1))
        v = x if coarse is None else x + coarse
        y, state = self.layers(v, state)
        rows = self.up(v + y).unflatten(1, (self.pool, -1))
        return (rows, state) if self.last else (rows, x, state)


def tiers_of(model: GenerationModel) -> list[Any]:
    """Return a model's tiers as modules, the sample rate's first."""
    backbone = model.backbone
    if not isinstance(backbone, SaShiMi):
        return [FirstTier(model)]
    if backbone.descents:
        raise ValueError("SaShiMi's U-Net form is not written as a file: train the autoregressive form")
    return [FirstTier(model), *(SlowTier(backbone, k) for k in range(1, len(backbone.tiers)))]


def sample_inputs(tier: Any, batch: int = 2) -> list[Tensor]:
    """Return what a tier can be traced with."""
    width = tier.down.in_features // tier.pool if isinstance(tier, SlowTier) else tier.head.in_features
    slow = tier.down.out_features if isinstance(tier, SlowTier) else width
    made = {
        "code": torch.zeros(batch, 1, dtype=torch.int64),
        "class": torch.zeros(batch, 1, dtype=torch.int64),
        "coarse": torch.randn(batch, slow),
        "state": torch.randn(batch, tier.layers.packing.size),
    }
    if isinstance(tier, SlowTier):
        made["fine"] = torch.randn(batch, tier.pool, width)
    return [made[name] for name in tier.inputs]

"""AdamW in groups, with a learning rate that rises and falls: the same for every task."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from audiossm.training.options import Optimisation


def optimiser(model: nn.Module, o: Optimisation, length: Callable[[], float], fused: bool) -> Any:
    """Return what Lightning's `configure_optimizers` does; `length` says how many steps the training has (`clock`).

    Three groups: SSM parameters, those without decay (biases, norms, D), and matrices; each once for every `lr_share`.
    """
    groups: dict[tuple[float, float], list] = {}
    for parameter in model.parameters():
        lr = getattr(parameter, "ssm_lr", None)
        decay = o.weight_decay if lr is None and parameter.ndim == 2 else 0.0
        share = getattr(parameter, "lr_share", 1.0)
        groups.setdefault((o.lr_factor * share * (lr or o.lr), decay), []).append(parameter)
    adamw = torch.optim.AdamW(
        [{"params": p, "lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()], fused=fused
    )

    def factor(step: int) -> float:
        steps = length()
        warmup = max(1, round(o.warmup * steps))
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, factor)
    return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

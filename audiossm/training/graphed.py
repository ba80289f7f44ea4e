"""CUDA graphs: what a training step launches, recorded once for each shape and replayed.

A keyword model is small: one step is some two thousand launches of a few microseconds of work each, so that on a fast
GPU the Python that launches them costs five times the work itself. Recorded, forward and backward are two launches.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Recorded(nn.Module):
    """A function of tensors, a key and a module's parameters as a module, which `make_graphed_callables` wants."""

    def __init__(self, module: nn.Module, function: Callable[..., Any], key: tuple):
        super().__init__()
        self.module, self.function, self.key = module, function, key

    def forward(self, *tensors: Tensor) -> Any:
        """Call the function."""
        return self.function(*tensors, *self.key)


def record(
    module: nn.Module, function: Callable[..., Any], variants: Iterable[tuple[tuple, tuple[Tensor, ...]]]
) -> dict[tuple, Callable[..., Any]]:
    """Record `function(*sample, *key)`, a tensor or some, for each (key, sample) and return {key: replay}.

    The samples give the shapes. Recording runs the module; its buffers (running statistics) are put back. A replay
    computes what the function returns and nothing else: attributes that it sets keep what they were when recorded.
    """
    torch.backends.cuda.preferred_linalg_library("cusolver")  # the other one, MAGMA, waits for the GPU: no graph can
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    pool = torch.cuda.graph_pool_handle()  # the graphs share their scratch memory: they never run at the same time
    graphs: dict[tuple, Callable[..., Any]] = {}
    for key, sample in variants:
        call = Recorded(module, function, key)
        graphs[key] = torch.cuda.make_graphed_callables(call, sample, allow_unused_input=True, pool=pool)  # type: ignore[assignment]
    with torch.no_grad():
        for name, value in module.named_buffers():
            value.copy_(buffers[name])
    return graphs

"""Which tensors the Triton kernels take: those on a GPU of the last years, where triton is installed.

All others take plain torch: those on a CPU, and what is empty or float64.
"""

import contextlib
import importlib.util
import os
from functools import cache

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # triton's own switch: kernels run on the CPU, for tests
INSTALLED = False
with contextlib.suppress(ImportError):  # asked once, here: torch.compile cannot trace it
    INSTALLED = importlib.util.find_spec("triton") is not None


@cache
def capable(device: torch.device) -> bool:
    """Say whether a GPU has what the kernels are written for: tensor cores for TF32 and bfloat16, from Ampere on."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def on_gpu(*tensors: Tensor) -> bool:
    """Say whether the Triton kernels take tensors of one device."""
    if any(x.dtype == torch.float64 or x.numel() == 0 for x in tensors):
        return False
    return (capable(tensors[0].device) if tensors[0].is_cuda else INTERPRETED) and INSTALLED


def exporting() -> bool:
    """Say whether `torch.export` traces this call; torch's own `is_exporting` says so under `torch.compile` too."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def on_device(x: Tensor) -> contextlib.AbstractContextManager:
    """Make the GPU that holds x the one on which kernels are launched."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()

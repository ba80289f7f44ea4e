"""Which tensors the Triton kernels take: those on a GPU, where triton is installed; CPU tensors take plain torch."""

import contextlib
import importlib.util
import os

import torch
from torch import Tensor

INSTALLED = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # triton's own switch: kernels run on the CPU, for tests


def on_gpu(x: Tensor) -> bool:
    """Say whether the Triton kernels take a tensor."""
    return INSTALLED and (x.is_cuda or INTERPRETED)


def on_device(x: Tensor) -> contextlib.AbstractContextManager:
    """Make the GPU that holds x the one on which kernels are launched."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()

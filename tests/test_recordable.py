"""A step on a GPU can be recorded as a CUDA graph: nothing in it is made on the CPU, and nothing waits for a value.

No GPU is needed: tensors are fakes that claim to be on one. Torch refuses to mix them with tensors of the CPU, and to
tell a value that would have to be waited for.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from audiossm.backbones import hybrid_stack
from audiossm.kernels import dispatch
from audiossm.mixers.catalog import known_mixers
from audiossm.mixers.recurrent import Recurrent

PATTERNS = [
    *(name for name, mixer in known_mixers().items() if not issubclass(mixer, Recurrent)),  # cuDNN asks for its GPU
    "s4d+experts",
    "attention+mlp",
    "jamba",
]


def heard(module, u):
    """Return what a training step returns of a module, on a fake GPU, with all outputs of its own."""
    tensors = {
        name: value.detach() for part in (module.named_parameters(), module.named_buffers()) for name, value in part
    }
    with FakeTensorMode() as fakes:
        there = {name: fakes.from_tensor(value).to("cuda") for name, value in tensors.items()}
        y, state = functional_call(module, there, (torch.empty(u, device="cuda"),))
    return y, state


@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_stays_on_the_gpu(pattern, monkeypatch):
    monkeypatch.setattr(dispatch, "capable", lambda device: True)  # so that Triton's kernels are taken, where installed
    y, state = heard(hybrid_stack(pattern, 16), (3, 70, 16))
    assert {value.device.type for value in (y, *state.values())} == {"cuda"}


class Waiting(torch.nn.Module):
    """A plant: it asks for a value."""

    def forward(self, u):
        return u * u.sum().item(), {}


class Mixing(torch.nn.Module):
    """A plant: it makes a tensor on the CPU."""

    def forward(self, u):
        return u * torch.arange(u.shape[-1]), {}


@pytest.mark.parametrize("plant", (Waiting(), Mixing()), ids=("waits", "mixes"))
def test_plants_are_found(plant):
    with pytest.raises(RuntimeError):
        heard(plant, (3, 70, 16))

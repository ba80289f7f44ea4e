"""SaShiMi on a GPU, by its kernels, is what it is on a CPU in float64: outputs, gradients, states, in all its forms."""

from copy import deepcopy

import pytest
import torch

from audiossm.backbones import SaShiMi
from audiossm.backbones.sashimi_step import SaShiMiStep

from .kernel_checks import DEVICE, error, noise, on_a_gpu


def both(**sizes):
    torch.manual_seed(0)
    model = SaShiMi(**{"d_model": 64, "layers": 2, "pool": (4, 4)} | sizes)
    return deepcopy(model).to(DEVICE), model.double()


@on_a_gpu
@pytest.mark.parametrize("sizes", ({}, {"unet": True}, {"d_model": 20, "pool": (3,)}, {"ff": 0}), ids=str)
def test_outputs_and_gradients(sizes):
    model, exact = both(**sizes)
    u = noise(3, 1001, model.widths[0]).detach()
    y, state = model(u)
    expected, exact_state = exact(u.double().cpu())
    assert error(y.cpu(), expected) < 1e-4
    assert all(error(state[name].cpu(), exact_state[name]) < 1e-4 for name in state if not name.endswith("count"))
    weight = noise(*y.shape, seed=1).detach()
    (y * weight).sum().backward()
    (expected * weight.double().cpu()).sum().backward()
    for (name, found), wanted in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert error(found.grad.cpu(), wanted.grad) < 1e-3, name


@on_a_gpu
@torch.no_grad()
def test_pieces_and_single_steps():
    model, exact = both()
    u = noise(2, 300, 64).detach()
    expected, _ = exact(u.double().cpu())
    first, state = model(u[:, :230])
    second, _ = model(u[:, 230:], state)
    assert error(torch.cat((first, second), 1).cpu(), expected) < 1e-4
    step, out = SaShiMiStep(model, state), []
    for n in range(230, 300):
        step.slot().copy_(u[:, n])
        out.append(model.norm(step()))
    assert error(torch.stack(out, 1).cpu(), expected[:, 230:]) < 1e-4

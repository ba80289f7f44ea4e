"""What the tests of the Triton kernels share: where kernels run, inputs, and the comparison with float64.

The interpreter has to be chosen before the kernels are imported, so without a GPU a test file runs once more, in a
process of its own, started by its `test_in_the_interpreter`.
"""

import os
import subprocess
import sys

import pytest
import torch

GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if GPU else "cpu"

kernel = pytest.mark.skipif(not (GPU or INTERPRETED), reason="runs in the process of test_in_the_interpreter")
interpreter = pytest.mark.skipif(GPU or INTERPRETED, reason="the kernels run in this process")
on_a_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")


def run_in_the_interpreter(file):
    """Run a test file with kernels interpreted on the CPU."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def noise(*shape, dtype=torch.float32, seed=0):
    """Random numbers, which require a gradient."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype).requires_grad_()


def decays(*shape, slowest=-6.0, fastest=1.0):
    """log a (..., 2) of modes from 10^slowest to 10^fastest a step, at any frequency."""
    spread = torch.linspace(0, 1, int(torch.tensor(shape).prod()), dtype=torch.float64).reshape(shape)
    pair = torch.stack((-(10 ** (slowest + (fastest - slowest) * spread)), 3 * torch.sin(40 * spread)), dim=-1)
    return pair.to(DEVICE, torch.float32).requires_grad_()


def error(found, expected):
    """Relative L2 of a result against one of float64."""
    assert found.shape == expected.shape
    difference = (found.double() - expected).norm() / expected.norm().clamp(min=1e-300)
    return difference.item() if expected.norm() > 0 else found.double().norm().item()


def results(function, inputs):
    """Outputs, then the gradients of all inputs for one random gradient of each output."""
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum((y * noise(*y.shape, seed=i).detach().to(y.dtype)).sum() for i, y in enumerate(outputs))
    wanted = [x for x in inputs if x.requires_grad]
    return *outputs, *torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)


def agree(function, reference, inputs, tolerance=1e-5):
    """Compare outputs and gradients with the reference in float64."""
    exact = [x.detach().double().requires_grad_(x.requires_grad) for x in inputs]
    for i, (f, e) in enumerate(zip(results(function, inputs), results(reference, exact), strict=True)):
        assert error(f, e) < tolerance, f"result {i}: {error(f, e)}"

"""The Triton kernels compute what their references define: on a GPU, else in triton's interpreter on the CPU.

The interpreter has to be chosen before the kernels are imported, so without a GPU this file runs in a process of its
own, started by `test_in_the_interpreter`.
"""

import os
import subprocess
import sys

import pytest
import torch

GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if GPU else "cpu"

pytest.importorskip("triton", reason="triton is not installed here")
kernel = pytest.mark.skipif(not (GPU or INTERPRETED), reason="runs in the process of test_in_the_interpreter")


@pytest.mark.skipif(GPU or INTERPRETED, reason="the kernels run in this process")
def test_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def noise(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype).requires_grad_()


def decays(*shape, slowest=-5.0):
    """log a (..., 2) of slow and fast modes, any frequency."""
    spread = torch.linspace(0, 1, int(torch.tensor(shape).prod()), dtype=torch.float64).reshape(shape)
    pair = torch.stack((-(10 ** (slowest + (0.5 - slowest) * spread)), 3 * torch.sin(40 * spread)), dim=-1)
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
    return *outputs, *torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)


def agree(function, reference, inputs, tolerance=1e-5):
    """Compare outputs and gradients with the reference in float64."""
    exact = [x.detach().double().requires_grad_() for x in inputs]
    for i, (f, e) in enumerate(zip(results(function, inputs), results(reference, exact), strict=True)):
        assert error(f, e) < tolerance, f"result {i}: {error(f, e)}"


# decay_scan


def scan_inputs(length, batch=2, channels=5, dtype=torch.float32):
    state = noise(batch, 2, channels, dtype=dtype)
    return decays(channels, slowest=-3.0), noise(batch, length, 2, channels, dtype=dtype), state


@kernel
@pytest.mark.parametrize("length", (1, 2, 31, 32, 33, 200, *((16000, 100_003) if GPU else ())))
def test_decay_scan(length):
    from audiossm.kernels import decay_scan, decay_scan_reference
    from audiossm.kernels.gpu.decay_scan import WIDTH

    agree(decay_scan, decay_scan_reference, scan_inputs(length, channels=WIDTH + 3 if length == 33 else 5))


@kernel
def test_decay_scan_reads_any_memory_layout():
    from audiossm.kernels import decay_scan, decay_scan_reference

    log_a, b, state = scan_inputs(40)
    turned = b.detach().transpose(1, 3).contiguous().transpose(1, 3).requires_grad_()
    agree(decay_scan, decay_scan_reference, (log_a, turned, state))
    columns = noise(2, 40, 13).detach()[..., 3:].unflatten(-1, (2, 5)).requires_grad_()
    agree(decay_scan, decay_scan_reference, (log_a, columns, state))


@kernel
def test_decay_scan_keeps_a_nan_in_its_row():
    from audiossm.kernels import decay_scan

    log_a, b, state = scan_inputs(70)
    b = b.detach().clone()
    b[0, 50] = torch.nan
    x = decay_scan(log_a, b, state)
    assert x[1].isfinite().all() and x[0, :32].isfinite().all()

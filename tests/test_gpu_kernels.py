"""`decay_scan` in Triton computes what its reference defines, and layouts are turned without loss."""

import pytest
import torch

from .kernel_checks import GPU, agree, decays, kernel, noise, rounding

pytest.importorskip("triton", reason="triton is not installed here")


def scan_inputs(length, batch=2, channels=5, dtype=torch.float32):
    state = noise(batch, 2, channels, dtype=dtype)
    return decays(channels, slowest=-3.0), noise(batch, length, 2, channels, dtype=dtype), state


@kernel
@pytest.mark.parametrize("length", (1, 2, 31, 32, 33, 200, *((16000, 100_003) if GPU else ())))
def test_decay_scan(length):
    from audiossm.kernels import decay_scan, decay_scan_reference
    from audiossm.kernels.gpu.decay_scan import WIDTH

    given = scan_inputs(length, channels=WIDTH + 3 if length == 33 else 5)
    agree(decay_scan, decay_scan_reference, given, rounding(length))


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


@kernel
@pytest.mark.parametrize("shape", ((2, 3, 5), (1, 70, 65), (3, 2, 7), *(((2, 300, 4099),) if GPU else ())))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_channels_last_becomes_steps_last_and_its_gradient_turns_back(shape, dtype):
    from audiossm.kernels.gpu.layout import channels_last, turned, turned_back

    x = noise(*shape, dtype=dtype).detach().mT.contiguous().mT.requires_grad_()
    y = turned(x)
    assert torch.equal(y, x) and y.is_contiguous()
    (grad,) = torch.autograd.grad(y, x, y.detach())
    assert torch.equal(grad, x) and grad.stride() == x.stride()
    assert torch.equal(turned_back(y), x) and channels_last(turned_back(y))

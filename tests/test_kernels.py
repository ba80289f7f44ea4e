"""Each kernel computes what its definition says, states and gradients included."""

import numpy as np
import pytest
import torch

from audiossm.kernels import channelwise, decay_scan, decay_scan_reference, pairs, ssm_conv, ssm_conv_reference
from audiossm.kernels.ssm import FEW, LONGEST_CHUNK

from .kernel_checks import exact_noise as noise

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = (0, 1, 2, FEW, FEW + 1, LONGEST_CHUNK, LONGEST_CHUNK + 1, 100, 211, 300, 5 * LONGEST_CHUNK + 7)


@pytest.fixture
def exporting(monkeypatch):
    """Let kernels write what an exported graph computes."""
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)


def test_what_is_compiled_is_not_exported():
    """torch says that it exports while it compiles: kernels would be lost."""
    from audiossm.kernels.dispatch import exporting

    class Asked(torch.nn.Module):
        def forward(self, x):
            return x + exporting()

    zero = torch.zeros(1)
    assert torch.compile(Asked(), backend="eager", fullgraph=True)(zero) == 0
    assert torch.export.export(Asked(), (zero,)).module()(zero) == 1


def decays(*shape):
    """log a (..., 2) of slow and fast modes: time constants from 3 to 3000 steps, any frequency."""
    spread = torch.linspace(0, 1, int(np.prod(shape)), dtype=torch.float64).reshape(shape)
    return pairs.pair(-(10 ** (-3.5 + 3 * spread)), 3 * torch.sin(40 * spread)).requires_grad_()


def error(found, expected):
    """Relative L2; 0 of two empty tensors."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return ((found - expected).norm() / expected.norm().clamp(min=1e-300)).item()


def gradients(outputs, inputs):
    """The gradients of every input, for one random gradient of every output."""
    loss = sum((y * noise(*y.shape, seed=i).detach()).sum() for i, y in enumerate(outputs))
    return torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)


def agree(function, reference, inputs, tolerance=1e-10):
    """Compare all outputs and all gradients."""
    found, expected = function(*inputs), reference(*inputs)
    found, expected = (r if isinstance(r, tuple) else (r,) for r in (found, expected))
    for f, e in zip(found, expected, strict=True):
        assert error(f, e) < tolerance
    for f, e in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        assert error(f, e) < tolerance


# The time-invariant SSM


def ssm_inputs(length, batch=3, channels=5, modes=7):
    shape = (channels, modes)
    state = noise(batch, *shape, 2)
    return noise(batch, channels, length), decays(*shape), noise(*shape, 2, seed=1), noise(channels), state


@pytest.mark.parametrize("length", LENGTHS)
def test_ssm_conv_is_its_recurrence(length):
    agree(ssm_conv, ssm_conv_reference, ssm_inputs(length))


@pytest.mark.parametrize("shape", ((1, 1, 1), (2, 1, 3), (1, 5, 1)))
@pytest.mark.parametrize("length", (1, FEW + 1, 3 * LONGEST_CHUNK))
def test_ssm_conv_of_one_row_channel_or_mode(shape, length):
    agree(ssm_conv, ssm_conv_reference, ssm_inputs(length, *shape))


def test_ssm_conv_reads_any_memory_layout():
    u, *rest = ssm_inputs(LONGEST_CHUNK + 3)
    turned = u.transpose(1, 2).contiguous().transpose(1, 2)
    assert error(ssm_conv(turned, *rest)[0], ssm_conv(u, *rest)[0]) < 1e-12


@pytest.mark.parametrize("length", (1, FEW, FEW + 1))
def test_ssm_conv_gradients(length):
    assert torch.autograd.gradcheck(ssm_conv, ssm_inputs(length, 2, 3, 2))


def test_ssm_conv_gradients_over_many_chunks():
    assert torch.autograd.gradcheck(ssm_conv, ssm_inputs(2 * LONGEST_CHUNK + 2, 1, 2, 3), fast_mode=True)


@pytest.mark.parametrize("length", (1, 4, FEW))
def test_ssm_conv_as_exported(length, exporting):
    inputs = [t.detach().float() for t in ssm_inputs(length)]
    for found, expected in zip(ssm_conv(*inputs), ssm_conv_reference(*inputs), strict=True):
        assert error(found, expected) < 1e-5


# The scan


def scan_inputs(length, batch=3, channels=5):
    return decays(channels), noise(batch, length, 2, channels), noise(batch, 2, channels)


@pytest.mark.parametrize("length", LENGTHS)
def test_decay_scan_is_its_recurrence(length):
    agree(decay_scan, decay_scan_reference, scan_inputs(length))


@pytest.mark.parametrize("length", (1, 2, FEW, 13))
def test_decay_scan_gradients(length):
    assert torch.autograd.gradcheck(decay_scan, scan_inputs(length, 2, 3))


def test_decay_scan_gradients_when_the_decay_is_fixed():
    log_a, b, state = scan_inputs(11)
    agree(lambda b, x: decay_scan(log_a.detach(), b, x), lambda b, x: decay_scan_reference(log_a, b, x), (b, state))


@pytest.mark.parametrize("length", (0, 1, 4, 11))
def test_decay_scan_as_exported(length, exporting):
    agree(decay_scan, decay_scan_reference, scan_inputs(length))


# The small matrices


def channelwise_reference(matrix, z):
    rows = [[(matrix[o, :, h] * z[:, :, h]).sum(-1) for h in range(z.shape[2])] for o in range(len(matrix))]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1)


@pytest.mark.parametrize("rows, inputs", ((3, 7), (7, 3), (5, 5), (1, 6), (6, 1)))
def test_channelwise_is_a_matrix_for_each_channel(rows, inputs):
    z = noise(3, inputs, 5)
    agree(channelwise, channelwise_reference, (noise(rows, inputs, 5), z))
    assert torch.autograd.gradcheck(channelwise, (noise(rows, inputs, 5), z))


@pytest.mark.parametrize("rows, inputs", ((3, 7), (7, 3), (5, 5), (1, 6), (6, 1)))
def test_channelwise_as_exported(rows, inputs, exporting):
    matrix, z = noise(rows, inputs, 5).detach().float(), noise(3, inputs, 5).detach().float()
    assert error(channelwise(matrix, z), channelwise_reference(matrix, z)) < 1e-6


# Complex numbers as pairs


def complex_numbers(*shape, seed=0):
    return pairs.as_complex(noise(*shape, 2, seed=seed).detach())


def close(found, expected):
    return error(pairs.as_complex(found), expected) < 1e-14


def test_pairs_are_complex_numbers():
    a, b = complex_numbers(3, 1, 7), complex_numbers(5, 7, seed=1)
    za, zb = torch.view_as_real(a), torch.view_as_real(b)
    assert close(pairs.pair(a.real, a.imag), a)
    assert close(pairs.mul(za, zb), a * b)
    assert close(pairs.div(za, zb), a / b)
    assert close(pairs.exp(za), a.exp())
    assert close(pairs.log(za), a.log())
    assert close(pairs.powers(za, 6), a.unsqueeze(-1).exp() ** torch.arange(6))


def test_a_product_is_the_same_as_exported(exporting):
    a, b = complex_numbers(3, 1, 7), complex_numbers(5, 7, seed=1)
    assert close(pairs.mul(torch.view_as_real(a), torch.view_as_real(b)), a * b)


def test_pairs_may_lie_anywhere_in_memory():
    planes = noise(2, 7).detach()
    z = planes.T
    assert close(pairs.exp(z), torch.complex(planes[0], planes[1]).exp())


@pytest.mark.parametrize("size", (1e-12, 1e-6, 1e-3, 1.0))
@pytest.mark.parametrize("dtype, tolerance", ((torch.float64, 1e-15), (torch.float32, 5e-7)))
def test_expm1_does_not_cancel(size, dtype, tolerance):
    z = (size * noise(200, 2).detach()).to(dtype)
    exact = np.expm1(pairs.as_complex(z.double()).numpy())
    found = pairs.as_complex(pairs.expm1(z)).numpy()
    assert (abs(found - exact) / abs(exact)).max() < tolerance


@pytest.mark.parametrize("function", (pairs.mul, pairs.div))
def test_gradients_of_two_pairs(function):
    assert torch.autograd.gradcheck(function, (noise(3, 2), noise(5, 1, 2)))


@pytest.mark.parametrize("function", (pairs.exp, pairs.expm1, pairs.log, lambda z: pairs.powers(z, 4)))
def test_gradients_of_one_pair(function):
    assert torch.autograd.gradcheck(function, (noise(5, 2),))

"""The torch forms of ssd, causal_conv1d, cauchy, vandermonde and fft_conv are their definitions, gradients included."""

import pytest
import torch

from audiossm.kernels import (
    cauchy,
    cauchy_reference,
    causal_conv1d,
    causal_conv1d_reference,
    dplr_kernel,
    dplr_kernel_reference,
    fft_conv,
    fft_conv_reference,
    ssd,
    ssd_reference,
    vandermonde,
    vandermonde_reference,
)
from audiossm.kernels.fft_conv import smooth

from .kernel_checks import exact_noise as noise

pytestmark = pytest.mark.usefixtures("one_thread")


def agree(function, reference, inputs, tolerance=1e-9):
    """Compare all outputs and the gradients of all inputs."""
    found, expected = function(*inputs), reference(*inputs)
    found, expected = (r if isinstance(r, tuple) else (r,) for r in (found, expected))
    grads = [
        torch.autograd.grad(
            sum((y * noise(*y.shape, seed=i).detach()).sum() for i, y in enumerate(outputs)),
            [x for x in inputs if x.requires_grad],
            allow_unused=True,
            materialize_grads=True,
        )
        for outputs in (found, expected)
    ]
    for f, e in zip((*found, *grads[0]), (*expected, *grads[1]), strict=True):
        assert f.shape == e.shape and f.dtype == e.dtype
        assert (f - e).norm() <= tolerance * e.norm()


def ssd_inputs(length, batch=2, heads=4, width=3, groups=2, n=5):
    """All arguments but dt_softplus; steps dt |A| from 1e-6 to about 10."""
    A = (-torch.logspace(-6, 1, heads, dtype=torch.float64)).requires_grad_()
    x, z = noise(batch, length, heads, width), noise(batch, length, heads, width, seed=1)
    B, C = noise(batch, length, groups, n), noise(batch, length, groups, n, seed=1)
    return x, noise(batch, length, heads), A, B, C, noise(heads), z, noise(heads), noise(batch, heads, width, n)


def call_ssd(function):
    return lambda x, dt, A, B, C, D, z, bias, state: function(x, dt, A, B, C, D, z, bias, True, state)


@pytest.mark.parametrize("length", (0, 1, 2, 63, 64, 65, 200))
def test_ssd(length):
    agree(call_ssd(ssd), call_ssd(ssd_reference), ssd_inputs(length))


@pytest.mark.parametrize("shape", ((1, 1, 1, 1, 1), (1, 6, 2, 1, 3), (3, 6, 2, 6, 1)))
def test_ssd_of_any_heads_and_groups(shape):
    agree(call_ssd(ssd), call_ssd(ssd_reference), ssd_inputs(70, *shape))


def test_ssd_without_what_is_optional():
    agree(ssd, ssd_reference, ssd_inputs(70)[:5])


def test_ssd_gradients_by_differences():
    assert torch.autograd.gradcheck(call_ssd(ssd), ssd_inputs(5, 1, 2, 2, 1, 2))


def test_ssd_of_half_precision_keeps_float32_states():
    x, dt, A, B, C = (v.detach().float() for v in ssd_inputs(70)[:5])
    y, state = ssd(x.bfloat16(), dt.exp(), A, B.bfloat16(), C.bfloat16())
    exact, last = ssd(
        x.bfloat16().double(), dt.exp().double(), A.double(), B.bfloat16().double(), C.bfloat16().double()
    )
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert (y - exact).norm() < 1e-2 * exact.norm() and (state - last).norm() < 1e-5 * last.norm()


def test_ssd_refuses_shapes_that_do_not_fit():
    x, dt, A, B, C = ssd_inputs(5)[:5]
    with pytest.raises(ValueError, match="do not fit"):
        ssd(x, dt, A, B[:, :4], C)


@pytest.mark.parametrize("cut", (0, 1, 64, 100))
def test_ssd_obeys_the_splitting_law(cut):
    x, dt, A, B, C, *_, state = ssd_inputs(130)

    def piece(part, state):
        return ssd(x[:, part], dt[:, part].exp(), A, B[:, part], C[:, part], initial_state=state)

    whole, last = piece(slice(None), state)
    first, between = piece(slice(0, cut), state)
    second, end = piece(slice(cut, None), between)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole)
    torch.testing.assert_close(end, last)


@pytest.mark.parametrize("length", (0, 1, 2, 3, 50))
@pytest.mark.parametrize("taps", (1, 2, 4, 8))
def test_causal_conv1d(length, taps):
    inputs = noise(2, 3, length), noise(3, taps), noise(3), noise(2, 3, taps - 1)
    agree(
        lambda x, w, b, s: causal_conv1d(x, w, b, True, s),
        lambda x, w, b, s: causal_conv1d_reference(x, w, b, True, s),
        inputs,
    )
    agree(causal_conv1d, causal_conv1d_reference, inputs[:2])


@pytest.mark.parametrize("cut", (0, 1, 2, 30))
def test_causal_conv1d_obeys_the_splitting_law(cut):
    x, weight, bias, state = noise(2, 3, 50), noise(3, 4), noise(3), noise(2, 3, 3)
    whole, last = causal_conv1d(x, weight, bias, True, state)
    first, between = causal_conv1d(x[..., :cut], weight, bias, True, state)
    second, end = causal_conv1d(x[..., cut:], weight, bias, True, between)
    torch.testing.assert_close(torch.cat((first, second), dim=-1), whole)
    assert torch.equal(end, last)


@pytest.mark.parametrize("shape", ((1, 1, 1, 1), (4, 3, 5, 33)))
def test_cauchy(shape):
    rows, channels, modes, nodes = shape
    z = noise(nodes, 2).detach() * torch.tensor((0.0, 20.0))
    w = (noise(channels, modes, 2).detach() - 1.0).requires_grad_()
    agree(cauchy, cauchy_reference, (noise(rows, channels, modes, 2), z, w))


@pytest.mark.parametrize("length", (1, 2, 33, 64))
def test_dplr_kernel(length):
    w = noise(3, 5, 2).detach() * 0.1
    w[..., 0] = -0.01
    inputs = (
        w.requires_grad_(),
        (noise(3, 5, 2).detach() * 0.1).requires_grad_(),
        noise(3, 5, 2),
        noise(3, 5, 2, seed=1),
    )
    agree(lambda *x: dplr_kernel(*x, length), lambda *x: dplr_kernel_reference(*x, length), inputs, 1e-7)


@pytest.mark.parametrize("length", (0, 1, 2, 33, 4096, 16000))
def test_vandermonde(length):
    decay = -torch.logspace(-6, 1, 15, dtype=torch.float64).reshape(3, 5)
    log_a = torch.stack((decay, 3 * torch.sin(40 * decay)), dim=-1).requires_grad_()
    inputs = noise(3, 5, 2), log_a
    agree(lambda *x: vandermonde(*x, length), lambda *x: vandermonde_reference(*x, length), inputs)


def test_vandermonde_keeps_the_phase_of_float32_input():
    c, log_a = noise(2, 4, 2).detach().float(), torch.zeros(2, 4, 2)
    log_a[..., 1] = torch.linspace(0.5, 3, 4)
    exact = vandermonde_reference(c.double(), log_a.double(), 16000)
    assert (vandermonde(c, log_a, 16000) - exact).norm() < 1e-6 * exact.norm()


@pytest.mark.parametrize("length, lags", ((1, 1), (50, 80), (100, 20), (64, 64)))
def test_fft_conv(length, lags):
    inputs = noise(2, 3, length), noise(3, lags), noise(3)
    agree(fft_conv, fft_conv_reference, inputs)
    agree(fft_conv, fft_conv_reference, inputs[:2])


def test_nothing_gives_nothing():
    pole = torch.ones(3, 5, 2)
    assert dplr_kernel(pole, pole, pole, pole, 0).shape == (3, 0)
    assert fft_conv(torch.ones(2, 3, 0), torch.ones(3, 4)).shape == (2, 3, 0)
    assert torch.equal(fft_conv(torch.ones(2, 3, 4), torch.ones(3, 0)), torch.zeros(2, 3, 4))


def test_smooth_sizes():
    for least in (1, 2, 3, 7, 31999, 32767, 70000):
        size = smooth(least)
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        assert size >= least and size % 2 == 0 and rest == 1 and size <= max(4, 1.15 * least)

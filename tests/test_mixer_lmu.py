"""LMU and LMUCell hold a window as their papers say: its system, its step, its length in seconds, its file."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete, lsim
from scipy.special import eval_legendre

from audiossm.mixers import LMU, LMUCell
from audiossm.mixers.lmu import CHUNK, delay_network, hold, powers, remember

from .law import check_law
from .mixer_checks import (
    check_file,
    check_finer_rate_of_a_held_input,
    check_finer_rate_of_a_smooth_input,
    check_gradients,
    relative,
)

# The law


@pytest.mark.parametrize("sizes", ({}, {"d_state": 1, "d_input": 1}, {"d_state": 7, "d_input": 2, "theta": 11.5}))
def test_law(sizes):
    check_law(lambda: LMU(5, **sizes), channels=5, slower={})


def test_law_of_a_window_longer_than_the_test():
    check_law(lambda: LMU(4, d_state=6, d_input=3, theta=20000.0), channels=4, slower={})


def test_law_over_the_boundaries_of_its_chunks():
    check_law(lambda: LMU(3, d_state=6, d_input=2), channels=3, longest=5 * CHUNK + 3, slower={}, examples=6)


def test_law_on_raw_audio_at_another_rate():
    check_law(lambda: LMU(3, 6, 2, theta=0.01, native_rate=16000), channels=3, rate=44100, slower={})


@pytest.mark.parametrize("sizes", ({}, {"d_state": 1, "d_input": 1}, {"d_state": 6, "d_input": 2, "theta": 500.0}))
def test_law_of_the_cell(sizes):
    check_law(lambda: LMUCell(5, **sizes), channels=5, slower={}, examples=6)


def test_the_law_outlives_a_change_of_precision():
    """The held system stays float64, whatever the module was in between."""
    check_law(lambda: LMU(3, 6, 2, theta=900.0).half().float(), channels=3, slower={}, examples=4)
    module = LMU(3, 6, 2, theta=900.0)
    before = module.discrete()
    for found, expected in zip(module.half().double().discrete(), before, strict=True):
        assert torch.equal(found, expected) and found.dtype == torch.float64


@pytest.mark.parametrize("mixer", (LMU, LMUCell))
def test_gradients_are_those_of_the_step(mixer):
    torch.manual_seed(0)
    module = mixer(5, d_state=6, d_input=3, theta=20.0)
    if mixer is LMUCell:
        torch.nn.init.normal_(module.write.weight, std=0.1)
    check_gradients(module, channels=5)


# The memory


def test_the_system_of_four_coefficients_written_out():
    a, b = delay_network(4)
    assert a.tolist() == [[-1, -1, -1, -1], [3, -3, -3, -3], [-5, 5, -5, -5], [7, -7, 7, -7]]
    assert b.tolist() == [1, -3, 5, -7]


@pytest.mark.parametrize("n, theta", ((1, 0.5), (2, 3.0), (6, 20.0), (32, 64.0), (64, 64.0), (256, 784.0)))
def test_discretisation_agrees_with_scipy(n, theta):
    a, b = (x.numpy() / theta for x in delay_network(n))
    decay, gain = cont2discrete((a, b[:, None], np.eye(n), np.zeros((n, 1))), 1.0, "zoh")[:2]
    found_decay, found_gain = hold(n, theta)
    assert relative(found_decay.numpy(), decay) < 1e-9
    assert relative(found_gain.numpy(), gain[:, 0]) < 1e-9


def test_one_coefficient_is_a_leaky_mean():
    decay, gain = hold(1, 8.0)
    assert decay.item() == pytest.approx(math.exp(-1 / 8)) and gain.item() == pytest.approx(1 - math.exp(-1 / 8))


def test_two_coefficients_delay_as_pade_says():
    """N = 2: u(t - θ) is read by P_0 + P_1 at 1; its transfer function is the [1/2] Padé approximant of e^-s."""
    a, b = (x.numpy() for x in delay_network(2))
    for s in (0.3j, 1j, 2 + 1j):
        read = np.ones(2) @ np.linalg.solve(s * np.eye(2) - a, b)
        assert read == pytest.approx((6 - 2 * s) / (6 + 4 * s + s**2))


@pytest.mark.parametrize("cycles, low, high", ((2.1, 0, 0.001), (8, 0, 0.01), (12, 0.5, 2)))
def test_the_window_is_heard_again(cycles, low, high):
    """Eq. 3: the coefficients with Legendre polynomials give the last θ of a signal of up to N / 4 cycles."""
    n, theta = 32, 1024
    u = torch.sin(2 * torch.pi * cycles * torch.arange(4 * theta, dtype=torch.float64) / theta)
    m = remember(u.reshape(1, -1, 1), *hold(n, theta), torch.zeros(1, 1, n, dtype=torch.float64))
    ago = (np.arange(theta) + 0.5) / theta  # the middle of each step's hold
    polynomials = np.stack([eval_legendre(i, 2 * ago - 1) for i in range(n)])
    assert low <= relative(m[0, -1, 0].numpy() @ polynomials, u.numpy()[::-1][:theta]) < high


def test_the_memory_is_the_continuous_systems():
    """Against scipy's simulation of θ m' = A m + B u for an input that is held."""
    n, theta, fine = 5, 9.0, 50
    u = np.random.default_rng(0).standard_normal(40)
    a, b = (x.numpy() / theta for x in delay_network(n))
    t = np.arange(len(u) * fine + 1) / fine
    _, _, path = lsim((a, b[:, None], np.eye(n), np.zeros((n, 1))), np.append(u.repeat(fine), 0), t, interp=False)
    m = remember(torch.tensor(u).reshape(1, -1, 1), *hold(n, theta), torch.zeros(1, 1, n, dtype=torch.float64))
    assert relative(m[0, :, 0].numpy(), path[fine::fine]) < 1e-9


@pytest.mark.parametrize("length", (1, 2, CHUNK, CHUNK + 1, 7 * CHUNK, 300))
def test_block_form_is_the_recurrence(length):
    generator = torch.Generator().manual_seed(length)
    u, first = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((2, length, 3), (2, 3, 6)))
    decay, gain = hold(6, 40.0)
    m, path = first, []
    for x in u.unbind(1):
        m = m @ decay.mT + x.unsqueeze(-1) * gain
        path.append(m)
    assert relative(remember(u, decay, gain, first), torch.stack(path, 1)) < 1e-12


@pytest.mark.parametrize("count", (1, 2, 3, 8, 13))
def test_powers(count):
    a = 0.5 * torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.stack([torch.linalg.matrix_power(a, k) for k in range(count + 1)])
    torch.testing.assert_close(powers(a, count), expected)


def test_a_long_window_in_float32_is_that_in_float64():
    torch.manual_seed(0)
    module, u = LMU(2, d_state=16, d_input=2, theta=16000.0), torch.randn(1, 16000, 2)
    y, _ = module(u)
    assert relative(y.detach().double(), module.double()(u.double())[0].detach()) < 1e-5


def test_the_network_around_the_memory():
    """Eq. 18 to 20 of Chilkuri and Eliasmith, a step at a time."""
    torch.manual_seed(0)
    module, u = LMU(4, d_state=5, d_input=3, theta=12.0).double(), torch.randn(1, 9, 4, dtype=torch.float64)
    decay, gain = hold(5, 12.0)
    m = torch.zeros(3, 5, dtype=torch.float64)
    for x, y in zip(u[0], module(u)[0][0], strict=True):
        m = m @ decay.mT + torch.outer(module.encode.weight @ x + module.encode.bias, gain)
        o = module.read.weight @ m.flatten() + module.skip.weight @ x + module.read.bias
        torch.testing.assert_close(y, o.relu())


def test_the_cell_is_its_equations():
    """Eq. 7, 4 and 6 of Voelker, Kajić and Eliasmith, with one window."""
    torch.manual_seed(0)
    module, x = LMUCell(3, d_state=5, d_input=1, theta=12.0).double(), torch.randn(20, 3, dtype=torch.float64)
    torch.nn.init.normal_(module.write.weight)
    decay, gain = hold(5, 12.0)
    (e_x, w_x), (e_h, w_h) = (w.weight.split((1, 3)) for w in (module.from_input, module.from_hidden))
    e_b, w_b = module.from_input.bias.split((1, 3))
    h, m = torch.zeros(3, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    for now, y in zip(x, module(x.unsqueeze(0))[0][0], strict=True):
        m = decay @ m + gain * (e_x @ now + e_b + e_h @ h + module.write.weight @ m)
        h = torch.tanh(w_x @ now + w_b + w_h @ h + module.read.weight @ m)
        torch.testing.assert_close(y, h)


def test_the_cell_begins_as_the_paper_says():
    module = LMUCell(200, d_state=32, d_input=8)
    assert not module.write.weight.any()
    for matrix in (module.from_input.weight[8:], module.from_hidden.weight[8:], module.read.weight):
        assert matrix.std().item() == pytest.approx(math.sqrt(2 / sum(matrix.shape)), rel=0.03)


# A window in seconds


def test_theta_is_in_seconds_where_there_is_a_rate():
    seconds, steps = LMU(3, theta=0.02, native_rate=16000), LMU(3, theta=320.0)
    assert seconds.any_rate and not steps.any_rate
    for found, expected in zip(seconds.discrete(), steps.discrete(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("rate", (8000, 16000, 44100, 48000))
def test_the_window_survives_a_change_of_rate(rate):
    decay, gain = LMU(3, d_state=8, theta=0.01, native_rate=16000).discrete(rate)
    for found, expected in zip((decay, gain), hold(8, 0.01 * rate), strict=True):
        assert relative(found, expected) < 1e-12


def test_a_finer_rate_gives_the_same_exactly_where_the_input_is_held():
    torch.manual_seed(0)
    check_finer_rate_of_a_held_input(LMU(3, 6, 2, theta=0.001, native_rate=16000).double(), 3)


def test_a_finer_rate_gives_the_same_to_first_order_for_a_smooth_signal():
    torch.manual_seed(0)
    check_finer_rate_of_a_smooth_input(LMU(3, 6, 2, theta=0.2, native_rate=100).double(), 3, coarsest=0.2)


# Their files


@pytest.mark.parametrize("mixer", (LMU, LMUCell))
def test_file(mixer):
    """Of frames of four steps; of one, a keyword model's: tests/test_catalog.py."""
    torch.manual_seed(0)
    check_file(mixer(7), 7)


def test_file_of_a_long_frame_at_another_rate():
    torch.manual_seed(0)
    check_file(LMU(3, 8, 2, theta=0.005, native_rate=16000), 3, length=64, rate=8000)


def test_a_long_frame_of_the_cell_is_refused():
    with pytest.raises(ValueError, match="at most 4 a frame, not 5"):
        check_file(LMUCell(3), 3, length=5)


# Bad input


@pytest.mark.parametrize("mixer", (LMU, LMUCell))
@pytest.mark.parametrize(
    "bad, message",
    (
        ({"d_state": 0}, "at least one coefficient"),
        ({"d_input": 0}, "one window"),
        ({"theta": 0.0}, "above 0, not 0"),
        ({"theta": -3.0}, "above 0, not -3"),
        ({"theta": math.nan}, "above 0, not nan"),
    ),
)
def test_bad_sizes_are_refused(mixer, bad, message):
    with pytest.raises(ValueError, match=message) as raised:
        mixer(3, **bad)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("mixer", (LMU, LMUCell))
def test_a_rate_is_refused_where_there_is_none(mixer):
    with pytest.raises(ValueError, match=f"{mixer.__name__} has no sampling rate"):
        mixer(3)(torch.zeros(1, 5, 3), rate=16000)


@pytest.mark.parametrize("rate", (0, -8000))
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=f"above 0 Hz, not {rate}"):
        LMU(3, native_rate=16000)(torch.zeros(1, 5, 3), rate=rate)

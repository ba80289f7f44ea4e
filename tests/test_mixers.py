"""Mixers are the systems that the papers describe, at every rate."""

import inspect

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag
from scipy.signal import cont2discrete

import audiossm.mixers
from audiossm.mixers import S4D, Filterbank, Mixer
from audiossm.mixers.discretise import METHODS
from audiossm.mixers.hippo import EIGENVALUES, s4d_inv, s4d_legs, s4d_lin

from .mixer_checks import check_file

MODES = np.array([-0.5 + 0j, -0.5 + 3.14j, -2.0 + 40.0j, -0.001 + 0.7j])
STEPS = (1e-6, 0.01, 0.3)


def real_system(eigenvalues):
    """x' = A x + B u in real numbers: a 2 x 2 block for each complex mode, whose input is real."""
    blocks = [[[a.real, -a.imag], [a.imag, a.real]] for a in eigenvalues]
    return block_diag(*blocks), np.tile([[1.0], [0.0]], (len(eigenvalues), 1))


def discretised(eigenvalues, dt, method):
    """Ā and B̄ of the real system, by scipy."""
    a, b = real_system(eigenvalues)
    size = len(a)
    return cont2discrete((a, b, np.eye(size), np.zeros((size, 1))), dt, method)[:2]


def as_pairs(values):
    return torch.view_as_real(torch.as_tensor(values))


def as_complex(pairs):
    return torch.view_as_complex(pairs.detach().contiguous()).numpy()


def error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


# Discretisation


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dt", STEPS)
@pytest.mark.parametrize("mode", MODES)
def test_discretisation_agrees_with_scipy(mode, dt, method):
    log_a, b = METHODS[method](as_pairs(np.array([mode])), torch.tensor([[dt]], dtype=torch.float64))
    a, b = np.exp(as_complex(log_a))[0], as_complex(b)[0]
    expected_a, expected_b = discretised([mode], dt, method)
    assert error(np.array([[a.real, -a.imag], [a.imag, a.real]]), expected_a) < 1e-9
    assert error(np.array([[b.real], [b.imag]]), expected_b) < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_a_stable_system_stays_stable_at_any_step(method):
    dt = torch.logspace(-6, 3, 50, dtype=torch.float64).unsqueeze(1)
    for mode in MODES:
        log_a, _ = METHODS[method](as_pairs(np.array([mode])), dt)
        assert (log_a[..., 0] < 0).all()


def test_bilinear_of_a_known_decay():
    # dt A = -0.1: (1 - 0.05) / (1 + 0.05), not its inverse, as where the signs are swapped.
    log_a, b = METHODS["bilinear"](torch.tensor([[-1.0, 0.0]]), torch.tensor([[0.1]]))
    assert as_complex(log_a)[0] == pytest.approx(np.log(0.95 / 1.05))
    assert as_complex(b)[0] == pytest.approx(0.1 / 1.05)


@pytest.mark.parametrize("method", METHODS)
def test_discretisation_loses_nothing_at_small_steps_in_float32(method):
    _, b = METHODS[method](torch.tensor([[-0.5, 3.0]]), torch.tensor([[1e-6]]))
    assert error(as_complex(b), 1e-6 * (1 + 1e-6 * (-0.5 + 3j) / 2)) < 1e-6


# Where the eigenvalues start


def test_s4d_lin_is_equation_9():
    assert as_complex(s4d_lin(8)) == pytest.approx(-0.5 + 1j * np.pi * np.array([0, 1, 2, 3]))


def test_s4d_inv_is_equation_8():
    by_hand = 8 / np.pi * np.array([7, 5 / 3, 3 / 5, 1 / 7])  # 8 / (2k + 1) - 1
    assert as_complex(s4d_inv(8)) == pytest.approx(-0.5 + 1j * by_hand)


@pytest.mark.parametrize("n", (2, 6, 16, 64))
def test_s4d_legs_is_the_spectrum_of_the_normal_part_of_hippo(n):
    row, column = np.ogrid[:n, :n]
    hippo = -np.where(row > column, np.sqrt((2 * row + 1) * (2 * column + 1)), np.where(row == column, row + 1, 0))
    low_rank = np.sqrt(np.arange(n) + 0.5)
    normal = hippo + np.outer(low_rank, low_rank)
    assert error(normal @ normal.T, normal.T @ normal) < 1e-12
    eigenvalues = np.linalg.eigvals(normal)
    expected = np.sort(eigenvalues.imag[eigenvalues.imag > 0])
    found = as_complex(s4d_legs(n))
    assert eigenvalues.real == pytest.approx(np.full(n, -0.5), abs=1e-7)
    assert found.real == pytest.approx(np.full(n // 2, -0.5))
    assert np.sort(found.imag) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("init", EIGENVALUES)
def test_a_new_s4d_has_the_eigenvalues_of_its_init(init):
    module = S4D(3, 10, init=init)
    for row in range(3):
        found = -module.log_decay[row].exp().detach().numpy() + 1j * module.frequency[row].detach().numpy()
        assert error(found, as_complex(EIGENVALUES[init](10))) < 1e-6


# S4D


def simulated(module, u, dt):
    """S4D's output (L, H) for u (L, H) by the recurrence of dense real systems that scipy discretised."""
    method = {function: name for name, function in METHODS.items()}[module.discretise]
    out = np.empty_like(u)
    for h in range(module.d_model):
        a = -np.exp(module.log_decay[h].detach().numpy()) + 1j * module.frequency[h].detach().numpy()
        decay, gain = discretised(a, dt[h], method)
        c = as_complex(module.c[h])
        read = np.stack((2 * c.real, -2 * c.imag), axis=1).ravel()  # 2 Re(c x)
        x = np.zeros(len(gain))
        for n in range(len(u)):
            x = decay @ x + gain[:, 0] * u[n, h]
            out[n, h] = read @ x + module.d[h].item() * u[n, h]
    return out


@pytest.mark.parametrize("rate", (None, 8000, 16000, 44100))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("init", EIGENVALUES)
def test_s4d_is_the_dense_system(init, method, rate):
    torch.manual_seed(0)
    module = S4D(3, 6, init=init, method=method, native_rate=None if rate is None else 16000).double()
    u = torch.randn(1, 301, 3, dtype=torch.float64)
    dt = module.log_dt.exp().detach().numpy() * (1 if rate is None else 16000 / rate)
    y, _ = module(u, rate=rate)
    assert error(y[0].detach().numpy(), simulated(module, u[0].numpy(), dt)) < 1e-9


def at_common_times(module, u, finer):
    """Outputs (B, L, H) at the native times when each sample is held for `finer` steps of a finer rate."""
    y, _ = module(u.repeat_interleave(finer, dim=1), rate=finer * module.native_rate)
    return y[:, finer - 1 :: finer].detach()


def test_a_finer_rate_gives_the_same_exactly_where_the_input_is_held():
    torch.manual_seed(0)
    module = S4D(3, 6, native_rate=16000).double()
    u = torch.randn(2, 50, 3, dtype=torch.float64)
    native = at_common_times(module, u, 1)
    for finer in (2, 3):
        assert error(at_common_times(module, u, finer), native) < 1e-12


def test_a_finer_rate_gives_the_same_to_second_order_with_bilinear():
    torch.manual_seed(0)
    module = S4D(3, 6, method="bilinear", native_rate=16000).double()
    u = torch.randn(2, 50, 3, dtype=torch.float64)
    once, twice, four_times = (at_common_times(module, u, finer) for finer in (1, 2, 4))
    first, second = error(once, twice), error(twice, four_times)
    assert first < 0.02
    assert 3.5 < first / second < 4.5  # half the step, a quarter of the error


def test_the_native_rate_is_the_rate_when_none_is_given():
    module, u = S4D(3, 4, native_rate=22050), torch.randn(1, 20, 3)
    assert torch.equal(module(u)[0], module(u, rate=22050)[0])
    assert not torch.equal(module(u)[0], module(u, rate=44100)[0])


def test_s4d_without_a_rate_refuses_one():
    module = S4D(3, 4)
    assert not module.any_rate and S4D(3, 4, native_rate=8000).any_rate
    with pytest.raises(ValueError, match="S4D has no sampling rate"):
        module(torch.zeros(1, 5, 3), rate=16000)


@pytest.mark.parametrize("d_state", (-2, 0, 1, 7))
def test_s4d_refuses_a_state_that_is_no_pairs(d_state):
    with pytest.raises(ValueError, match=f"even and at least 2, not {d_state}"):
        S4D(3, d_state)


def test_d_state_counts_real_dimensions():
    assert S4D(5, d_state=64).initial_state(3)["x"].shape == (3, 5, 32, 2)


@pytest.mark.parametrize("low, high", ((0.001, 0.1), (0.004, 0.005)))
def test_steps_start_within_their_range(low, high):
    dt = S4D(500, 2, dt_min=low, dt_max=high).log_dt.exp()
    assert low * 0.999 <= dt.min() < low * 1.1 and high / 1.1 < dt.max() <= high * 1.001


def test_file():
    """Of frames of four steps; of one, a keyword model's: tests/test_export.py, a stack of other mixers."""
    torch.manual_seed(0)
    check_file(S4D(7, 12), 7)


# All mixers

MIXERS = [getattr(audiossm.mixers, name) for name in audiossm.mixers.__all__]
MIXERS = [m for m in MIXERS if inspect.isclass(m) and issubclass(m, Mixer) and m is not Mixer]
WITH_WIDTH = [m for m in MIXERS if "d_model" in inspect.signature(m).parameters]


def test_there_are_mixers():
    assert S4D in WITH_WIDTH and Filterbank in MIXERS


@pytest.mark.parametrize("mixer", WITH_WIDTH)
def test_a_mixer_is_built_from_its_width_alone(mixer):
    module = mixer(d_model=12)
    u = torch.randn(2, 9, 12)
    y, state = module(u)
    assert y.shape == u.shape and y.dtype == u.dtype
    assert list(state) == list(module.initial_state(2))


@pytest.mark.parametrize(
    "module, slow",
    ((S4D(3, 4), {"log_dt", "log_decay", "frequency"}), (Filterbank(3), {"log_decay", "detuning", "weight"})),
    ids=("S4D", "Filterbank"),
)
def test_the_parameters_of_the_system_learn_slowly(module, slow):
    assert {name for name, p in module.named_parameters() if hasattr(p, "ssm_lr")} == slow
    assert all(0 < p.ssm_lr <= 0.001 for p in module.parameters() if hasattr(p, "ssm_lr"))

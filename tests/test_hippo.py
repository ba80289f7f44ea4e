"""HiPPO's matrices are those of the papers, S4's form of LegS is LegS, and LegS remembers the past."""

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre as numpy_legendre
from scipy.integrate import solve_ivp

from audiossm.mixers.dplr import bilinear_loop, legs_dplr
from audiossm.mixers.hippo import HIPPO, legendre, legs, legt, s4d_legs
from audiossm.mixers.legs_memory import recall, remember

SIZES = (2, 6, 16, 64)


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def smooth(t):
    return torch.sin(9 * t) + 0.5 * torch.cos(23 * t + 1) + 0.3 * t


# The matrices


def test_legs_is_theorem_2():
    a, b = legs(3)
    root = np.sqrt
    assert a.numpy() == pytest.approx(np.array([[-1, 0, 0], [-root(3), -2, 0], [-root(5), -root(15), -3]]))
    assert b.numpy() == pytest.approx(root([1, 3, 5]))


def test_legt_is_theorem_1():
    """The paper prints it in the LMU's scaling, x_k times (2k + 1)^(1/2) (-1)^k, with theta 1."""
    n = 7
    a, b = (x.numpy() for x in legt(n))
    row, column = np.ogrid[:n, :n]
    printed = -(2 * row + 1) * np.where(row >= column, (-1.0) ** (row - column), 1)
    scale = np.sqrt(2 * np.arange(n) + 1) * (-1.0) ** np.arange(n)
    assert np.outer(scale, 1 / scale) * a == pytest.approx(printed)
    assert scale * b == pytest.approx((2 * np.arange(n) + 1) * (-1.0) ** np.arange(n))


@pytest.mark.parametrize("init", HIPPO)
@pytest.mark.parametrize("n", (1, *SIZES[:3]))
def test_a_hippo_system_is_stable(n, init):
    a, b = HIPPO[init](n)
    assert a.shape == (n, n) and b.shape == (n,) and a.dtype == b.dtype == torch.float64
    assert (torch.linalg.eigvals(a).real < 0).all()


@pytest.mark.parametrize("init", HIPPO)
def test_a_hippo_system_of_nothing_is_refused(init):
    with pytest.raises(ValueError, match="at least one state dimension, not 0"):
        HIPPO[init](0)


def test_the_polynomials_are_those_of_numpy_and_orthonormal():
    s = torch.linspace(0, 1, 41, dtype=torch.float64)
    expected = numpy_legendre.legvander(2 * s.numpy() - 1, 11) * np.sqrt(2 * np.arange(12) + 1)
    assert legendre(12, s).numpy() == pytest.approx(expected)
    assert legendre(1, s).shape == (41, 1)
    node, weight = (torch.from_numpy(x) for x in numpy_legendre.leggauss(20))
    g = legendre(12, (node + 1) / 2)
    assert error(g.T @ (weight.unsqueeze(1) / 2 * g), torch.eye(12, dtype=torch.float64)) < 1e-12


def test_legt_holds_the_last_unit_of_time():
    a, b = (x.numpy() for x in legt(24))
    now = 2.5

    def slope(t, x):
        return a @ x + b * smooth(torch.tensor(t)).item()

    x = torch.from_numpy(solve_ivp(slope, (0, now), np.zeros(24), "Radau", rtol=1e-6, atol=1e-8, jac=a).y[:, -1])
    s = torch.linspace(0.02, 0.98, 50, dtype=torch.float64)
    assert error(recall(x, s), smooth(now - 1 + s)) < 0.02


# S4's form


@pytest.mark.parametrize("n", SIZES)
def test_diagonal_plus_low_rank_is_legs(n):
    w, p, b, v = legs_dplr(n)
    v, w, p, b = (torch.cat((x, x.conj()), dim=-1) for x in (v, w, p, b))
    hippo_a, hippo_b = legs(n)
    assert error(v.mH @ v, torch.eye(n).to(v)) < 1e-11
    assert error(v @ (torch.diag(w) - torch.outer(p, p.conj())) @ v.mH, hippo_a.to(v)) < 1e-11
    assert error(v @ b, hippo_b.to(v)) < 1e-11


@pytest.mark.parametrize("n", SIZES)
def test_it_keeps_the_eigenvalues_of_s4d(n):
    assert error(torch.view_as_real(legs_dplr(n).w), s4d_legs(n)) < 1e-12


def test_to_diagonalise_legs_itself_loses_all_digits():
    """Why S4 is not run on its own diagonal, which would cost less."""
    _, v = torch.linalg.eig(legs(32)[0])
    assert torch.linalg.cond(v) > 1e15


@pytest.mark.parametrize("dt", (1e-4, 0.01, 0.5))
@pytest.mark.parametrize("n", SIZES)
def test_the_woodbury_step_is_the_bilinear_transform(n, dt):
    w, p, b, v = legs_dplr(n)
    step, gain = bilinear_loop(w[None], p[None], b[None], torch.tensor([[dt]], dtype=torch.float64)).dense()
    a, b = legs(n)
    eye = torch.eye(n, dtype=torch.float64)
    expected = torch.linalg.solve(eye - dt * a / 2, torch.cat((eye + dt * a / 2, dt * b[:, None]), dim=1))
    # Columns of a state's real and imaginary parts -> HiPPO's coordinates: x = 2 Re(V z).
    into = torch.stack((2 * v.real, -2 * v.imag), dim=2).flatten(1)
    assert error(into @ step[0] @ torch.linalg.inv(into), expected[:, :-1]) < 1e-10
    assert error(into @ gain[0], expected[:, -1]) < 1e-10


# LegS as the memory that it was made for


def moments(n, length, f):
    """The best coefficients (n,) of f(s) on [0, 1], by quadrature."""
    node, weight = (torch.from_numpy(x) for x in numpy_legendre.leggauss(200))
    s = (node + 1) / 2
    return (weight / 2 * f(s)) @ legendre(n, s)


@pytest.mark.parametrize("n", (1, 4, 32))
def test_its_coefficients_are_those_of_the_best_polynomial(n):
    errors = []
    for length in (400, 800):
        middle = (torch.arange(length, dtype=torch.float64) + 0.5) / length
        errors.append(error(remember(smooth(middle), n)[-1], moments(n, length, smooth)))
    assert errors[0] < 1e-3
    assert errors[1] < errors[0] / 3  # half the step, a quarter of the error


@pytest.mark.parametrize("heard", (100, 1000, 3000))
def test_it_reconstructs_the_history_of_a_smooth_signal(heard):
    middle = torch.arange(3000, dtype=torch.float64) + 0.5
    signal = smooth(middle / 1000)
    when = middle[:heard] / heard
    assert error(recall(remember(signal, 48)[heard - 1], when), signal[:heard]) < 2e-3


def test_it_knows_no_time_scale():
    """HiPPO, proposition 3: a signal that lasts longer has the same coefficients."""
    slow, fast = (remember(smooth((torch.arange(n, dtype=torch.float64) + 0.5) / n), 16)[-1] for n in (4000, 1000))
    assert error(fast, slow) < 1e-4


def test_it_holds_a_constant_exactly():
    x = remember(torch.full((2, 50), 3.0), 8)
    assert x.shape == (2, 50, 8)
    assert error(x, 3 * torch.eye(8, dtype=torch.float64)[0].expand(2, 50, 8)) < 1e-13
    assert remember(torch.zeros(2, 0), 8).shape == (2, 0, 8)

"""S5 is the system that its paper describes, at every rate and in a file."""

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag
from scipy.signal import cont2discrete

from audiossm.mixers import S5
from audiossm.mixers.hippo import s4d_legs
from audiossm.mixers.s5 import hippo_n

from .law import check_law
from .mixer_checks import (
    check_file,
    check_finer_rate_of_a_held_input,
    check_finer_rate_of_a_smooth_input,
    check_gradients,
    relative,
)


def as_complex(pairs):
    return torch.view_as_complex(pairs.detach().contiguous()).numpy()


# The law


@pytest.mark.parametrize("blocks", (1, 2, 3))
def test_law(blocks):
    check_law(lambda: S5(5, d_state=12, blocks=blocks), channels=5)


def test_law_as_it_is_built_by_default():
    check_law(lambda: S5(d_model=7), channels=7, examples=6)


def test_law_on_raw_audio_at_another_rate():
    check_law(lambda: S5(3, 8, blocks=2, native_rate=16000), channels=3, rate=44100)


def test_gradients_are_those_of_the_step():
    torch.manual_seed(0)
    check_gradients(S5(5, d_state=12, blocks=3), channels=5)


# Where it starts


def hippo(n):
    """HiPPO-LegS plus its rank-one part, from the definition of S4 (theorem 1)."""
    row, column = np.ogrid[:n, :n]
    legs = -np.where(row > column, np.sqrt((2 * row + 1) * (2 * column + 1)), np.where(row == column, row + 1, 0))
    p = np.sqrt(np.arange(n) + 0.5)
    return legs + np.outer(p, p)


@pytest.mark.parametrize("n", (2, 8, 64))
def test_hippo_n_is_diagonalised(n):
    eigenvalues, v = (x.numpy() for x in hippo_n(n))
    assert relative(v.conj().T @ v, np.eye(n // 2)) < 1e-12  # unitary
    assert relative(2 * ((v * eigenvalues) @ v.conj().T).real, hippo(n)) < 1e-12  # with the conjugate half
    assert np.sort(eigenvalues.imag) == pytest.approx(np.sort(s4d_legs(n)[:, 1].numpy()))


def test_a_new_s5_is_a_real_system_in_blocks_of_hippo():
    """V B̃ is real, V Λ V^H is the block-diagonal HiPPO-N, and C̃ V^H is real: N real states in other coordinates."""
    torch.manual_seed(0)
    module = S5(5, d_state=24, blocks=3)
    v = block_diag(*[hippo_n(8)[1].numpy()] * 3)
    eigenvalues = -module.log_decay.exp().detach().numpy() + 1j * module.frequency.detach().numpy()
    assert relative(2 * ((v * eigenvalues) @ v.conj().T).real, block_diag(*[hippo(8)] * 3)) < 1e-6
    b, c = 2 * (v @ as_complex(module.b)).real, 2 * (as_complex(module.c) @ v.conj().T).real
    assert b.std() == pytest.approx(1 / np.sqrt(5), rel=0.2)
    assert c.std() == pytest.approx(1 / np.sqrt(24), rel=0.2)
    assert relative(v.conj().T @ b, as_complex(module.b)) < 1e-6
    assert relative(c @ v, as_complex(module.c)) < 1e-6


def test_the_parameters_of_the_system_learn_slowly():
    slow = {name for name, p in S5(3, 8, blocks=2).named_parameters() if hasattr(p, "ssm_lr")}
    assert slow == {"log_dt", "log_decay", "frequency", "b"}


# What it computes


def simulated(module, u, scale):
    """The output (L, H) for u (L, H) by the recurrence of the real system, a 2 x 2 block a mode, from scipy."""
    a = -np.exp(module.log_decay.detach().numpy()) + 1j * module.frequency.detach().numpy()
    dt = module.log_dt.exp().detach().numpy() * scale
    b, c = as_complex(module.b), as_complex(module.c)
    blocks, inputs = [], []
    for k, pole in enumerate(a):  # each state has a step of its own
        system = np.array([[pole.real, -pole.imag], [pole.imag, pole.real]]), np.stack((b[k].real, b[k].imag))
        decay, gain = cont2discrete((*system, np.eye(2), np.zeros((2, u.shape[1]))), dt[k], "zoh")[:2]
        blocks.append(decay)
        inputs.append(gain)
    decay, gain = block_diag(*blocks), np.concatenate(inputs)
    read = np.stack((2 * c.real, -2 * c.imag), axis=2).reshape(len(c), -1)
    x, out = np.zeros(len(decay)), np.empty_like(u)
    for n in range(len(u)):
        x = decay @ x + gain @ u[n]
        out[n] = read @ x + module.d.detach().numpy() * u[n]
    return out


@pytest.mark.parametrize("rate", (None, 8000, 16000, 44100))
def test_s5_is_the_dense_system(rate):
    torch.manual_seed(0)
    module = S5(5, d_state=12, blocks=2, native_rate=rate and 16000).double()
    u = torch.randn(1, 301, 5, dtype=torch.float64)
    y, _ = module(u, rate=rate)
    assert relative(y[0].detach().numpy(), simulated(module, u[0].numpy(), 16000 / rate if rate else 1)) < 1e-9


def test_a_finer_rate_gives_the_same_exactly_where_the_input_is_held():
    torch.manual_seed(0)
    check_finer_rate_of_a_held_input(S5(3, 8, blocks=2, native_rate=16000).double(), 3)


def test_a_finer_rate_gives_the_same_to_first_order_for_a_smooth_signal():
    torch.manual_seed(0)
    check_finer_rate_of_a_smooth_input(S5(3, 8, blocks=2, native_rate=100).double(), 3, coarsest=0.1)


# Its file


def test_file():
    """Of frames of four steps; of one, a keyword model's: tests/test_catalog.py."""
    torch.manual_seed(0)
    check_file(S5(7, d_state=12, blocks=2), 7)


def test_file_of_a_long_frame_at_another_rate():
    torch.manual_seed(0)
    check_file(S5(3, d_state=8, blocks=2, native_rate=16000), 3, length=32, rate=8000)


# Bad input


@pytest.mark.parametrize("d_state, blocks", ((7, 1), (0, 1), (-4, 1), (12, 4), (8, 0)))
def test_a_state_that_is_no_blocks_of_pairs_is_refused(d_state, blocks):
    with pytest.raises(ValueError, match=r"give a multiple of \d+, not -?\d+, or other blocks") as raised:
        S5(3, d_state, blocks)
    assert "\n" not in str(raised.value)


def test_a_rate_is_refused_where_there_is_none():
    assert not S5(3).any_rate and S5(3, native_rate=8000).any_rate
    with pytest.raises(ValueError, match="S5 has no sampling rate"):
        S5(3)(torch.zeros(1, 5, 3), rate=16000)


@pytest.mark.parametrize("rate", (0, -8000))
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=f"above 0 Hz, not {rate}"):
        S5(3, native_rate=16000)(torch.zeros(1, 5, 3), rate=rate)

"""S4 is one system in all its forms: Cauchy kernel, dense powers, Woodbury step, exported frame."""

import numpy as np
import onnx
import pytest
import torch
from scipy.signal import cont2discrete

from audiossm.mixers.dense import LEVELS, doublings, kernel, power
from audiossm.mixers.dplr import bilinear_loop, legs_dplr
from audiossm.mixers.hippo import legs
from audiossm.mixers.lssl import LSSL
from audiossm.mixers.s4 import BLOCK, FEW, S4, cauchy_lags

from .law import check_law
from .mixer_checks import FRAMES, run_as_file

CHUNK = 2**LEVELS


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def shaken(*arguments, **named):
    """An S4 in float64 whose parameters have left their start."""
    torch.manual_seed(0)
    module = S4(*arguments, **named).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    return module


def in_steps(module, u, state=None, rate=None, size=1):
    out = []
    for piece in u.split(size, dim=1):
        y, state = module(piece, state, rate=rate)
        out.append(y)
    return torch.cat(out, dim=1), state


# The law


def test_law():
    check_law(lambda: S4(5, d_state=6), channels=5)


def test_law_of_two_dimensions():
    check_law(lambda: S4(2, d_state=2), channels=2, examples=6)


def test_law_as_it_is_built_by_default():
    check_law(lambda: S4(d_model=3), channels=3, examples=6)


def test_law_over_the_boundaries_of_its_chunks():
    check_law(lambda: S4(3, d_state=4), channels=3, longest=5 * CHUNK + FEW, examples=6)


def test_law_on_raw_audio_at_another_rate():
    check_law(lambda: S4(3, d_state=6, native_rate=16000), channels=3, rate=44100)


# One system


@pytest.mark.parametrize("length", (1, 2, 9, 100, 1001, 4096))
def test_the_cauchy_kernel_is_that_of_the_dense_step(length):
    module = shaken(4, 16)
    with torch.no_grad():
        system, c = module.continuous(), module.readout()
        step, gain = bilinear_loop(*system).dense()
        doubled = doublings(step, length)
        cut_off = c - torch.einsum("hn,hnm->hm", c, power(doubled, length))
        found = cauchy_lags(*system, cut_off, torch.zeros(1, length, 4, dtype=torch.float64))
        expected = kernel(doubled, gain, c, length)
    assert error(found, expected) < 1e-9


@pytest.mark.parametrize("d_state", (2, 16, 64))
def test_a_long_call_is_the_woodbury_step(d_state):
    module = shaken(3, d_state)
    u, start = torch.randn(2, 777, 3, dtype=torch.float64), module.initial_state(2)
    start["x"] += torch.randn(start["x"].shape)
    with torch.no_grad():
        for state in (None, start):
            (y, last), (stepped, last_stepped) = module(u, state), in_steps(module, u, state)
            assert error(y, stepped) < 1e-9
            assert error(last["x"], last_stepped["x"]) < 1e-9


@pytest.mark.parametrize("rate", (None, 8000, 44100))
def test_it_is_the_system_that_scipy_discretises(rate):
    module = shaken(3, 6, native_rate=None if rate is None else 16000)
    u = torch.randn(1, 301, 3, dtype=torch.float64)
    with torch.no_grad():
        y, _ = module(u, rate=rate)
    dt = module.log_dt.exp().detach().numpy() * (1 if rate is None else 16000 / rate)
    p, b, c = (torch.view_as_complex(x.detach()).numpy() for x in (module.p, module.b, module.c))
    w = -module.log_decay.exp().detach().numpy() + 1j * module.frequency.detach().numpy()
    w, p, b, c = (np.concatenate((x, x.conj()), axis=1) for x in (w, p, b, c))
    for h in range(3):
        a = np.diag(w[h]) - np.outer(p[h], p[h].conj())
        step, gain = cont2discrete((a, b[h][:, None], c[h][None], np.zeros((1, 1))), dt[h], "bilinear")[:2]
        x, out = np.zeros(6, dtype=complex), []
        for v in u[0, :, h].numpy():
            x = step @ x + gain[:, 0] * v
            out.append((c[h] @ x).real + module.d[h].item() * v)
        assert error(y[0, :, h], torch.tensor(out)) < 1e-9


def test_a_new_s4_is_the_dense_lssl():
    """Its ancestor with the same step and, in HiPPO's coordinates, the same readout."""
    torch.manual_seed(0)
    module, ancestor = S4(3, 32).double(), LSSL(3, 32).double()
    u = torch.randn(2, 400, 3, dtype=torch.float64)
    v = legs_dplr(32).v
    with torch.no_grad():
        ancestor.log_dt.copy_(module.log_dt)
        ancestor.d.copy_(module.d)
        ancestor.c.copy_(2 * (torch.view_as_complex(module.c) @ v.mH).real)  # 2 Re(c V* x)
        assert error(module(u)[0], ancestor(u)[0]) < 1e-5  # its parameters began in float32


def test_a_constant_settles_at_what_legs_makes_of_it():
    # A x + u B = 0 has x = (u, 0, 0 ...): column 0 of A is -B.
    a, b = legs(16)
    assert torch.equal(a[:, 0], -b)
    module = S4(1, 16, dt_min=0.5, dt_max=0.5).double()
    with torch.no_grad():
        _, state = module(torch.ones(1, 2000, 1, dtype=torch.float64))
        w, p, b, _ = module.continuous()
        x = torch.view_as_complex(state["x"])[0]
    slope = w * x - p * 2 * (p.conj() * x).real.sum(-1, keepdim=True) + b
    assert slope.norm() < 1e-9 * b.norm()


def test_gradients_are_those_of_the_unrolled_step():
    module = shaken(3, 6)
    u = torch.randn(2, 100, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 100, 3, dtype=torch.float64)
    gradients = []
    for size in (100, 1):
        start = {"x": 0.1 + module.initial_state(2)["x"]}
        y, state = in_steps(module, u, start, size=size)
        loss = (y * target).sum() + state["x"].sum()
        gradients.append(torch.autograd.grad(loss, [u, *module.parameters()]))
    for parallel, unrolled in zip(*gradients, strict=True):
        assert error(parallel, unrolled) < 1e-9


# Rates


def test_a_finer_rate_gives_the_same_to_second_order():
    module = shaken(3, 8, native_rate=16000)
    with torch.no_grad():
        module.d.zero_()

        def at_common_times(finer):
            middle = (torch.arange(200 * finer, dtype=torch.float64) + 0.5) / finer  # of each sample
            y, _ = module(torch.sin(0.1 * middle)[None, :, None].expand(1, -1, 3), rate=16000 * finer)
            return y[:, finer - 1 :: finer]

        once, twice, four_times = map(at_common_times, (1, 2, 4))
    assert error(once, twice) < 0.02
    assert 3 < error(once, twice) / error(twice, four_times) < 5


def test_the_native_rate_is_the_rate_when_none_is_given():
    module, u = S4(3, 4, native_rate=22050), torch.randn(1, 20, 3)
    assert torch.equal(module(u)[0], module(u, rate=22050)[0])
    assert not torch.equal(module(u)[0], module(u, rate=44100)[0])


# Stability


def test_no_parameters_make_it_unstable():
    """Each step of the free system takes the state nearer to zero, whatever training did: the norm of Ā is below 1."""
    torch.manual_seed(0)
    module = S4(50, 8).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(3 * torch.randn_like(parameter))
        step, _ = bilinear_loop(*module.continuous()).dense()
    assert torch.linalg.matrix_norm(step, 2).max() <= 1 + 1e-12


# Export


@pytest.mark.parametrize("frame", (4, 2 * BLOCK + 3))  # 1, a keyword model's: tests/test_catalog.py
def test_the_exported_frame_is_the_module(frame):
    module = shaken(5, 12).float().eval()
    u, first = torch.randn(2, FRAMES * frame, 5), torch.randn(2, 5, 6, 2)
    y, last, graph = run_as_file(module, u, {"x": first}, frame)
    floats = sum(np.prod(part.dims) for part in graph.initializer if part.data_type == onnx.TensorProto.FLOAT)
    counted = 5 * (4 * frame * 12 + 2 * 12 + 2 * frame**2)  # as the docstring does
    assert frame > BLOCK or 0.9 * counted < floats < 1.3 * counted
    with torch.no_grad():
        expected, state = module(u, {"x": first})
    assert error(y, expected) < 1e-4
    assert error(last["x"], state["x"]) < 1e-4


# Bad input


@pytest.mark.parametrize("d_state", (-2, 0, 1, 7))
def test_a_state_that_is_no_pairs_is_refused(d_state):
    with pytest.raises(ValueError, match=f"even and at least 2, not {d_state}"):
        S4(3, d_state)


def test_s4_without_a_rate_refuses_one():
    module = S4(3, 4)
    assert not module.any_rate and S4(3, 4, native_rate=8000).any_rate
    with pytest.raises(ValueError, match="S4 has no sampling rate"):
        module(torch.zeros(1, 5, 3), rate=16000)


def test_the_parameters_of_the_system_learn_slowly():
    slow = {name for name, p in S4(3, 4).named_parameters() if hasattr(p, "ssm_lr")}
    assert slow == {"log_dt", "log_decay", "frequency", "p", "b"}

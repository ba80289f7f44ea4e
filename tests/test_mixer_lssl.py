"""LSSL is the dense system that HiPPO and scipy say it is, in every form."""

import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete

from audiossm.mixers.dense import LEVELS, doublings, forced_state, free_response, kernel, power
from audiossm.mixers.hippo import HIPPO
from audiossm.mixers.lssl import BLOCK, FEW, LSSL

from .law import check_law
from .mixer_checks import FRAMES, run_as_file

CHUNK = 2**LEVELS
SLOWER = {"log_dt": -3.0}


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


# The law


@pytest.mark.parametrize("init", HIPPO)
def test_law(init):
    check_law(lambda: LSSL(5, d_state=7, init=init), channels=5, slower=SLOWER)


def test_law_as_it_is_built_by_default():
    check_law(lambda: LSSL(d_model=3), channels=3, slower=SLOWER, examples=6)


def test_law_over_the_boundaries_of_its_chunks():
    check_law(lambda: LSSL(3, d_state=4), channels=3, longest=5 * CHUNK + FEW, slower=SLOWER, examples=6)


def test_law_at_another_rate():
    check_law(lambda: LSSL(3, d_state=4, native_rate=16000), channels=3, rate=44100, slower=SLOWER, examples=6)


# Independent values


def stepped(step, b, c, u, x):
    """Outputs (L,) and last state (N,) of one channel, sample by sample."""
    out = []
    for v in u:
        x = step @ x + b * v
        out.append(c @ x)
    return torch.stack(out), x


@pytest.mark.parametrize("length", (1, 2, 7, 64, 65, 200, 513))
def test_powers_are_the_recurrence(length):
    torch.manual_seed(0)
    step = torch.linalg.qr(torch.randn(2, 5, 5, dtype=torch.float64)).Q * 0.99
    b, c, x = torch.randn(3, 2, 5, dtype=torch.float64)
    u = torch.randn(1, 2, length, dtype=torch.float64)
    doubled = doublings(step, length)
    silence, impulse = torch.zeros(length, dtype=torch.float64), torch.eye(length, dtype=torch.float64)[0]
    for h in range(2):
        free, last_free = stepped(step[h], b[h], c[h], silence, x[h])
        _, last_forced = stepped(step[h], b[h], c[h], u[0, h], 0 * x[h])
        lags, _ = stepped(step[h], b[h], c[h], impulse, 0 * x[h])
        assert error(kernel(doubled, b, c, length)[h], lags) < 1e-12
        assert error(free_response(doubled, c, x[None], length)[0, h], free) < 1e-12
        assert error(power(doubled, length)[h] @ x[h], last_free) < 1e-12
        assert error(forced_state(doubled, b, u)[0, h], last_forced) < 1e-12


@pytest.mark.parametrize("rate", (None, 8000, 44100))
@pytest.mark.parametrize("init", HIPPO)
def test_it_is_the_system_that_scipy_discretises(init, rate):
    torch.manual_seed(0)
    module = LSSL(3, 6, init=init, native_rate=None if rate is None else 16000).double()
    u = torch.randn(2, 301, 3, dtype=torch.float64)
    with torch.no_grad():
        y, state = module(u, rate=rate)
    dt = module.log_dt.exp().detach().numpy() * (1 if rate is None else 16000 / rate)
    a, b = module.a.numpy(), module.b.numpy()[:, None]
    for h in range(3):
        step, gain = cont2discrete((a, b, np.eye(6), np.zeros((6, 1))), dt[h], "bilinear")[:2]
        for row in range(2):
            expected, last = stepped(
                *map(torch.from_numpy, (step, gain[:, 0])), module.c[h].detach(), u[row, :, h], torch.zeros(6).double()
            )
            assert error(y[row, :, h], expected + module.d[h].detach() * u[row, :, h]) < 1e-9
            assert error(state["x"][row, h], last) < 1e-9


def test_a_system_of_one_dimension_is_a_known_decay():
    # LegS of size 1 is x' = -x + u; dt 0.1: x_n = 0.95 / 1.05 x_{n-1} + 0.1 / 1.05 u_n.
    module = LSSL(1, 1)
    with torch.no_grad():
        module.log_dt.fill_(np.log(0.1))
        module.c.fill_(1.0)
        module.d.fill_(0.0)
        y, _ = module(torch.ones(1, 1, 1) * torch.eye(40)[0][None, :, None])
    assert y[0, :, 0].numpy() == pytest.approx(0.1 / 1.05 * (0.95 / 1.05) ** np.arange(40), rel=1e-4)


def test_gradients_are_those_of_the_unrolled_step():
    torch.manual_seed(0)
    module = LSSL(3, 5).double()
    u = torch.randn(2, 100, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 100, 3, dtype=torch.float64)
    gradients = []
    for size in (100, 1):
        state, out = {"x": 0.1 + module.initial_state(2)["x"]}, []
        for piece in u.split(size, dim=1):
            y, state = module(piece, state)
            out.append(y)
        loss = (torch.cat(out, dim=1) * target).sum() + state["x"].sum()
        gradients.append(torch.autograd.grad(loss, [u, *module.parameters()]))
    for parallel, unrolled in zip(*gradients, strict=True):
        assert error(parallel, unrolled) < 1e-9


def test_a_finer_rate_gives_the_same_to_second_order():
    torch.manual_seed(0)
    module = LSSL(3, 6, native_rate=16000).double()

    def at_common_times(finer):
        middle = (torch.arange(200 * finer, dtype=torch.float64) + 0.5) / finer
        y, _ = module(torch.sin(0.1 * middle)[None, :, None].expand(1, -1, 3), rate=16000 * finer)
        return (y - module.d * torch.sin(0.1 * middle)[None, :, None])[:, finer - 1 :: finer].detach()

    once, twice, four_times = map(at_common_times, (1, 2, 4))
    assert error(once, twice) < 0.02
    assert 3 < error(once, twice) / error(twice, four_times) < 5


@pytest.mark.parametrize("init", HIPPO)
def test_an_hour_of_noise_at_full_scale_leaves_the_state_bounded(init):
    torch.manual_seed(0)
    module, state = LSSL(2, 16, init=init), None
    with torch.no_grad():
        for _ in range(10):
            y, state = module(torch.randn(1, 50 * 360, 2).sign(), state)  # 50 frames a second
    assert y.isfinite().all() and state["x"].abs().max() < 100


# Export


@pytest.mark.parametrize("frame", (4, 2 * BLOCK + 3))  # 1, a keyword model's: tests/test_catalog.py
def test_the_exported_frame_is_the_module(frame):
    torch.manual_seed(0)
    module = LSSL(5, 8).eval()
    u, first = torch.randn(2, FRAMES * frame, 5), torch.randn(2, 5, 8)
    y, last, graph = run_as_file(module, u, {"x": first}, frame)
    longest = max(np.prod(part.dims) for part in graph.initializer)
    assert longest <= 5 * (min(frame, BLOCK) + 8) ** 2
    with torch.no_grad():
        expected, state = module(u, {"x": first})
    assert error(y, expected) < 1e-4
    assert error(last["x"], state["x"]) < 1e-4


# Bad input


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="init is one of legs, legt, not lin"):
        LSSL(3, init="lin")
    with pytest.raises(ValueError, match="at least one state dimension"):
        LSSL(3, d_state=0)
    with pytest.raises(ValueError, match="LSSL has no sampling rate"):
        LSSL(3)(torch.zeros(1, 5, 3), rate=16000)

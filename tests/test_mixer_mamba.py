"""Mamba, Mamba-2 and Mamba-3 are the papers' equations: in parallel, in steps and as an exported file, and stable."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch.nn.functional import softplus

from audiossm.backbones import Block, Stack
from audiossm.mixers import Mamba, Mamba2, Mamba3, mamba, mamba2, mamba3
from audiossm.mixers.mamba2 import head_channels

from .law import check_law
from .mixer_checks import FRAMES, run_as_file

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "mamba": lambda: Mamba(5, d_state=3),
    "mamba of rank 3 and 2 taps": lambda: Mamba(4, d_state=1, d_conv=2, expand=3, dt_rank=3),
    "mamba2": lambda: Mamba2(6, d_state=5),
    "mamba2 in groups": lambda: Mamba2(6, d_state=4, d_conv=2, headdim=3, ngroups=2),
    "mamba2 of one head": lambda: Mamba2(3, d_state=2, headdim=6),
    "mamba3": lambda: Mamba3(6, d_state=4, headdim=4),
    "mamba3 of one channel a head": lambda: Mamba3(5, d_state=2),
}
SLOWER = {"log_decay": -6.0, "decay_bias": -6.0}
every = pytest.mark.parametrize("name", SMALL)


def build(name, dtype=torch.float64, seed=0):
    """A module of SMALL in eval mode with no parameter at a special value."""
    torch.manual_seed(seed)
    module = SMALL[name]().to(dtype).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        module.dt_bias += 3  # steps of 0.2: far from the limit of small ones
    return module


def width(module):
    return module.outward.out_features


def noise(module, batch, length, seed=1):
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(batch, length, width(module), generator=generator, dtype=torch.float64)
    return u.to(module.d.dtype)


def random_state(module, batch):
    generator = torch.Generator().manual_seed(2)
    return {
        key: torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        for key, value in module.initial_state(batch).items()
    }


def error(found, expected):
    found, expected = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x) for x in (found, expected))
    assert found.shape == expected.shape
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


# The law


@every
def test_obeys_the_law(name):
    check_law(SMALL[name], channels=width(SMALL[name]()), slower=SLOWER)


def test_obeys_the_law_in_a_stack():
    def make():
        return Stack(Block(mixer, 4, dropout=0.2) for mixer in (Mamba(4, 2), Mamba2(4, 3), Mamba3(4, 2)))

    check_law(make, channels=4, slower=SLOWER)


@every
def test_gradients_are_those_of_the_steps(name):
    module = build(name)
    u, state = noise(module, 2, 23).requires_grad_(), random_state(module, 2)

    def gradients(outputs, last):
        loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in (outputs, *last))
        return torch.autograd.grad(loss, [u, *module.parameters()])

    generator = torch.Generator().manual_seed(3)
    y, last = module(u, state)
    whole = gradients(y, last.values())
    outputs = []
    for step in u.split(1, dim=1):
        out, state = module(step, state)
        outputs.append(out)
    generator.manual_seed(3)
    for found, expected in zip(whole, gradients(torch.cat(outputs, dim=1), state.values()), strict=True):
        assert error(found, expected) < 1e-9


# The papers' equations, one number after another


def silu(x):
    return x / (1 + np.exp(-x))


def arrays(module):
    return {name: value.detach().numpy() for name, value in module.named_parameters()}


def convolved(x, weight, bias, past):
    """silu(bias + sum_w weight_w x_{t-W+1+w}) of x (L, D), with the inputs before it (D, W - 1)."""
    taps, out = weight.shape[-1], np.empty_like(x)
    line = np.concatenate((past.T, x))
    for t in range(len(x)):
        for channel in range(x.shape[1]):
            total = bias[channel]
            for w in range(taps):
                total += weight[channel, 0, w] * line[t + w, channel]
            out[t, channel] = silu(total)
    return out


def mamba_by_hand(module, u, state):
    """One sequence u (L, H): outputs (L, H) and the last h (D, N)."""
    p = arrays(module)
    x, z = np.split(u @ p["inward.weight"].T, 2, axis=1)
    x = convolved(x, p["conv.weight"], p["conv.bias"], state["conv"])
    h, out = state["x"].copy(), []
    rank, n = p["widen.weight"].shape[1], h.shape[1]
    for t in range(len(u)):
        selected = p["select.weight"] @ x[t]
        r, b, c = selected[:rank], selected[rank : rank + n], selected[rank + n :]
        dt = np.log1p(np.exp(p["widen.weight"] @ r + p["dt_bias"]))
        y = np.zeros(len(h))
        for d in range(len(h)):
            for i in range(n):
                a = -np.exp(p["log_decay"][d, i])
                h[d, i] = np.exp(dt[d] * a) * h[d, i] + dt[d] * b[i] * x[t, d]
                y[d] += c[i] * h[d, i]
            y[d] += p["d"][d] * x[t, d]
        out.append(p["outward.weight"] @ (y * silu(z[t])))
    return np.array(out), h


def mamba2_by_hand(module, u, state):
    """One sequence u (L, H): outputs (L, H) and the last h (K, P, N)."""
    p = arrays(module)
    h, out = state["x"].copy(), []
    heads, width, n = h.shape
    inner, groups = heads * width, module.ngroups
    for t, row in enumerate(u @ p["inward.weight"].T):
        z, dt = row[:inner], np.log1p(np.exp(row[-heads:] + p["dt_bias"]))
        if t == 0:
            mixed = (u @ p["inward.weight"].T)[:, inner:-heads]
            mixed = convolved(mixed, p["conv.weight"], p["conv.bias"], state["conv"])
        x = mixed[t, :inner].reshape(heads, width)
        b, c = mixed[t, inner:].reshape(2, groups, n)
        y = np.zeros((heads, width))
        for k in range(heads):
            g = k * groups // heads
            a = np.exp(-dt[k] * np.exp(p["log_decay"][k]))
            for channel in range(width):
                for i in range(n):
                    h[k, channel, i] = a * h[k, channel, i] + dt[k] * x[k, channel] * b[g, i]
                    y[k, channel] += h[k, channel, i] * c[g, i]
                y[k, channel] += p["d"][k] * x[k, channel]
        gated = y.ravel() * silu(z)
        out.append(p["outward.weight"] @ (gated / np.sqrt(np.mean(gated**2) + 1e-5) * p["norm"]))
    return np.array(out), h


def mamba3_by_hand(module, u, state):
    """One sequence u (L, H), in complex numbers (appendix B.3): outputs (L, H) and the last h (K, P, N)."""
    p = arrays(module)
    heads, n = p["b_bias"].shape

    def paired(v):
        return v[..., : n // 2] + 1j * v[..., n // 2 :]

    def normed(v, weight):
        return v / np.sqrt(np.mean(v**2) + 1e-5) * weight

    h, b_before, x_before, out = paired(state["x"]), paired(state["b"]), state["u"], []
    for row in u @ p["inward.weight"].T:
        z, x, b, c, dt, a, mix, theta = np.split(row, np.cumsum(module.sizes)[:-1])
        x, dt = x.reshape(heads, -1), np.log1p(np.exp(dt + p["dt_bias"]))
        a, mix = -np.log1p(np.exp(a + p["decay_bias"])), 1 / (1 + np.exp(-mix))
        b, c = paired(normed(b, p["b_norm"]) + p["b_bias"]), paired(normed(c, p["c_norm"]) + p["c_bias"]).conj()
        y = np.zeros_like(x)
        for k in range(heads):
            decay = np.exp(dt[k] * (a[k] + 1j * theta))
            for channel in range(x.shape[1]):
                past, now = b_before[k] * x_before[k, channel], b[k] * x[k, channel]
                h[k, channel] = decay * (h[k, channel] + (1 - mix[k]) * dt[k] * past) + mix[k] * dt[k] * now
                y[k, channel] = (c[k] * h[k, channel]).real.sum() + p["d"][k] * x[k, channel]
        b_before, x_before = b, x
        out.append(p["outward.weight"] @ (normed(y.ravel(), p["norm"]) * silu(z)))
    return np.array(out), np.concatenate((h.real, h.imag), axis=-1)


BY_HAND = {Mamba: mamba_by_hand, Mamba2: mamba2_by_hand, Mamba3: mamba3_by_hand}


@every
@pytest.mark.parametrize("length", (1, 70))
def test_is_the_papers_equations(name, length):
    module = build(name)
    u, state = noise(module, 2, length), random_state(module, 2)
    y, last = module(u, state)
    for row in range(2):
        start = {key: value[row].numpy() for key, value in state.items()}
        expected, h = BY_HAND[type(module)](module, u[row].numpy(), start)
        assert error(y[row], expected) < 1e-9 and error(last["x"][row], h) < 1e-9


@pytest.mark.parametrize("name", [name for name in SMALL if "mamba3" not in name])
def test_a_constant_input_gives_the_geometric_series(name, monkeypatch):
    """With x, B, C and δ constant, h_t = a^t h_0 + (1 - a^t) / (1 - a) δ B x."""
    module = build(name)
    taps, length = module.conv.weight.shape[-1], 40
    u = noise(module, 1, 1).expand(1, taps - 1 + length, -1)
    _, filled = module(u[:, : taps - 1])  # from here on the convolution sees one value
    scan, seen = watch(module, monkeypatch)
    start = filled | {"x": random_state(module, 1)["x"]}
    _, last = module(u[:, taps - 1 :], start)
    x, dt, rates, b = (value.detach() for value in seen[0][:4])
    if scan == "ssd":  # to states (K, P, N)
        dt = softplus(dt[0, 0] + module.dt_bias)[:, None, None]
        x, b = x[0, 0][..., None], b[0, 0].repeat_interleave(module.heads // module.ngroups, dim=0)[:, None]
        rates = rates[:, None, None]
    else:  # (D, N)
        dt, x, b = softplus(dt[0, :, :1] + module.dt_bias[:, None]), x[0, :, :1], b[0, :, 0]
    a = (dt * rates).exp()
    expected = a**length * start["x"][0] + (1 - a**length) / (1 - a) * dt * b * x
    assert error(last["x"][0], expected) < 1e-9


def test_mamba3_of_a_constant_input_gives_the_geometric_series():
    """h_t = a^t h_0 + (1 - a^t) / (1 - a) δ (a (1 - λ) + λ) B x, with a complex a = exp(δ (A + iθ))."""
    module = build("mamba3")
    u, length = noise(module, 1, 1).expand(1, 41, -1), 40
    _, start = module(u[:, :1])
    _, last = module(u[:, 1:], start)
    with torch.no_grad():
        *_, dt, a, mix, theta = module.inward(u[0, 0]).split(module.sizes)
        dt, mix = softplus(dt + module.dt_bias)[:, None], mix.sigmoid()[:, None]
        a = torch.exp(dt * torch.complex(-softplus(a + module.decay_bias)[:, None], theta[None]))  # (K, N/2)
        h, expected, b = (torch.complex(*v[0].chunk(2, dim=-1)) for v in (start["x"], last["x"], start["b"]))
        sums = (1 - a**length) / (1 - a) * dt * (a * (1 - mix) + mix) * b
        found = (a**length)[:, None] * h + sums[:, None] * start["u"][0].unsqueeze(-1)
    assert error(found, expected) < 1e-9


def test_mamba3_is_of_second_order_where_it_is_a_trapezoid():
    """With λ = 1/2 half the step leaves a quarter of the error; with λ = 1, Mamba-2's rule, half of it."""
    for bias, low, high in ((0.0, 3.5, 4.5), (40.0, 1.8, 2.3)):
        once, twice, four_times = (turning(bias, steps) for steps in (50, 100, 200))
        assert low < error(once, twice) / error(twice, four_times) < high


def turning(bias, steps):
    """The state after one second of x' = (A + iθ) x + B sin in so many steps; `bias` is that of λ."""
    torch.manual_seed(0)
    module = Mamba3(2, d_state=4, headdim=4).double()
    dt = torch.tensor(1 / steps, dtype=torch.float64)
    names = ("z", "x", "b", "c", "dt", "a", "mix", "theta")
    parts = dict(zip(names, torch.split(module.inward.weight, module.sizes), strict=True))
    with torch.no_grad():
        for name in ("b", "dt", "a", "mix", "theta"):
            parts[name].zero_()
        module.dt_bias.copy_(dt.expm1().log())
        parts["mix"][:, 1], parts["theta"][:, 1] = bias, torch.tensor([3.0, 8.0])
        time = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        u = torch.stack(((3 * time).sin(), torch.ones_like(time)), dim=-1).unsqueeze(0)
        parts["x"][:, 1] = 0  # the second input is a constant for λ and θ alone
        return module(u)[1]["x"]


@every
def test_steps_of_nothing_and_of_all_are_finite(name):
    """The state is kept where δ is 0, replaced where δ is large; outputs and gradients are finite in float32."""
    module = build(name, torch.float32)
    u, state = noise(module, 2, 40), random_state(module, 2)
    for bias in (-200.0, 200.0):
        with torch.no_grad():
            module.dt_bias.fill_(bias)
        y, last = module(u, state)
        if bias < 0:
            kept = last["x"].norm(dim=(-2, -1)) / state["x"].norm(dim=(-2, -1))
            torch.testing.assert_close(kept, torch.ones_like(kept))
        grads = torch.autograd.grad(y.square().sum() + last["x"].square().sum(), list(module.parameters()))
        assert y.isfinite().all() and last["x"].isfinite().all() and all(g.isfinite().all() for g in grads)


def watch(module, monkeypatch):
    """Return the name of a module's kernel, and a list that collects the arguments of its calls."""
    place, name = {Mamba: (mamba, "selective_scan"), Mamba2: (mamba2, "ssd"), Mamba3: (mamba3, "ssd")}[type(module)]
    kernel, seen = getattr(place, name), []

    def watched(*args, **options):
        seen.append(args)
        return kernel(*args, **options)

    monkeypatch.setattr(place, name, watched)
    return name, seen


# Where it starts


@pytest.mark.parametrize(
    "make", (lambda: Mamba(1000), lambda: Mamba2(1000, headdim=1), lambda: Mamba3(1000, headdim=1))
)
def test_steps_start_log_uniform(make):
    torch.manual_seed(0)
    module = make()
    dt = softplus(module.dt_bias.detach().double()).numpy()
    assert 0.000999 < dt.min() < 0.0011 and 0.09 < dt.max() < 0.1001
    assert kstest(np.log(dt), "uniform", (np.log(0.001), np.log(100))).pvalue > 0.01


def test_mamba_starts_as_the_paper_says():
    module = Mamba(100)
    assert module.widen.weight.shape == (200, 7) and module.conv.weight.shape == (200, 1, 4)
    torch.testing.assert_close(-module.log_decay.exp(), -torch.arange(1.0, 17).expand(200, 16))
    assert module.initial_state(3)["x"].shape == (3, 200, 16) and module.initial_state(3)["conv"].shape == (3, 200, 3)


def test_mamba2_starts_as_the_paper_says():
    module = Mamba2(512)
    assert (module.heads, module.headdim, module.d_state) == (16, 64, 128)
    assert ((module.log_decay.exp() >= 1) & (module.log_decay.exp() <= 16)).all()
    assert module.initial_state(3)["x"].shape == (3, 16, 64, 128)
    assert module.initial_state(3)["conv"].shape == (3, 1024 + 2 * 128, 3)


@pytest.mark.parametrize(
    "inner, headdim", ((1024, 64), (512, 64), (192, 16), (256, 32), (24, 2), (200, 8), (2, 1), (7, 1))
)
def test_small_models_have_small_heads(inner, headdim):
    assert head_channels(inner, None) == headdim


def test_mamba3_starts_as_the_paper_says():
    module = Mamba3(512)
    assert (len(module.d), module.headdim) == (16, 64) and module.initial_state(3)["x"].shape == (3, 16, 64, 128)
    assert (module.b_bias == 1).all() and (module.c_bias == 1).all()
    decay = softplus(module.decay_bias)
    assert ((decay > 0.999) & (decay < 16.001)).all()


@every
def test_the_parameters_of_the_system_learn_slowly(name):
    decay = "decay_bias" if "mamba3" in name else "log_decay"
    assert {name for name, p in SMALL[name]().named_parameters() if hasattr(p, "ssm_lr")} == {"dt_bias", decay}


# Stability

HOUR = 180_000  # steps of 20 ms


@pytest.mark.parametrize("sound", ("noise", "silence", "full scale"))
@pytest.mark.parametrize("name", ("mamba", "mamba2", "mamba3"))
def test_an_hour_leaves_the_state_bounded(name, sound, monkeypatch):
    """Decays are in (0, 1] and h is a mean of what drives it: |h| never exceeds the largest |δ B x / (1 - a)|.

    So it is for Mamba-3 where its kernel is called, and beyond that a pair turns: a factor of √2 and of the last step.
    """
    module = build(name, torch.float32)
    _, seen = watch(module, monkeypatch)
    state, bound = None, 0.0
    with torch.inference_mode():
        for minute in range(60):
            u = torch.ones(1, HOUR // 60, width(module))
            u = {"noise": noise(module, 1, u.shape[1], minute).clamp(-1, 1), "silence": 0 * u, "full scale": u}[sound]
            y, state = module(u, state)
            bound = max(bound, drive(module, *seen.pop()[:4]))
            assert y.isfinite().all() and all(part.isfinite().all() for part in state.values())
            assert state["x"].abs().max() <= (1.5 if name == "mamba3" else 1.001) * bound


def drive(module, x, dt, rates, b):
    """The largest |δ B x / (1 - a)|; every decay a is checked."""
    if isinstance(module, Mamba):
        dt, x, b = softplus(dt + module.dt_bias[:, None]).unsqueeze(2), x.unsqueeze(2), b.unsqueeze(1)
        rates = rates.unsqueeze(-1)
    else:
        dt = dt if isinstance(module, Mamba3) else softplus(dt + module.dt_bias)
        b = b.repeat_interleave(dt.shape[2] // b.shape[2], dim=2).unsqueeze(3)
        dt, x, rates = dt[..., None, None], x.unsqueeze(-1), rates[:, None, None]
    assert ((dt * rates).exp() <= 1).all() and (dt > 0).all()
    return (dt * b * x / -torch.expm1(dt * rates)).abs().max().item()


# The exported file


@pytest.mark.parametrize(
    "name, steps, nodes",
    (
        ("mamba of rank 3 and 2 taps", 1, 75),
        ("mamba", 4, 125),
        ("mamba2", 4, 95),
        ("mamba2 in groups", 4, 100),
        ("mamba3", 4, 170),
    ),
)
def test_the_exported_file_is_the_module(name, steps, nodes):
    """Frames of one step, a keyword model's: tests/test_catalog.py."""
    module = build(name, torch.float32)
    u, start = noise(module, 3, FRAMES * steps), random_state(module, 3)
    found, state, graph = run_as_file(module, u, start, steps)
    assert len(graph.node) <= nodes
    with torch.no_grad():
        expected, last = module(u, start)
    assert error(found, expected) < 1e-4
    assert all(error(state[part], value) < 1e-4 for part, value in last.items())


def test_mamba2_exports_long_frames_in_chunks():
    module = build("mamba2", torch.float32)
    assert len(run_as_file(module, noise(module, 1, 70), random_state(module, 1), 70)[2].node) < 150


# Bad input


@pytest.mark.parametrize("cls", (Mamba, Mamba2, Mamba3))
@pytest.mark.parametrize("bad", ({"d_state": 0}, {"expand": 0}, {"d_conv": 1}, {"d_conv": 9}, {"dt_min": 0.0}))
def test_bad_sizes_are_one_clear_line(cls, bad):
    if cls is Mamba3 and "d_conv" in bad:
        bad = {"d_state": 5}
    with pytest.raises(ValueError, match=next(iter(bad))) as raised:
        cls(8, **bad)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="d_model must be at least 1, not 0"):
        cls(0)
    with pytest.raises(ValueError, match="dt_rank must be at least 1, not 0"):
        Mamba(8, dt_rank=0)


@pytest.mark.parametrize("headdim", (0, 7, 32, -2))
def test_heads_must_divide_the_channels(headdim):
    with pytest.raises(ValueError, match=f"headdim must divide expand · d_model = 24: not {headdim}, .* 2$"):
        Mamba2(12, headdim=headdim)
    with pytest.raises(ValueError, match="headdim must divide"):
        Mamba3(12, headdim=headdim)


def test_groups_must_divide_the_heads():
    with pytest.raises(ValueError, match="ngroups must divide the 3 heads of 8 channels, and 2 does not"):
        Mamba2(12, headdim=8, ngroups=2)


@every
def test_has_no_rate(name):
    module = SMALL[name]()
    assert not module.any_rate and module.streamable and module.when
    with pytest.raises(ValueError, match="has no sampling rate"):
        module(torch.zeros(1, 3, width(module)), rate=16000)

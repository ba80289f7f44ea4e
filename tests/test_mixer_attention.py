"""Attention with a window: what scaled_dot_product_attention gives under a mask, in constant memory, at any time."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audiossm.export.frame import unstreamable
from audiossm.mixers import S4D, Attention, Bidirectional, Mixer
from audiossm.mixers.attention import rotate

from .law import check_law
from .mixer_checks import FRAMES, run_as_file


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def in_full(module, u, begin=0):
    """The module's output for u (B, L, H) by one L x L mask, with step 0 at the position `begin`."""
    length, group_size = u.shape[1], module.query.out_features // (module.groups * module.size)
    q = module.query(u).unflatten(-1, (-1, module.size)).transpose(1, 2)  # (B, heads, L, D)
    k, v = module.key_value(u).unflatten(-1, (2, module.groups, module.size)).permute(2, 0, 3, 1, 4)
    q, k = (turned(x, begin, module.base) for x in (q, k))
    k, v = (x.repeat_interleave(group_size, dim=1) for x in (k, v))
    t = torch.arange(length)
    mask = (t[:, None] >= t) & (t[:, None] - t < module.window)
    return module.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


def turned(x, begin, base):
    """RoPE as its paper writes it (equation 12): a complex number a pair of channels, times exp(i m theta)."""
    half = x.shape[-1] // 2
    theta = torch.tensor([base ** (-2 * i / x.shape[-1]) for i in range(half)], dtype=torch.float64)
    place = torch.arange(begin, begin + x.shape[-2], dtype=torch.float64)
    z = torch.complex(x[..., :half], x[..., half:]) * torch.exp(1j * place[:, None] * theta)
    return torch.cat((z.real, z.imag), dim=-1)


@pytest.mark.parametrize("length", (1, 2, 6, 7, 8, 14, 50))
@pytest.mark.parametrize("heads, groups", ((1, 1), (4, 4), (4, 2), (2, 1)))
def test_it_is_attention_under_a_banded_mask(heads, groups, length):
    torch.manual_seed(0)
    module = Attention(16, heads, groups, window=7).double()
    u = torch.randn(3, length, 16, dtype=torch.float64)
    assert error(module(u)[0], in_full(module, u)) < 1e-12
    assert error(module(u)[0], in_full(module, u, begin=1000)) < 1e-12  # only lags matter


def test_a_wide_window_is_plain_causal_attention():
    module, u = Attention(8, window=100).double(), torch.randn(2, 30, 8, dtype=torch.float64)
    y = module(u)[0]
    module.window = 30
    assert error(y, in_full(module, u)) < 1e-12


def test_rotated_products_depend_on_the_lag_alone():
    q, k = torch.randn(2, 1, 10, dtype=torch.float64)

    def product(i, j):
        return (rotate(q, torch.tensor([i]), 10000.0) * rotate(k, torch.tensor([j]), 10000.0)).sum()

    assert product(3, 0) == pytest.approx(product(1003, 1000).item(), rel=1e-12)
    assert product(0, 0) == pytest.approx((q * k).sum().item(), rel=1e-12)
    assert product(3, 0) != pytest.approx(product(0, 3).item(), rel=1e-3)


def test_a_shifted_sequence_gives_shifted_outputs_however_late():
    torch.manual_seed(0)
    module, u = Attention(8, window=5), torch.randn(1, 40, 8)
    with torch.no_grad():
        _, state = module(torch.randn(1, 20000, 8))
        late, _ = module(u, state)
        early, _ = module(u)
    assert error(late[:, 4:], early[:, 4:]) < 1e-6  # once the window holds u alone
    assert error(late[:, :4], early[:, :4]) > 1e-3


def test_a_step_sees_the_window_and_no_more():
    module = Attention(8, window=6).double()
    u = torch.randn(1, 30, 8, dtype=torch.float64, requires_grad=True)
    module(u)[0][:, 20].sum().backward()
    assert u.grad[0].any(1).nonzero().flatten().tolist() == list(range(15, 21))


@pytest.mark.parametrize(
    "make",
    (
        lambda: Attention(8, window=9),
        lambda: Attention(12, heads=6, groups=2, window=2),
        lambda: Attention(6, heads=1, window=50, base=100.0),
        lambda: Attention(d_model=8),
    ),
)
def test_the_law(make):
    check_law(make, channels=make().query.in_features, slower={}, longest=30, examples=8)


def test_gradients_of_the_blocks_are_those_of_the_steps():
    torch.manual_seed(0)
    module = Attention(8, heads=4, groups=2, window=5).double()
    u, weight = torch.randn(2, 2, 23, 8, dtype=torch.float64)
    u.requires_grad_()
    wanted = [u, *module.parameters()]
    whole = torch.autograd.grad((module(u)[0] * weight).sum(), wanted)
    state, steps = None, []
    for step in u.split(1, dim=1):
        y, state = module(step, state)
        steps.append(y)
    stepped = torch.autograd.grad((torch.cat(steps, dim=1) * weight).sum(), wanted)
    for a, b in zip(whole, stepped, strict=True):
        assert error(a, b) < 1e-10


def test_scores_take_memory_by_length_times_window():
    """At 40,000 steps a full mask alone would be 1.6 GB, scores 6.4."""

    class Largest(torch.overrides.TorchFunctionMode):
        size = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.size = max(self.size, out.untyped_storage().nbytes() // out.element_size())
            return out

    with torch.no_grad(), Largest() as largest:
        module = Attention(4, heads=2, window=8)
        module(torch.randn(1, 40000, 4))
    assert 40000 * 8 <= largest.size <= 40000 * 8 * 4


@torch.no_grad()
def test_the_exported_frame_is_the_module():
    """Of four steps, and heads in groups; of one step and a group to each head: tests/test_catalog.py."""
    torch.manual_seed(0)
    module, u = Attention(16, heads=4, groups=2, window=13).eval(), torch.randn(2, FRAMES * 4, 16)
    _, state = module(torch.randn(2, 10, 16))  # two of the twelve places before are still empty
    want, last = module(u, state)
    got, state, _ = run_as_file(module, u, state, 4)
    assert error(got, want) < 1e-4
    assert all(error(state[name], last[name]) < 1e-4 for name in last)


@pytest.mark.parametrize(
    "sizes, message",
    (
        ({"d_model": 10, "heads": 4}, "4 heads do not divide d_model 10"),
        ({"d_model": 10, "heads": 0}, "0 heads"),
        ({"d_model": 16, "heads": 4, "groups": 3}, "3 groups do not divide 4 heads"),
        ({"d_model": 12, "heads": 4}, "even, not 12 / 4"),
        ({"d_model": 7}, "even, not 7 / 1"),
        ({"d_model": 8, "window": 0}, "window must be at least 1, the step itself, not 0"),
        ({"d_model": 8, "window": -3}, "not -3"),
    ),
)
def test_sizes_that_do_not_fit_are_refused_in_one_line(sizes, message):
    with pytest.raises(ValueError, match=message) as caught:
        Attention(**sizes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("d_model, heads", ((2, 1), (4, 2), (12, 2), (100, 2), (128, 4)))
def test_heads_of_its_own_choice(d_model, heads):
    assert Attention(d_model).groups == heads


def test_a_rate_is_refused():
    with pytest.raises(ValueError, match="Attention has no sampling rate"):
        Attention(4)(torch.zeros(1, 3, 4), rate=16000)


# Both directions


def test_bidirectional_is_the_sum_of_a_mixer_forward_and_one_backward():
    torch.manual_seed(0)
    module, u = Bidirectional(4, lambda width: S4D(width, 6)), torch.randn(2, 30, 4)
    y, state = module(u)
    assert error(y, module.ahead(u)[0] + module.back(u.flip(1))[0].flip(1)) < 1e-6
    assert state == module.initial_state(2) == {}
    assert not torch.equal(module.ahead.c, module.back.c)  # two mixers, not one twice
    mirrored = Bidirectional(4)
    mirrored.ahead, mirrored.back = module.back, module.ahead
    assert error(mirrored(u.flip(1))[0], y.flip(1)) < 1e-6


def test_bidirectional_says_that_it_cannot_stream():
    module = Bidirectional(4)
    assert not module.streamable and isinstance(module, Mixer)
    assert unstreamable(nn.ModuleDict({"a": Attention(4), "b": module})) == ["b"]


def test_bidirectional_has_a_rate_where_its_mixers_have():
    u = torch.randn(1, 20, 3)
    raw = Bidirectional(3, lambda width: S4D(width, 4, native_rate=16000))
    assert raw.any_rate and not torch.equal(raw(u, rate=8000)[0], raw(u)[0])
    assert not Bidirectional(3).any_rate
    with pytest.raises(ValueError, match="no sampling rate"):
        Bidirectional(3)(u, rate=8000)


@pytest.mark.parametrize("length", (0, 1))
def test_bidirectional_of_short_sequences(length):
    assert Bidirectional(4)(torch.randn(2, length, 4))[0].shape == (2, length, 4)


def test_a_mean_where_all_keys_are_alike():
    """With keys of zero the softmax is uniform: y is the mean of the values seen, from the first step on."""
    module = Attention(4, heads=1, window=3).double()
    with torch.no_grad():
        module.key_value.weight[:4] = 0
        module.key_value.weight[4:] = torch.eye(4)
        module.out.weight.copy_(torch.eye(4))
        module.out.bias.zero_()
    u = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(1, 6, 1).expand(1, 6, 4)
    want = [1, 1.5, 2, 3, 4, 5]
    assert module(u)[0][0, :, 0].tolist() == pytest.approx(want)
    assert math.isclose(module(u[:, :1])[0].mean().item(), 1.0)

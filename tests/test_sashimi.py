"""SaShiMi obeys the law at any cut, in both forms, with any mixer in its centre; its sizes are the published ones."""

import math

import pytest
import torch

from audiossm.backbones import SaShiMi, UpPool
from audiossm.backbones.sashimi_step import SaShiMiStep

from .law import check_law


def small(**sizes):
    return SaShiMi(**{"d_model": 4, "layers": 1, "pool": (2, 3), "d_state": 4} | sizes)


@pytest.mark.parametrize("pool", ((), (4,), (2, 3), (4, 4)))
def test_law_at_cuts_within_pools(pool):
    check_law(lambda: small(pool=pool), channels=4, examples=8)


def test_law_of_the_u_net_form():
    check_law(lambda: small(unet=True, layers=2, dropout=0.2), channels=4, examples=6)


def test_law_at_another_rate():
    check_law(lambda: small(native_rate=16000), channels=4, rate=22050, examples=6)


@pytest.mark.parametrize("centre", ("mamba", "mamba2", "attention", "s4"))
def test_law_with_other_mixers_in_the_centre(centre):
    def make():
        return SaShiMi(8, layers=2, pool=(2, 2), mixers=("s4d", "s4d", f"s4d {centre}"))

    check_law(make, channels=8, examples=5, slower={"log_decay": -6.0})


@torch.no_grad()
def test_single_samples_are_what_the_authors_drew():
    # The steps of the paper written out: each tier on its own clock, a group heard from when it is complete.
    model = small(layers=2, pool=(4, 4)).double().eval()
    u = torch.randn(2, 40, 4, dtype=torch.float64)
    stacks, states = list(model.tiers), [None] * 3
    held, groups, out = [[], []], [torch.zeros(2, 4, 4).double(), torch.zeros(2, 4, 8).double()], []

    def tier(k, x):
        v = x
        if k < 2:
            held[k].append(x)
            v = x + groups[k][:, len(held[k]) - 1]
            if len(held[k]) == 4:
                slow = tier(k + 1, model.down[k].linear(torch.cat(held[k], dim=-1)))
                groups[k] = model.up[k].linear(slow).view(2, 4, -1)
                held[k].clear()
        y, states[k] = stacks[k](v[:, None], states[k])
        return v + y[:, 0]

    for n in range(u.shape[1]):
        out.append(model.norm(tier(0, u[:, n])))
    torch.testing.assert_close(model(u)[0], torch.stack(out, dim=1))


@torch.no_grad()
def test_an_output_hears_no_later_sample_and_every_earlier_one():
    model = small(pool=(4, 4), layers=1).double().eval()
    u = torch.randn(1, 48, 4, dtype=torch.float64)
    for n in (0, 3, 15, 16, 17):
        changed = u.clone()
        changed[:, n] += torch.randn(4, dtype=torch.float64)
        heard = (model(changed)[0] - model(u)[0]).abs().sum((0, 2)) > 0
        assert heard.nonzero()[0].item() == n
        assert heard[n:].all()


def test_phase_counts_samples_modulo_the_period():
    model, state = small(pool=(4, 4)).eval(), None
    assert model.phase(None) == model.phase(model.initial_state(3)) == 0
    for heard, piece in ((5, 5), (5, 0), (6, 1), (16, 10), (33, 17)):
        _, state = model(torch.randn(3, piece, 4), state)
        assert model.phase(state) == heard % 16
    assert all(part.device.type == "cpu" for name, part in state.items() if name.endswith("count"))


@torch.no_grad()
def test_the_same_sound_at_twice_the_rate_without_pools():
    model = small(pool=(), layers=2, native_rate=16000, d_state=8).double().eval()
    t = torch.arange(1600, dtype=torch.float64) / 32000
    fine = torch.stack([torch.sin(2 * math.pi * f * t) for f in (50, 80, 130, 200)], dim=-1)[None]
    at_half, at_full = model(fine[:, ::2])[0], model(fine, rate=32000)[0][:, ::2]
    assert (at_half - at_full).norm() < 0.03 * at_half.norm()
    assert (at_half - model(fine)[0][:, ::2]).norm() > 0.1 * at_half.norm()


def test_each_tier_knows_its_own_rate():
    model = small(native_rate=22050)
    assert [tier.layers[0].mixer.native_rate for tier in model.tiers] == [22050, 11025, 3675]
    torch.testing.assert_close(*(model(torch.ones(1, 30, 4), rate=rate)[0] for rate in (None, 22050)))
    with pytest.raises(ValueError, match="no sampling rate"):
        small()(torch.ones(1, 4, 4), rate=8000)
    with pytest.raises(ValueError, match="no sampling rate"):
        SaShiMi(8, 1, (2,), mixers=("s4d", "mamba"), native_rate=16000)(torch.ones(1, 4, 8), rate=8000)


def test_published_size():
    # S4D's A, C, D and step; the gated layer; the feed-forward block; two norms.
    def layer(h):
        return (64 + 64 + 2) * h + 2 * h * (h + 1) + (4 * h * h + 3 * h) + 4 * h

    pools = 256 * 128 + 128 + 512 * 256 + 256 + 256 * 512 + 512 + 128 * 256 + 256
    model = SaShiMi()
    assert sum(p.numel() for p in model.parameters()) == 8 * sum(map(layer, (64, 128, 256))) + pools + 2 * 64 == 4955904
    wide = SaShiMi(unet=True)
    assert sum(p.numel() for p in wide.parameters()) == 4955904 + 8 * (layer(64) + layer(128))
    assert [(cost.period, cost.state) for cost in model.costs()] == [(1, 32768), (4, 65985), (16, 131969)]
    assert sum(cost.weights for cost in model.costs()) + 2 * 64 == 4955904


def test_layers_of_gated_mixers_are_their_residual():
    model = SaShiMi(8, 1, (2,), mixers=("s4d", "mamba"), ff=0)
    assert model.tiers[0].layers[0].gate is not None and model.tiers[1].layers[0].gate is None
    assert model.tiers[0].layers[0].ff_in is None


def test_a_model_that_hears_both_directions_does_not_stream():
    model = small(mixers="bidirectional:s4d", unet=True)
    assert not model.streamable
    assert model(torch.randn(2, 12, 4))[0].shape == (2, 12, 4)


@pytest.mark.parametrize(
    "sizes, message",
    (
        ({"layers": 0}, "at least 1"),
        ({"pool": (4, 0)}, "at least 1"),
        ({"mixers": ("s4d", "s4d")}, "3 tiers, but 2 patterns"),
        ({"mixers": "s4d+mlp"}, "without \\+mlp"),
        ({"mixers": "nothing"}, "there is no mixer 'nothing'"),
        ({"mixers": "s4d*2", "layers": 3}, "do not fit"),
    ),
)
def test_bad_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        small(**sizes)


def test_up_pool_speaks_of_the_group_after():
    pool = UpPool(3, 2, 4)
    u = torch.randn(2, 5, 3)
    rows, state = pool(u)
    assert rows.shape == (2, 24, 2) and not rows[:, :4].any()
    torch.testing.assert_close(rows[:, 8:12], pool.linear(u[:, 1]).view(2, 4, 2))
    assert torch.equal(state["group"], rows[:, 20:])
    assert pool(u[:, :0], state)[0].shape == (2, 4, 2)


# One sample at a time, in place


def step_by_step(model, u, state, rate=None):
    step, out = SaShiMiStep(model, state, rate), []
    for n in range(u.shape[1]):
        assert step.phase == (model.phase(state) + n) % step.period
        step.slot().copy_(u[:, n])
        out.append(model.norm(step()))
    return torch.stack(out, dim=1)


@pytest.mark.parametrize("heard", (0, 1, 7, 16, 30))
@pytest.mark.parametrize(
    "sizes",
    (
        {"pool": (4, 4)},
        {"pool": (2, 3), "mixers": ("s4d", "s4d", "mamba"), "native_rate": None, "d_state": 4},
        {"pool": (3,), "mixers": ("s4", "s4d"), "layers": 1},
        {"pool": (), "ff": 1},
        {"pool": (4,), "ff": 0},
    ),
)
@torch.no_grad()
def test_steps_in_place_are_the_parallel_form(sizes, heard):
    model = small(**{"layers": 2} | sizes).double().eval()
    u = torch.randn(2, heard + 37, 4, dtype=torch.float64)
    _, state = model(u[:, :heard])
    torch.testing.assert_close(step_by_step(model, u[:, heard:], state), model(u)[0][:, heard:])


@torch.no_grad()
def test_steps_in_place_at_another_rate():
    model = small(native_rate=16000, layers=2).double().eval()
    u = torch.randn(1, 20, 4, dtype=torch.float64)
    found = step_by_step(model, u, model.initial_state(1), 22050)
    torch.testing.assert_close(found, model(u, rate=22050)[0])


def test_the_u_net_form_has_no_step_in_place():
    model = small(unet=True)
    with pytest.raises(ValueError, match="U-Net"):
        SaShiMiStep(model, model.initial_state(1))

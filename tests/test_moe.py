"""Experts: what a loop over the steps gives; losses and dropped choices as the papers define them."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from audiossm.backbones import BranchPair, GatedMLP, MixtureOfExperts, Stack, routing, routing_loss
from audiossm.mixers import S4D

from .law import check_law
from .mixer_checks import FRAMES, run_as_file


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def swiglu(step, widen, out):
    """One expert on one step (H,)."""
    a, b = (step @ widen).chunk(2)
    return (F.silu(a) * b) @ out


def probabilities(module, u):
    return torch.stack([F.softmax(module.router.weight @ step, dim=0) for step in u.flatten(0, 1)])


def in_a_loop(module, u, room=math.inf):
    """The output for u (B, L, H), step by step and choice by choice, and how many choices were dropped."""
    steps, p = u.flatten(0, 1), probabilities(module, u)
    best = [sorted(range(p.shape[1]), key=lambda i, row=row: -row[i].item())[: module.top] for row in p]
    out, taken, dropped = torch.zeros_like(steps), [0] * p.shape[1], 0
    for choice in range(module.top):  # every step's first choice before any second
        for t, step in enumerate(steps):
            expert = best[t][choice]
            gate = p[t, expert] / (sum(p[t, i] for i in best[t]) if module.top > 1 else 1)
            taken[expert] += 1
            if taken[expert] > room:
                dropped += 1
                continue
            out[t] = out[t] + gate * swiglu(step, module.widen[expert], module.out[expert])
    return out.view_as(u), dropped


@pytest.mark.parametrize("top", (1, 2, 5))
@pytest.mark.parametrize("mode", ("train", "eval"))
def test_it_is_a_loop_over_the_steps(mode, top):
    torch.manual_seed(0)
    module, u = MixtureOfExperts(6, experts=5, top=top).double(), torch.randn(3, 11, 6, dtype=torch.float64)
    getattr(module, mode)()
    assert error(module(u)[0], in_a_loop(module, u)[0]) < 1e-12
    assert module.dropped == 0


@pytest.mark.parametrize("top, capacity", ((1, 1.0), (2, 1.0), (2, 0.5), (2, 0.9), (1, 0.01)))
def test_what_exceeds_the_capacity_is_dropped_and_counted_in_training_alone(top, capacity):
    torch.manual_seed(0)
    module, u = MixtureOfExperts(6, 4, top, capacity=capacity).double(), torch.randn(3, 11, 6, dtype=torch.float64)
    want, dropped = in_a_loop(module, u, room=math.ceil(capacity * top * 33 / 4))
    assert error(module(u)[0], want) < 1e-12
    assert module.dropped == dropped > 0
    module.eval()
    assert error(module(u)[0], in_a_loop(module, u)[0]) < 1e-12


def test_gradients_are_those_of_the_loop():
    torch.manual_seed(0)
    module, u = MixtureOfExperts(4, 3, 2).double(), torch.randn(2, 9, 4, dtype=torch.float64, requires_grad=True)
    weight, wanted = torch.randn(2, 9, 4, dtype=torch.float64), [u, *module.parameters()]
    found = torch.autograd.grad((module(u)[0] * weight).sum(), wanted)
    expected = torch.autograd.grad((in_a_loop(module, u)[0] * weight).sum(), wanted)
    for a, b in zip(found, expected, strict=True):
        assert error(a, b) < 1e-10


@pytest.mark.parametrize("top", (1, 2))
def test_the_losses_are_those_of_the_papers(top):
    torch.manual_seed(0)
    module, u = MixtureOfExperts(6, 4, top).double(), torch.randn(2, 20, 6, dtype=torch.float64)
    module(u)
    p = probabilities(module, u)
    chosen = p.argsort(dim=1, descending=True)[:, :top]
    share = torch.stack([(chosen == i).sum() for i in range(4)]) / chosen.numel()
    logits = u.flatten(0, 1) @ module.router.weight.t()
    assert module.balance.item() == pytest.approx((4 * (share * p.mean(0)).sum()).item())
    assert module.z.item() == pytest.approx((logits.exp().sum(1).log() ** 2).mean().item())


def test_balance_is_one_for_even_use_and_n_for_one_expert():
    even = MixtureOfExperts(4, 4, 1)
    with torch.no_grad():
        even.router.weight.copy_(torch.eye(4))
    even(torch.eye(4).repeat(1, 3, 1))
    assert even.balance.item() == pytest.approx(1.0)
    with torch.no_grad():
        even.router.weight[0] = 100.0
    even(torch.eye(4).repeat(1, 3, 1))
    assert even.balance.item() == pytest.approx(4.0, rel=1e-3)


def test_the_balance_loss_spreads_the_choices():
    torch.manual_seed(0)
    module, u = MixtureOfExperts(6, 4, 1), torch.randn(4, 50, 6)
    with torch.no_grad():
        module.router.weight[2] *= 6
    optimizer = torch.optim.Adam([module.router.weight], lr=0.02)
    module(u)
    before = module.balance.item()
    for _ in range(60):
        optimizer.zero_grad()
        module(u)
        routing_loss(routing(module), balance=1.0, z=0.0).backward()
        optimizer.step()
    module(u)
    assert module.balance.item() < 1 + (before - 1) / 3


def test_the_losses_of_all_routers_are_summed():
    torch.manual_seed(0)
    layers = [MixtureOfExperts(4, 3), GatedMLP(4), MixtureOfExperts(4, 3)]
    stack = Stack(BranchPair(S4D(4, 2), channels, 4) for channels in layers)
    stack(torch.randn(2, 9, 4))
    first, _, last = layers
    want = 0.1 * (first.balance + last.balance) + 0.2 * (first.z + last.z)
    found = routing_loss(routing(stack), balance=0.1, z=0.2)
    assert found.item() == pytest.approx(want.item())
    found.backward()
    assert first.router.weight.grad.any() and last.router.weight.grad.any()
    assert routing_loss(routing(GatedMLP(4))) == 0


def test_a_row_of_the_routing_tells_what_share_was_dropped():
    torch.manual_seed(0)
    module = MixtureOfExperts(6, 4, 2, capacity=0.5)
    module(torch.randn(3, 11, 6))
    balance, z, dropped = routing(module)[0]
    assert (balance, z) == (module.balance, module.z) and dropped == module.dropped / (2 * 33) > 0.4


def test_a_model_in_training_can_be_copied():
    module = MixtureOfExperts(4, 3)
    module(torch.randn(1, 5, 4))
    copied = copy.deepcopy(module)
    assert copied.balance == module.balance and module.balance.requires_grad
    assert list(module.state_dict()) == ["widen", "out", "router.weight"]


@pytest.mark.parametrize("top", (1, 2))
def test_the_law(top):
    check_law(lambda: BranchPair(S4D(4, 4), MixtureOfExperts(4, 3, top, capacity=1.0), 4, dropout=0.1), channels=4)


def test_the_law_with_an_mlp():
    check_law(lambda: BranchPair(S4D(4, 4), GatedMLP(4, expand=3), 4), channels=4)


def test_an_mlp_is_swiglu():
    module, u = GatedMLP(5, expand=3).double(), torch.randn(2, 4, 5, dtype=torch.float64)
    want = torch.stack([swiglu(step, module.widen.weight.t(), module.out.weight.t()) for step in u.flatten(0, 1)])
    assert error(module(u)[0], want.view_as(u)) < 1e-12


@pytest.mark.parametrize("module", (MixtureOfExperts(4), GatedMLP(4)), ids=("experts", "mlp"))
def test_steps_are_independent_and_have_no_rate(module):
    module, u = module.eval(), torch.randn(2, 7, 4)
    y, state = module(u)
    assert state == module.initial_state(2) == {}
    assert error(torch.cat([module(step)[0] for step in u.split(1, dim=1)], dim=1), y) < 1e-6
    assert module(u[:, :0])[0].shape == (2, 0, 4)
    with pytest.raises(ValueError, match="no sampling rate"):
        module(u, rate=8000)


@torch.no_grad()
def test_the_exported_expert_is_the_module():
    """One a step; tests/test_hybrid.py exports two."""
    torch.manual_seed(0)
    module = BranchPair(S4D(8, 4), MixtureOfExperts(8, 4, top=1), 8).eval()
    u, before = torch.randn(2, 2, 4 * FRAMES, 8)
    _, state = module(before)
    want, last = module(u, state)
    got, state, _ = run_as_file(module, u, state, 4)
    assert error(got, want) < 1e-4
    assert error(state["x"], last["x"]) < 1e-4


@pytest.mark.parametrize(
    "sizes, message",
    (
        ({"experts": 4, "top": 5}, "from 1 to 4 experts, not 5"),
        ({"experts": 4, "top": 0}, "not 0"),
        ({"experts": 0}, "from 1 to 0 experts"),
        ({"capacity": 0.0}, "capacity must be positive"),
    ),
)
def test_sizes_that_do_not_fit_are_refused_in_one_line(sizes, message):
    with pytest.raises(ValueError, match=message) as caught:
        MixtureOfExperts(4, **sizes)
    assert "\n" not in str(caught.value)

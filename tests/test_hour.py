"""An hour at the keyword stack's clock: whatever is heard, every mixer stays finite and its state bounded."""

import pytest
import torch

from audiossm.backbones import hybrid_stack
from audiossm.mixers.catalog import build_mixer, known_mixers
from audiossm.tasks.keywords import STEPS_PER_SECOND

from .mixer_checks import relative

WIDTH, STEPS = 4, 100
MINUTES = [0.5] * 10 + [5] * 11  # pieces of an hour; after the first five minutes nothing is to grow
PATTERNS = [*(name for name, mixer in known_mixers().items() if mixer.streamable), "s4d attention+mlp mamba+experts"]


def build(name):
    """A small mixer whose steps are those of a keyword model."""
    n = None if name == "s5" else 8
    return build_mixer(name, WIDTH, d_state=n, d_input=2, headdim=4, dt_min=0.016, dt_max=0.25)


def at_full_scale(begin, steps):
    """Return noise, silence, a square wave and a constant, (4, steps, WIDTH)."""
    noise = torch.rand(steps, WIDTH, generator=torch.Generator().manual_seed(begin)) * 2 - 1
    square = 1.0 - 2 * ((begin + torch.arange(steps)) // 17 % 2)
    others = torch.stack((torch.zeros(steps), square, torch.ones(steps)))
    return torch.cat((noise.unsqueeze(0), others.unsqueeze(-1).expand(-1, -1, WIDTH)))


def sizes(y, state):
    """Return the largest output and each part's norm, of each signal."""
    return {"the output": y.abs().amax((1, 2)), **{name: part.flatten(1).norm(dim=1) for name, part in state.items()}}


def hear_an_hour(module):
    """Hear an hour in pieces and return the last state and how many steps were heard; assert that nothing grows."""
    state, begin, most = None, 0, {}
    for minutes in MINUTES:
        u = at_full_scale(begin, round(60 * STEPS_PER_SECOND * minutes))
        y, state = module(u, state)
        begin += u.shape[1]
        for name, size in sizes(y, state).items():
            assert size.isfinite().all(), f"{name} is not finite"
            if minutes < 5:
                most[name] = torch.maximum(size, most.get(name, size))
            else:
                assert (size <= 1.5 * most[name] + 1e-6).all(), f"{name} grows"
    return state, begin


@pytest.mark.parametrize("pattern", PATTERNS)
@torch.inference_mode()
def test_nothing_grows_over_an_hour(pattern):
    torch.manual_seed(0)
    stack = hybrid_stack(pattern, WIDTH, make=build).eval()
    state, heard = hear_an_hour(stack)
    assert heard == 3600 * STEPS_PER_SECOND
    u = at_full_scale(heard, STEPS)
    want, last = stack(u, state)
    steps = []
    for step in u.split(1, dim=1):
        y, state = stack(step, state)
        steps.append(y)
    assert relative(torch.cat(steps, dim=1), want) < 1e-4
    assert all(relative(state[name], part) < 1e-4 for name, part in last.items())


def test_a_state_that_forgets_nothing_is_found():
    def total(u, state):
        y = u.cumsum(1) + (0 if state is None else state["sum"].unsqueeze(1))
        return torch.zeros_like(u), {"sum": y[:, -1]}

    with pytest.raises(AssertionError, match="sum grows"):
        hear_an_hour(total)

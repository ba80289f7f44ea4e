"""Every kernel with a state obeys the splitting law: cut anywhere, the state handed on, it gives what one call does."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiossm.kernels import causal_conv1d, linear_scan, selective_scan, ssd, ssm_conv

from .kernel_checks import exact_noise

pytestmark = pytest.mark.usefixtures("one_thread")
MOST = 200  # steps: several chunks of every kernel


def noise(*shape, seed=0):
    return exact_noise(*shape, seed=seed).detach()


def linear(a, b, state):
    return linear_scan(a.sigmoid(), b, state)


def selective(u, delta, B, C, state):
    return selective_scan(u, delta, -torch.logspace(-3, 0, 12, dtype=u.dtype).reshape(4, 3), B, C, None, state=state)


def dual(x, dt, B, C, state):
    A = -torch.logspace(-3, 0, 4, dtype=x.dtype)
    return ssd(x, dt, A, B, C, dt_softplus=True, initial_state=state)


def conv(x, state):
    return causal_conv1d(x, noise(3, 4), noise(3), True, state)


def invariant(u, state):
    decay = -torch.logspace(-4, 0, 15, dtype=u.dtype).reshape(3, 5)
    return ssm_conv(u, torch.stack((decay, 9 * (-decay).sqrt()), dim=-1), noise(3, 5, 2), noise(3), state)


# What is called; the shapes of its sequences with None for time; of its state; the axis of time.
LAWFUL = {
    linear: ([(2, 3, None), (2, 3, None)], (2, 3), -1),
    selective: ([(2, 4, None), (2, 4, None), (2, 2, 3, None), (2, 2, 3, None)], (2, 4, 3), -1),
    dual: ([(2, None, 4, 3), (2, None, 4), (2, None, 2, 5), (2, None, 2, 5)], (2, 4, 3, 5), 1),
    conv: ([(2, 3, None)], (2, 3, 3), -1),
    invariant: ([(2, 3, None)], (2, 3, 5, 2), -1),
}


@pytest.mark.parametrize("kernel", LAWFUL, ids=lambda kernel: kernel.__name__)
@given(length=st.integers(0, MOST), cuts=st.lists(st.integers(0, MOST), max_size=4))
@settings(max_examples=25, deadline=None)
def test_splitting_law(kernel, length, cuts):
    shapes, of_state, axis = LAWFUL[kernel]
    sequences = [noise(*(length if n is None else n for n in shape), seed=i) for i, shape in enumerate(shapes)]
    first = noise(*of_state, seed=9)
    whole, last = kernel(*sequences, first)
    edges = [0, *sorted(min(cut, length) for cut in cuts), length]
    state, pieces = first, []
    for begin, end in pairwise(edges):
        y, state = kernel(*(x.narrow(axis, begin, end - begin) for x in sequences), state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, dim=axis), whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state, last, rtol=1e-9, atol=1e-9)

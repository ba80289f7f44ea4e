"""The scans' fast forms in plain torch compute what their references define."""

import pytest
import torch

from audiossm.kernels import linear_scan, linear_scan_reference, selective_scan, selective_scan_reference
from audiossm.kernels.selective_scan import zero_state

from .kernel_checks import exact_noise as noise

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = (0, 1, 2, 3, 7, 64, 101)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 16 steps, so that short sequences are cut."""
    import sys

    monkeypatch.setattr(sys.modules["audiossm.kernels.selective_scan"], "BLOCK", 1)


def scan_inputs(length, planes=1):
    rows = (2, 3, 2) if planes == 2 else (2, 3)
    return (0.6 * noise(*rows, length).detach()).requires_grad_(), noise(*rows, length, seed=1), noise(*rows)


def selective_inputs(length, groups=2):
    A = -torch.logspace(-6, 1, 12, dtype=torch.float64).reshape(4, 3).requires_grad_()
    weights = [noise(2, groups, 3, length, seed=i) for i in range(2)]
    return noise(2, 4, length), noise(2, 4, length, seed=2), A, *weights, noise(4), noise(2, 4, length), noise(4)


def selective(function):
    return lambda *x: function(*x[:-1], delta_softplus=True, state=x[-1])


def agree(function, reference, inputs):
    found, expected = function(*inputs), reference(*inputs)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-9, atol=1e-10)
    grads = [noise(*y.shape, seed=9).detach() for y in expected]
    of = [torch.autograd.grad(y, inputs, grads, allow_unused=True, materialize_grads=True) for y in (found, expected)]
    for f, e in zip(*of, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("planes", (1, 2))
@pytest.mark.parametrize("length", LENGTHS)
def test_linear_scan(length, planes):
    agree(linear_scan, linear_scan_reference, scan_inputs(length, planes))


@pytest.mark.parametrize("length", LENGTHS)
def test_selective_scan(length, small_blocks):
    agree(selective(selective_scan), selective(selective_scan_reference), (*selective_inputs(length), noise(2, 4, 3)))


def test_gradients(small_blocks):
    for planes in (1, 2):
        assert torch.autograd.gradcheck(linear_scan, scan_inputs(9, planes))
    assert torch.autograd.gradcheck(selective(selective_scan), (*selective_inputs(19, 1), noise(2, 4, 3)))


def test_a_state_handed_on():
    a, b, state = (x.detach() for x in scan_inputs(60))
    whole, last = linear_scan(a, b, state)
    first, middle = linear_scan(a[..., :17], b[..., :17], state)
    second, end = linear_scan(a[..., 17:], b[..., 17:], middle)
    torch.testing.assert_close(torch.cat((first, second), -1), whole)
    torch.testing.assert_close(end, last)
    u, delta, A, B, C, *_ = (x.detach() for x in selective_inputs(60))
    whole, last = selective_scan(u, delta, A, B, C, delta_softplus=True)
    state, pieces = None, []
    for part in zip(*(x.split([17, 0, 1, 42], dim=-1) for x in (u, delta, B, C)), strict=True):
        y, state = selective_scan(part[0], part[1], A, *part[2:], delta_softplus=True, state=state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, -1), whole)
    torch.testing.assert_close(state, last)


def test_half_precision_is_computed_in_float32():
    a, b, state = (x.detach().bfloat16() for x in scan_inputs(300))
    h, last = linear_scan(a, b, state)
    expected, _ = linear_scan_reference(a.double(), b.double(), state.double())
    assert h.dtype == torch.bfloat16 and last.dtype == torch.float32
    torch.testing.assert_close(h, expected.bfloat16(), rtol=1e-2, atol=1e-2)


def test_what_does_not_fit_is_refused():
    a, b, _ = scan_inputs(5)
    with pytest.raises(ValueError, match="a and b are to be"):
        linear_scan(a[:, :1], b)
    with pytest.raises(ValueError, match="the state"):
        linear_scan(a, b, b[..., 0].T)
    u, delta, A, B, C, *_ = selective_inputs(5)
    with pytest.raises(ValueError, match="C is to be"):
        selective_scan(u, delta, A, B, C[..., :3])
    with pytest.raises(ValueError, match="not a multiple"):
        selective_scan(u, delta, A, *(x.repeat(1, 2, 1, 1)[:, :3] for x in (B, C)))
    with pytest.raises(ValueError, match="the state"):
        selective_scan(u, delta, A, B, C, state=zero_state(u, A)[..., :2])

"""What the kernels' tests rely on finds what it is for: addresses outside a tensor, and memory that nothing wrote."""

import pytest
import torch

from .kernel_checks import GPU, INTERPRETED, kernel

triton = pytest.importorskip("triton", reason="triton is not installed here")
interpreted = pytest.mark.skipif(GPU, reason="a GPU checks no addresses")

if INTERPRETED:
    import triton.language as tl

    @triton.jit
    def copy(x, to, first, length, N: tl.constexpr):
        at = first + tl.arange(0, N)
        tl.store(to + at, tl.load(x + at, at < length), at < length)


@kernel
@interpreted
def test_within():
    x, to = torch.arange(5.0), torch.zeros(5)
    copy[(1,)](x, to, 0, 5, 8)
    copy[(1,)](x[4:], to[4:], -4, 1, 8)  # a view may be left: that is what turned time does
    assert torch.equal(x, to)


@kernel
@interpreted
@pytest.mark.parametrize("first, length, there", [(0, 6, 5), (-1, 5, 5), (0, 5, 4)])
def test_outside(first, length, there):
    with pytest.raises(Exception, match="bytes behind"):
        copy[(1,)](torch.zeros(5), torch.zeros(there), first, length, 8)


@kernel
@interpreted
def test_new_memory_is_nan():
    assert torch.empty(3).isnan().all() and torch.ones(1).new_empty(3).isnan().all()

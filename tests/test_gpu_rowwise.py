"""`rowwise` in Triton computes what its references define, and their gradients."""

import pytest
import torch

from audiossm import kernels

from .kernel_checks import GPU, agree, kernel, noise, on_a_gpu, results

pytest.importorskip("triton", reason="triton is not installed here")

SIZES = [(1, 1, 3), (2, 3, 5), (3, 7, 20), (1, 700, 8)]
if GPU:
    SIZES += [(8, 16000, 64), (8, 4000, 128), (3, 1001, 256), (2, 501, 512)]


def pair(name):
    return getattr(kernels, name), getattr(kernels, f"{name}_reference")


@kernel
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("biased", (True, False))
def test_add_norm(sizes, biased):
    bias, scale, shift = (noise(sizes[-1], seed=i) for i in range(3))
    if biased:
        agree(*pair("add_norm"), (noise(*sizes), noise(*sizes, seed=1), bias, scale, shift), 2e-5)
        return
    of, exact = pair("add_norm")
    inputs = noise(*sizes), noise(*sizes, seed=1), scale, shift
    agree(lambda u, y, *rest: of(u, y, None, *rest), lambda u, y, *rest: exact(u, y, None, *rest), inputs, 2e-5)


@kernel
@pytest.mark.parametrize("sizes", SIZES)
def test_norm(sizes):
    agree(*pair("norm"), (noise(*sizes), noise(sizes[-1], seed=1), noise(sizes[-1], seed=2)), 2e-5)


@kernel
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", ("bias_gelu", "bias_glu"))
def test_activations(name, sizes):
    *steps, channels = sizes
    channels *= 2 if name == "bias_glu" else 1
    agree(*pair(name), (noise(*steps, channels), noise(channels, seed=1)), 2e-5)


@kernel
@pytest.mark.parametrize("sizes", SIZES)
def test_add_bias(sizes):
    agree(*pair("add_bias"), (noise(*sizes), noise(*sizes, seed=1), noise(sizes[-1], seed=2)), 2e-5)


@kernel
def test_any_layout():
    u, y, bias = noise(3, 5, 40), noise(3, 5, 40, seed=1), noise(5, seed=2)
    of, exact = pair("add_bias")
    agree(lambda u, y, b: of(u.mT, y.mT, b), lambda u, y, b: exact(u.mT, y.mT, b), (u, y, bias), 2e-5)


@kernel
def test_half_precision_of_what_is_added():
    u, y = noise(2, 30, 8), noise(2, 30, 8, dtype=torch.bfloat16, seed=1)
    agree(*pair("add_norm"), (u, y, *(noise(8, seed=i) for i in range(3))), 1e-2)


@kernel
@on_a_gpu
def test_twice_the_same_bits():
    inputs = noise(8, 4000, 64), noise(8, 4000, 64, seed=1), noise(64), noise(64, seed=1), noise(64, seed=2)
    for first, again in zip(*(results(kernels.add_norm, inputs) for _ in range(2)), strict=True):
        assert torch.equal(first, again)

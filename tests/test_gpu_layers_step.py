"""`layers_step` in Triton computes what its reference defines, and changes the states in place."""

import pytest
import torch

from audiossm.kernels import Layers, layers_step, layers_step_reference

from .kernel_checks import DEVICE, GPU, error, kernel, noise

pytest.importorskip("triton", reason="triton is not installed here")

SIZES = [(1, 1, 5, 3, 10), (3, 2, 20, 4, 20), (2, 3, 16, 1, 40)]  # batch, layers, channels, modes, inner
if GPU:
    SIZES += [(b, 8, h, 32, 2 * h) for h in (64, 128, 256) for b in (1, 128, 131)] + [(5, 4, 48, 16, 96)]


def inputs(batch, layers, channels, modes, inner):
    shapes = Layers(
        *((layers, 2, channels, modes),) * 2,
        (layers, channels),
        (layers, 2, channels),
        (layers, channels, channels, 2),
        (layers, channels, 2),
        (layers, 2, channels),
        (layers, channels, inner),
        (layers, inner),
        (layers, inner, channels),
        (layers, channels),
    )
    numbers = [0.3 * noise(*shape, seed=i).detach() for i, shape in enumerate(shapes)]
    u, state = noise(batch, 3, channels).detach()[:, 1], noise(layers, batch, 2, channels, modes).detach()
    return u, state, Layers(*numbers)


@kernel
@pytest.mark.parametrize("sizes", SIZES)
def test_sizes(sizes):
    u, state, layers = inputs(*sizes)
    added = noise(*u.shape, seed=9).detach() if sizes[0] > 1 else None
    exact = (
        u.double(),
        state.double(),
        Layers(*(x.double() for x in layers)),
        added if added is None else added.double(),
    )
    expected = layers_step_reference(*exact)
    y = layers_step(u, state, layers, added)
    assert error(y, expected[0]) < 1e-5
    assert error(state, expected[1]) < 1e-5


@kernel
@pytest.mark.parametrize("tile, early", ((64, False), (256, False), (1024, False), (4096, False), (4096, True)))
def test_tiles(tile, early, monkeypatch):
    from audiossm.kernels.gpu import layers_step as op

    monkeypatch.setattr(op, "CONFIGS", {1024: {"TILE": tile, "EARLY": early, "num_warps": 4}})
    test_sizes((3, 2, 20, 5, 40))


@kernel
def test_layouts_that_are_refused():
    u, state, layers = inputs(2, 1, 16, 2, 16)
    with pytest.raises(ValueError, match="contiguous"):
        layers_step(u, state.mT.contiguous().mT, layers)
    with pytest.raises(ValueError, match="side by side"):
        layers_step(torch.zeros(16, 2, device=DEVICE).t(), state, layers)

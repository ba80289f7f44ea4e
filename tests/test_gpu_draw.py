"""`draw` in Triton draws what its reference defines, and what torch would."""

import pytest
import torch

from audiossm.kernels import Readout, draw, draw_reference

from .kernel_checks import DEVICE, kernel, noise

pytest.importorskip("triton", reason="triton is not installed here")


def inputs(batch=6, channels=20, codes=50, norm=True):
    y, scale = noise(batch, channels).detach(), noise(2, channels).detach()
    readout = Readout(noise(channels, codes).detach(), noise(codes).detach(), scale if norm else None)
    return y, readout, torch.rand(batch, device=DEVICE), noise(codes + 1, channels, seed=3).detach()


def drawn(y, readout, uniform, table, to, *chosen):
    symbols = torch.zeros(len(y), 3, dtype=torch.int64, device=DEVICE)
    draw(y, readout, uniform, table, to, symbols[:, 1], *chosen)
    assert not symbols[:, ::2].any()
    return symbols[:, 1]


@kernel
@pytest.mark.parametrize("temperature, top_p", ((1.0, 1.0), (0.7, 0.9), (1.3, 0.4), (0.0, 1.0)))
@pytest.mark.parametrize("norm", (True, False))
@pytest.mark.parametrize("codes", (256, 50))
def test_symbols_and_their_rows(temperature, top_p, norm, codes):
    y, readout, uniform, table = inputs(codes=codes, norm=norm)
    to, added = torch.zeros(6, 3, 20, device=DEVICE), noise(6, 20, seed=5).detach()
    symbols = drawn(y, readout, uniform, table, to[:, 1], temperature, top_p, added)
    exact = Readout(*(None if part is None else part.double() for part in readout))
    chosen = (temperature, top_p) if temperature else (1.0, 1e-9)
    assert torch.equal(symbols, draw_reference(y.double(), exact, uniform.double(), *chosen))
    torch.testing.assert_close(to[:, 1], table[symbols] + added)
    assert not to[:, ::2].any()


@kernel
def test_the_largest_tile():
    y, readout, uniform, table = inputs(2, 130, 256)
    to = torch.empty_like(y)
    exact = Readout(*(part.double() for part in readout))
    assert torch.equal(drawn(y, readout, uniform, table, to), draw_reference(y.double(), exact, uniform.double()))
    torch.testing.assert_close(
        drawn(y, readout, uniform, table, to, 0.0), draw_reference(y, readout, uniform, 1.0, 1e-9)
    )

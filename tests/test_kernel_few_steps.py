"""What an exported graph computes for a few steps of Mamba's kernels is their definition."""

import pytest
import torch

from audiossm.kernels import (
    causal_conv1d,
    causal_conv1d_reference,
    selective_scan,
    selective_scan_reference,
    ssd,
    ssd_reference,
)

from .kernel_checks import exact_noise as noise

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = (0, 1, 2, 4, 5)


@pytest.fixture(autouse=True)
def exporting(monkeypatch):
    """Let kernels write what an exported graph computes."""
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)


def agree(found, expected):
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape and f.dtype == e.dtype
        assert (f - e).norm() <= 1e-12 * e.norm()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("taps", (1, 2, 4, 8))
def test_causal_conv1d(length, taps):
    x, weight, bias, state = noise(2, 3, length), noise(3, taps), noise(3), noise(2, 3, taps - 1)
    for options in ((bias, True, state), (bias, False, state), ()):
        agree(causal_conv1d(x, weight, *options), causal_conv1d_reference(x, weight, *options))


@pytest.mark.parametrize("length", LENGTHS[:-1])
@pytest.mark.parametrize("groups", (1, 2))
def test_selective_scan(length, groups):
    u, delta, z = (noise(2, 6, length, seed=seed) for seed in range(3))
    A, B, C = -noise(6, 3).exp(), noise(2, groups, 3, length), noise(2, groups, 3, length, seed=1)
    D, bias, state = noise(6), noise(6, seed=1), noise(2, 6, 3)
    for options in ((D, z, bias, True, state), ()):
        arguments = (u, delta.abs(), A, B, C, *options)
        agree(selective_scan(*arguments), selective_scan_reference(*arguments))


def test_selective_scan_refuses_a_long_frame():
    u, B = noise(1, 2, 5), noise(1, 3, 5)
    with pytest.raises(ValueError, match="at most 4 steps of a selective scan, not 5"):
        selective_scan(u, u, -noise(2, 3).exp(), B, B)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("groups", (1, 2))
def test_ssd(length, groups):
    x, z = noise(2, length, 4, 3), noise(2, length, 4, 3, seed=1)
    B, C = noise(2, length, groups, 5), noise(2, length, groups, 5, seed=1)
    A = -torch.logspace(-6, 3, 4, dtype=torch.float64)  # decays from 1 to 0
    D, bias, state = noise(4), noise(4, seed=1), noise(2, 4, 3, 5)
    for options in ((D, z, bias, True, state), ()):
        arguments = (x, noise(2, length, 4).abs(), A, B, C, *options)
        agree(ssd(*arguments), ssd_reference(*arguments))

"""Codings: what a code stands for, and the probability of one."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import logistic

from audiossm.tasks.quantise import CODINGS, find_coding

EVERY = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16)  # every sample that there is
NAMES = list(CODINGS)


@pytest.mark.parametrize("name", NAMES)
def test_a_code_decodes_to_a_sample_of_the_same_code(name):
    coding = find_coding(name)
    codes = torch.arange(coding.codes)
    again = coding.encode((coding.decode(codes) * 32768).round().clamp(-32768, 32767).to(torch.int16))
    assert torch.equal(again, codes)


@pytest.mark.parametrize("name", NAMES)
def test_codes_rise_with_the_sample_and_all_are_in_use(name):
    codes = find_coding(name).encode(EVERY)
    assert codes.diff().min() >= 0 and codes.dtype == torch.int64
    assert codes.min() == 0 and codes.max() == find_coding(name).codes - 1
    assert len(codes.unique()) == find_coding(name).codes


@pytest.mark.parametrize("name", NAMES)
def test_silence_stays_silence(name):
    coding = find_coding(name)
    silent = coding.encode(torch.zeros(5, dtype=torch.int16))
    assert (silent == coding.codes // 2).all() and not coding.decode(silent).any()


def test_mu_law_is_the_continuous_form():
    """Not G.711, whose segments are straight: its formula, and values of it worked out by hand."""
    coding = find_coding("mu-law")
    x = EVERY.double() / 32768
    y = x.sign() * (1 + 255 * x.abs()).log() / math.log(256)
    assert torch.equal(coding.encode(EVERY), ((y + 1) / 2 * 255 + 0.5).floor().long())
    assert coding.encode(torch.tensor([16384, -16384], dtype=torch.int16)).tolist() == [239, 16]
    values = coding.values()
    assert values[255] == pytest.approx(1) and values[0] == pytest.approx(-1)
    assert values[129] == pytest.approx((256 ** (3 / 255) - 1) / 255) and values[126] == pytest.approx(-values[129])


def test_the_middle_code_of_mu_law_has_no_offset():
    """By the formula it would be 2.8 steps of 16 bits above zero."""
    values = find_coding("mu-law").values()
    assert values[128] == 0 and values[127] * 32768 == pytest.approx(-2.83, abs=0.01)


@pytest.mark.parametrize(("name", "error"), [("mu-law", 0.0217), ("linear", 2**-7), ("mixture", 0)])
def test_the_error_of_a_code(name, error):
    coding = find_coding(name)
    off = (coding.decode(coding.encode(EVERY)).double() - EVERY.double() / 32768).abs()
    assert off.max() <= error + 1e-12
    if name == "mu-law":  # relative, where it matters
        loud = EVERY.abs() > 400
        assert (off[loud] / (EVERY[loud].double() / 32768).abs()).max() < 0.035


def test_bits_of_equal_outputs():
    codes = torch.randint(256, (3, 5))
    bits = find_coding("mu-law").bits(torch.zeros(3, 5, 256), codes)
    assert bits.shape == (3, 5) and torch.allclose(bits, torch.tensor(8.0))


# The mixture


def mixture(batch, components, low=-6.0, high=1.0):
    torch.manual_seed(0)
    return torch.cat(
        (
            torch.randn(batch, components),
            torch.empty(batch, components).uniform_(-1.2, 1.2),
            torch.empty(batch, components).uniform_(low, high),
        ),
        dim=1,
    )


def test_the_probabilities_of_a_mixture_sum_to_one():
    outputs = mixture(4, 3)
    bits = find_coding("mixture").bits(outputs[:, None].expand(4, 65536, 9), torch.arange(65536).expand(4, -1))
    assert torch.allclose((2 ** -bits.double()).sum(1), torch.ones(4).double(), atol=2e-4)


def test_a_mixture_against_scipy():
    outputs, codes = mixture(50, 2, low=-7.0), torch.randint(1, 65535, (50,))
    weights, means, scales = (part.double().numpy() for part in outputs.chunk(3, dim=1))
    x = (codes.double().numpy() - 32768)[:, None] / 32768
    half, scales = 1 / 65536, np.exp(scales)
    inside = logistic.cdf(x + half, means, scales) - logistic.cdf(x - half, means, scales)
    inside = np.where(inside > 1e-13, inside, logistic.pdf(x, means, scales) * 2 * half)
    shares = np.exp(weights) / np.exp(weights).sum(1, keepdims=True)
    want = -np.log2((shares * inside).sum(1))
    assert np.allclose(find_coding("mixture").bits(outputs, codes).numpy(), want, rtol=2e-3)


def test_a_mixture_has_gradients_everywhere():
    """Far from every component too, and at both ends of the range."""
    outputs = torch.tensor([[0.0, 0.0, -0.9, 0.9, -20.0, -20.0]]).repeat(4, 1).requires_grad_()
    bits = find_coding("mixture").bits(outputs, torch.tensor([0, 32768, 65535, 1000]))
    bits.sum().backward()
    assert torch.isfinite(bits).all() and torch.isfinite(outputs.grad).all()


def test_an_unknown_coding():
    with pytest.raises(ValueError, match="no coding 'a-law'; there are mu-law, linear, mixture"):
        find_coding("a-law")

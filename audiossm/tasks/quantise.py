"""Samples as codes, and what a model's outputs say of the next one: three codings, one class each.

    mu-law    256 codes, close together where the signal is small: what SaShiMi and WaveNet are trained with
    linear    256 codes, evenly spaced
    mixture   the 65,536 codes of 16 bits; the model gives a mixture of logistic distributions

Audio is int16 until it gets here, so that each coding is a table or a shift and no rounding is done twice.
"""

import math
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

FULL_SCALE = 32768  # int16 of a full-scale sample
MU = 255
NARROWEST = -7 * math.log(10)  # lowest log scale of a logistic: far narrower than a code


class Coding:
    """Base of the codings.

    Attributes:
        name: of the coding, as options and files have it.
        codes: how many there are.
    """

    name: ClassVar[str]
    codes: ClassVar[int]

    def encode(self, audio: Tensor) -> Tensor:
        """Return the codes, int64, of int16 audio of any shape."""
        raise NotImplementedError

    def values(self) -> Tensor:
        """Return the sample in [-1, 1] that each code stands for, (codes,) float64."""
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        """Return float32 samples in [-1, 1] of codes of any shape."""
        return self.values().float().to(codes.device)[codes]

    def bits(self, outputs: Tensor, codes: Tensor) -> Tensor:
        """Return -log2 of the probability that outputs (..., K) give to each of codes (...)."""
        nats = F.cross_entropy(outputs.flatten(0, -2), codes.flatten(), reduction="none")
        return nats.view(codes.shape) / math.log(2)


class MuLaw(Coding):
    """Mu-law with mu 255 in its continuous form, y = sign(x) ln(1 + mu|x|) / ln(1 + mu), not G.711's segments.

    y in [-1, 1] is rounded to 256 levels that lie evenly and hold no zero: digital silence becomes code 128, whose
    level is 0.00009 of full scale. Code 128 therefore decodes to 0, or silence would come back with an offset.
    """

    name, codes = "mu-law", MU + 1

    def encode(self, audio: Tensor) -> Tensor:
        """Look codes up: there are only 65,536 samples."""
        return mu_law_codes(audio.device)[audio.long() + FULL_SCALE].long()

    def values(self) -> Tensor:
        """Return the middle of each code's range of y, expanded; 0 for code 128."""
        y = 2 * torch.arange(self.codes, dtype=torch.float64) / MU - 1
        x = y.sign() * torch.expm1(y.abs() * math.log1p(MU)) / MU
        x[self.codes // 2] = 0.0
        return x


@cache
def mu_law_codes(device: torch.device) -> Tensor:
    """Return the code of each int16 sample from -32,768 on, (65536,) uint8, kept on a device."""
    x = torch.arange(-FULL_SCALE, FULL_SCALE, dtype=torch.float64) / FULL_SCALE
    y = x.sign() * torch.log1p(MU * x.abs()) / math.log1p(MU)
    return ((y + 1) / 2 * MU + 0.5).floor().to(torch.uint8).to(device)


class Linear(Coding):
    """256 even steps with a level at 0."""

    name, codes = "linear", 256

    def encode(self, audio: Tensor) -> Tensor:
        """Round to the nearest step; the highest half step is limited."""
        return ((audio.long() + 128).div(256, rounding_mode="floor") + 128).clamp(max=255)

    def values(self) -> Tensor:
        """Return (code - 128) / 128."""
        return (torch.arange(self.codes, dtype=torch.float64) - 128) / 128


class Mixture(Coding):
    """16 bits, whose distribution is a mixture of logistics (Salimans et al. 2017, arXiv 1701.05517, section 2.1).

    The outputs (..., 3 M) are M logits of the weights, M means in [-1, 1] and M logarithms of the scales. A code's
    probability is that of its interval, which is open at both ends of the range.
    """

    name, codes = "mixture", 2 * FULL_SCALE

    def encode(self, audio: Tensor) -> Tensor:
        """Shift int16 to 0 .. 65,535."""
        return audio.long() + FULL_SCALE

    def values(self) -> Tensor:
        """Return (code - 32768) / 32768."""
        return (torch.arange(self.codes, dtype=torch.float64) - FULL_SCALE) / FULL_SCALE

    def bits(self, outputs: Tensor, codes: Tensor) -> Tensor:
        """Return -log2 P(codes), by the difference of the distribution function at both ends of a code's interval.

        Where that is too small for float32, in the far tails, the density at the code stands in for it.
        """
        weights, means, log_scales = outputs.chunk(3, dim=-1)
        log_scales = log_scales.clamp(min=NARROWEST)
        half = 1 / FULL_SCALE / 2
        x = (codes.unsqueeze(-1) - FULL_SCALE) / FULL_SCALE - means
        above, below = ((x + sign * half) * torch.exp(-log_scales) for sign in (1, -1))
        middle = x * torch.exp(-log_scales)
        inside = torch.sigmoid(above) - torch.sigmoid(below)
        density = middle - log_scales - 2 * F.softplus(middle) + math.log(2 * half)
        log_p = torch.where(inside > 1e-5, inside.clamp(min=1e-12).log(), density)
        edge = codes.unsqueeze(-1)
        log_p = torch.where(edge == 0, F.logsigmoid(above), log_p)
        log_p = torch.where(edge == self.codes - 1, F.logsigmoid(-below), log_p)
        return -torch.logsumexp(weights.log_softmax(-1) + log_p, dim=-1) / math.log(2)


CODINGS: dict[str, Coding] = {coding.name: coding for coding in (MuLaw(), Linear(), Mixture())}


def find_coding(name: str) -> Coding:
    """Return a coding by its name, or raise ValueError with those that there are."""
    if name not in CODINGS:
        raise ValueError(f"there is no coding {name!r}; there are {', '.join(CODINGS)}")
    return CODINGS[name]

"""A short-time spectrum and the way back from it, as products with constant matrices.

A frame of `hop` samples is known when its last sample is. With the samples before it it fills a window, whose spectrum
is the windowed samples times a matrix; the way back is another matrix, and overlapping frames are added.

How fine a spectrum is and how late its audio comes are two things (Mauler and Martin 2007). A window of any length
rises slowly and falls within its newest frame. Of what it gives back only the two newest frames count, in such a shape
that both windows make a Hann window: a spectrum left alone gives the audio back, one frame late. A window of two frames
is the root of a Hann window on both ways.

Glossary: B batch, L samples, K frames, W samples of a window, F frequencies: W/2 + 1.
"""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from audiossm.mixers.base import Mixer, State


class Analysis(Mixer):
    """Audio (B, L, 1) to the spectra (B, K, 2, F) of the frames that it completes: real parts, then imaginary ones.

    White noise of RMS 1 has spectra of RMS 1.

    Args:
        window: W, even.
        hop: samples of a frame, at most half of W.

    State: "held" (B, W - 1) the latest samples, "count" (1,) how many of them wait for others, on the CPU.
    """

    matrix: Tensor

    def __init__(self, window: int, hop: int):
        super().__init__()
        self.window, self.hop = window, hop
        matrix = fourier(window) * rise_and_fall(window, hop)[:, None, None] / math.sqrt(window / 2)
        self.register_buffer("matrix", matrix.flatten(1).float(), persistent=False)

    def initial_state(self, batch: int) -> State:
        """Return zeros."""
        return {
            "held": self.matrix.new_zeros(batch, self.window - 1),
            "count": torch.zeros(1, dtype=torch.int64),
        }

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, 1) to (B, K, 2, F)."""
        self.refuse_rate(rate)
        waiting = 0 if state is None else int(state["count"])
        state = state or self.initial_state(u.shape[0])
        frames, rest = divmod(waiting + u.shape[1], self.hop)
        heard = torch.cat((state["held"], u.squeeze(-1)), dim=1)
        first = self.hop - 1 - waiting  # in `held`: of the window that the next frame completes
        cut = heard[:, first : first + self.window + (frames - 1) * self.hop]
        cut = cut.unfold(1, self.window, self.hop) if frames else cut.new_zeros(len(u), 0, self.window)
        return self.spectra(cut), {
            "held": heard[:, u.shape[1] :],
            "count": torch.full_like(state["count"], rest),
        }

    def spectra(self, cut: Tensor) -> Tensor:
        """Return the spectra (B, K, 2, F) of whole windows (B, K, W)."""
        with all_bits(cut):
            return (cut @ self.matrix).unflatten(-1, (2, -1))


class Synthesis(Mixer):
    """Spectra (B, K, 2, F) to audio (B, K hop, 1). State: "tail" (B, hop), what is still to be added to."""

    matrix: Tensor

    def __init__(self, window: int, hop: int):
        super().__init__()
        self.hop = hop
        # A real signal's spectrum is half of it: all but the first and the last frequency stand for two.
        twice = torch.full((window // 2 + 1,), 2.0, dtype=torch.float64)
        twice[0] = twice[-1] = 1.0
        matrix = (fourier(window)[-2 * hop :] * twice).flatten(1).T * shape_back(window, hop)
        self.register_buffer("matrix", matrix.float().contiguous(), persistent=False)

    def initial_state(self, batch: int) -> State:
        """Return zeros."""
        return {"tail": self.matrix.new_zeros(batch, self.hop)}

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, K, 2, F) to (B, K hop, 1)."""
        self.refuse_rate(rate)
        state = state or self.initial_state(u.shape[0])
        with all_bits(u):
            frames = u.flatten(2) @ self.matrix  # (B, K, 2 hop)
        starts, ends = frames.chunk(2, dim=-1)
        tails = torch.cat((state["tail"].unsqueeze(1), ends), dim=1)
        y = starts + tails[:, :-1]
        return y.flatten(1).unsqueeze(-1), {"tail": tails[:, -1]}


@contextlib.contextmanager
def all_bits(x: Tensor) -> Iterator[None]:
    """Keep matrix products on a GPU from TF32, whose ten bits add noise some 60 dB below a frame's loudest sound."""
    if not x.is_cuda:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def fourier(window: int) -> Tensor:
    """Return what turns W samples into a spectrum, float64 (W, 2, F): cosines and minus sines."""
    # Phases as integers modulo W: cos(2 pi n f / W) is as exact for the last product as for the first.
    turns = torch.outer(torch.arange(window), torch.arange(window // 2 + 1)) % window
    angle = turns.double() * (2 * math.pi / window)
    return torch.stack((angle.cos(), -angle.sin()), dim=1)


def rise_and_fall(window: int, hop: int) -> Tensor:
    """Return quarters of a sine, float64 (W,): a rise of W - hop samples and a fall of hop samples.

    For W = 2 hop it is the root of a Hann window, whose squares, hop samples apart, add up to one.
    """
    rise, fall = (torch.sin(0.5 * math.pi * (torch.arange(n).double() + 0.5) / n) for n in (window - hop, hop))
    return torch.cat((rise, fall.flip(0)))


def shape_back(window: int, hop: int) -> Tensor:
    """Return what shapes the two newest frames on the way back, float64 (2 hop,): with the window a Hann window."""
    return rise_and_fall(2 * hop, hop).square() / rise_and_fall(window, hop)[-2 * hop :] / math.sqrt(2 * window)


def erb_bands(bands: int, frequencies: int, rate: int) -> Tensor:
    """Return triangles (bands, F) whose sum is one at each frequency, spaced as the ear's filters.

    Equal steps on the scale of equivalent rectangular bandwidths (Glasberg and Moore 1990), but at the low end, where
    a step would be less than one frequency of the spectrum, a band each.

    Raises:
        ValueError: fewer than 2 bands, or more than frequencies.
    """
    if not 2 <= bands <= frequencies:
        raise ValueError(f"bands must be from 2 to {frequencies}, the frequencies of a window, not {bands}")
    hertz = rate / 2 / (frequencies - 1)

    def erb(place: Tensor) -> Tensor:
        return torch.log10(1 + 0.00437 * hertz * place)

    for single in range(bands):
        low, high = (erb(torch.tensor(place, dtype=torch.float64)) for place in (single, frequencies - 1))
        rest = (
            (10 ** torch.linspace(float(low), float(high), bands - single, dtype=torch.float64) - 1) / 0.00437 / hertz
        )
        if len(rest) < 2 or rest[1] - rest[0] >= 1 - 1e-9:
            break
    centres = torch.cat((torch.arange(single).double(), rest))
    place = torch.arange(frequencies).double()
    upper = torch.searchsorted(centres, place).clamp(1, bands - 1)
    share = ((place - centres[upper - 1]) / (centres[upper] - centres[upper - 1])).clamp(0, 1)
    triangles = torch.zeros(bands, frequencies, dtype=torch.float64)
    triangles[upper - 1, torch.arange(frequencies)] += 1 - share
    triangles[upper, torch.arange(frequencies)] += share
    return triangles.float()


class Compression(nn.Module):
    """Magnitudes to a power below one, phases kept: what is soft weighs more, as in the ear.

    Args:
        power: of the magnitude.
        floor: of the power spectrum, so that silence has a gradient.
    """

    def __init__(self, power: float = 0.3, floor: float = 2e-8):
        super().__init__()
        self.power, self.floor = power, floor

    def forward(self, spectra: Tensor) -> Tensor:
        """Map real and imaginary parts (..., 2, F) to magnitude, real and imaginary part (..., 3, F), compressed."""
        power = spectra.square().sum(-2, keepdim=True) + self.floor
        return torch.cat((power ** (self.power / 2), spectra * power ** ((self.power - 1) / 2)), dim=-2)

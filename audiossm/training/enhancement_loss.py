"""How far enhanced speech is from the speech: as the ear weighs spectra, and as waveforms."""

from typing import NamedTuple

import torch
from torch import Tensor

WINDOWS = (256, 512, 1024, 2048)  # samples of the spectra's windows; each moves by a quarter
POWER = 0.3  # of magnitudes: soft sounds weigh more
FLOOR = 1e-8  # of power spectra: a gradient is finite in silence
QUIET = 1e-7  # of energies, relative to samples of full scale: what is silent has no SI-SDR


class Distance(NamedTuple):
    """Of each row: between compressed magnitudes, and between compressed spectra, mean squares (B,); SI-SDR in dB."""

    magnitude: Tensor
    spectrum: Tensor
    sdr: Tensor


def distance(estimate: Tensor, target: Tensor) -> Distance:
    """Compare audio (B, n) with audio."""
    magnitude, spectrum = spectral(estimate, target)
    return Distance(magnitude, spectrum, si_sdr(estimate, target))


def spectral(estimate: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean squared differences (B,) of magnitudes ^ 0.3, and of spectra with such magnitudes.

    The mean over several resolutions (Yamamoto et al. 2020, arXiv 1910.11480), compressed as Braun and Tashev do (2020,
    arXiv 2009.12286).
    """
    magnitudes, spectra = [], []
    for window in WINDOWS:
        (a, a_whole), (b, b_whole) = (compressed(audio, window) for audio in (estimate, target))
        magnitudes.append((a - b).square().mean((1, 2)))
        spectra.append((a_whole - b_whole).square().sum(-1).mean((1, 2)))
    return torch.stack(magnitudes).mean(0), torch.stack(spectra).mean(0)


def compressed(audio: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return magnitudes ^ 0.3 (B, F, K), and the spectra (B, F, K, 2) that have them."""
    shape = torch.hann_window(window, device=audio.device, dtype=audio.dtype)
    scale = (2 / window) ** 0.5  # white noise of RMS 1 has spectra of RMS about 1
    spectra = torch.view_as_real(torch.stft(audio * scale, window, window // 4, window=shape, return_complex=True))
    power = spectra.square().sum(-1) + FLOOR
    return power ** (POWER / 2), spectra * (power ** ((POWER - 1) / 2)).unsqueeze(-1)


def si_sdr(estimate: Tensor, target: Tensor) -> Tensor:
    """Return the scale-invariant signal-to-distortion ratio (B,) in dB (Le Roux et al. 2019, arXiv 1811.02508).

    Of whatever mean they have. Of a silent target it is 0.
    """
    quiet = QUIET * target.shape[1]
    scale = (estimate * target).sum(1, keepdim=True) / (target.square().sum(1, keepdim=True) + 1e-12)
    signal, rest = (scale * target).square().sum(1), (estimate - scale * target).square().sum(1)
    heard = target.square().sum(1) > quiet
    return torch.where(heard, 10 * torch.log10((signal + 1e-10) / (rest + 1e-10)), 0.0)

"""What codecs leave of sound. Simulated on the device that trains: a real encoder takes longer than a training step."""

import torch
from torch import Tensor

from audiossm.data.augment import cut_above
from audiossm.tasks.quantise import FULL_SCALE, MuLaw

TELEPHONE = 3400.0  # Hz, the highest that a telephone passes
FRAME = 0.02  # seconds that a transform codec quantises together
WIDEST = 5  # a band's frequency in Hz, over its width: what the ear takes together
NARROWEST = 200.0  # Hz of a band
CLEAREST, COARSEST = 20.0, 3.0  # dB of a band over what its steps change
OVERLAP = 0.53  # share of the errors' power that is left where two frames' errors are averaged


def coded(audio: Tensor, rate: int) -> Tensor:
    """Send each clip (B, n), within full scale, through a telephone or through a codec of few bits."""
    telephones = torch.rand(len(audio), 1, device=audio.device) < 0.5
    clearness = torch.empty(len(audio), 1, device=audio.device).uniform_(COARSEST, CLEAREST)
    return torch.where(telephones, telephone(audio, rate), quantised_bands(audio, rate, clearness))


def telephone(audio: Tensor, rate: int) -> Tensor:
    """Leave what G.711 does: 8 bit mu-law, and nothing above 3,400 Hz. Clips (B, n) are within full scale."""
    narrow = cut_above(audio, rate, audio.new_full((len(audio), 1), TELEPHONE))
    samples = (FULL_SCALE * narrow).round().clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16)
    return MuLaw().decode(MuLaw().encode(samples))


def quantised_bands(audio: Tensor, rate: int, clearness: Tensor) -> Tensor:
    """Leave what MP3, AAC and Opus do with few bits: whole steps in each band, in which soft sounds are lost.

    Args:
        audio: (B, n).
        rate: in Hz.
        clearness: (B, 1), by how many dB a band is above what its steps change.
    """
    size = 2 * round(FRAME * rate / 2)
    window = torch.hann_window(size, device=audio.device)
    spectrum = torch.stft(audio, size, size // 2, window=window, return_complex=True)  # (B, F, K)
    bands = band_of(spectrum.shape[1], rate, audio.device)
    power = torch.zeros(len(audio), int(bands[-1]) + 1, spectrum.shape[2], device=audio.device)
    power = power.index_add(1, bands, spectrum.abs().square()) / bands.bincount()[:, None]
    # Of a uniform error in steps of s the power is s²/12, of real and imaginary part together s²/6.
    steps = (6 / OVERLAP * power * 10 ** (-clearness.unsqueeze(2) / 10)).sqrt().clamp(min=1e-9)[:, bands]
    whole = torch.view_as_complex((torch.view_as_real(spectrum) / steps.unsqueeze(-1)).round() * steps.unsqueeze(-1))
    return torch.istft(whole, size, size // 2, window=window, length=audio.shape[1])


def band_of(frequencies: int, rate: int, device: torch.device) -> Tensor:
    """Return the band of each frequency from 0 to rate / 2, (F,) int64: 200 Hz wide, above 1 kHz a fifth of it."""
    hertz = torch.linspace(0, rate / 2, frequencies, device=device)
    straight = hertz / NARROWEST
    knee = WIDEST * NARROWEST
    curved = WIDEST + WIDEST * (hertz.clamp(min=knee) / knee).log()
    return torch.where(hertz < knee, straight, curved).long()

"""Speech and noise -> what a microphone hears, and what a listener would want of it: drawn anew for every batch."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiossm.data import augment
from audiossm.data.augment import active_level, level, some
from audiossm.training.codec import coded
from audiossm.training.options import EnhanceOptions

QUIETEST = 1e-3  # RMS of speech: what is softer is a pause that fills a window, and not wanted
TALKERS = 6  # of a babble
LOUDEST = 0.99  # peak of what is mixed, if nothing is cut off


class Scene(NamedTuple):
    """What is heard and what is wanted, (B, n) each."""

    noisy: Tensor
    clean: Tensor


class Scenes(nn.Module):
    """Mixes speech with recordings of noise on the device that holds them.

    Args:
        noise: (n,) int16 at `rate` Hz.
        responses: impulse responses of rooms (R, m), the direct sound first; None: they are made up.
    """

    noise: Tensor
    responses: Tensor | None

    def __init__(self, noise: Tensor, rate: int, options: EnhanceOptions, responses: Tensor | None = None):
        super().__init__()
        self.rate, self.options = rate, options
        self.register_buffer("noise", noise, persistent=False)
        self.register_buffer("responses", responses, persistent=False)

    def forward(self, speech: Tensor) -> Scene:
        """Put speech (B, n) into scenes."""
        o, rate = self.options, self.rate
        speech = some(speech, o.tone_share, lambda a: augment.tone(a, rate, o.tone_db))
        spoken = active_level(speech, rate)
        loudness = spoken.clamp(min=QUIETEST)
        heard, clean = self.in_rooms(speech)
        noise = at_snr(self.draw_noise(speech / loudness), loudness, uniform(loudness, *o.snr))
        empty = chosen(loudness, o.empty_share) | (spoken < QUIETEST)
        heard, clean = heard.masked_fill(empty, 0), clean.masked_fill(empty, 0)
        return self.by_microphone(heard + noise, clean, loudness)

    def in_rooms(self, speech: Tensor) -> tuple[Tensor, Tensor]:
        """Return speech as it is heard in rooms, some of it, and without what comes late."""
        o, rate = self.options, self.rate
        batch = len(speech)
        if self.responses is None:
            responses = augment.rooms(batch, round(o.room_decay[1] * rate), rate, *o.room_decay, speech.device)
        else:
            responses = self.responses[torch.randint(len(self.responses), (batch,), device=speech.device)]
        direct = torch.zeros_like(responses)
        direct[:, 0] = 1
        responses = torch.where(chosen(speech, o.room_share), responses, direct)
        early = torch.arange(responses.shape[1], device=speech.device) < o.early * rate
        return augment.heard_in(speech, responses), augment.heard_in(speech, responses * early)

    def draw_noise(self, speech: Tensor) -> Tensor:
        """Return noise like speech (B, n): pieces of the recordings, slower or faster, or a babble of the speech.

        To some a second piece is added, to some noise of no recording.
        """
        o = self.options
        batch, samples = speech.shape
        noise = augment.pieces(self.noise, batch, samples, o.noise_speed)
        noise = some(noise, o.second_share, lambda a: augment.background(a, self.noise, -10, 10))
        noise = torch.where(chosen(speech, o.babble_share), augment.babble(speech, TALKERS), noise)
        noise = some(noise, o.hiss_share, lambda a: augment.coloured_noise(a, -10, 10))
        return some(noise, o.tone_share, lambda a: augment.tone(a, self.rate, o.noise_tone_db))

    def by_microphone(self, noisy: Tensor, clean: Tensor, loudness: Tensor | None = None) -> Scene:
        """Bring a scene to a level, through a narrow band, beyond full scale or through a codec.

        loudness: (B, 1), its speech's.
        """
        o = self.options
        loudness = active_level(clean, self.rate).clamp(min=QUIETEST) if loudness is None else loudness
        narrow = chosen(loudness, o.band_share)
        highest = torch.where(narrow, uniform(loudness, o.band_least, 1.0), 1.0) * self.rate / 2
        noisy, clean = (augment.cut_above(audio, self.rate, highest) for audio in (noisy, clean))
        gain = 10 ** (uniform(loudness, *o.level_db) / 20) / loudness
        gain = gain.minimum(LOUDEST / (noisy.abs().amax(1, keepdim=True) + 1e-6))
        noisy = some(gain * noisy, o.clip_share, lambda a: augment.clip(a, 0.2))
        noisy = some(noisy, o.codec_share, lambda a: coded(a, self.rate))
        return Scene(noisy, gain * clean)


def at_snr(noise: Tensor, loudness: Tensor, snr: Tensor) -> Tensor:
    """Bring noise (B, n) to so many dB (B, 1) below the level `loudness` (B, 1), by the RMS of all of it."""
    return noise * loudness * 10 ** (-snr / 20) / level(noise).clamp(min=1e-5)


def uniform(like: Tensor, low: float, high: float) -> Tensor:
    """Draw (B, 1) numbers."""
    return torch.empty(len(like), 1, device=like.device).uniform_(low, high)


def chosen(like: Tensor, share: float) -> Tensor:
    """Choose rows, each with a probability: (B, 1) bool."""
    return torch.rand(len(like), 1, device=like.device) < share

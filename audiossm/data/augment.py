"""What happens to a clip between a mouth and a microphone, drawn anew for every batch, on the batch's device.

Waveforms are (B, n) float in [-1, 1]; log-power features (B, T, C). Only `mixup` changes labels, and says so.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

SPEEDS = 5  # on each side of 1


def some(audio: Tensor, share: float, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change a random share of the clips, and spend nothing on the others."""
    rows = torch.randperm(len(audio), device=audio.device)[: round(share * len(audio))]
    return audio.index_copy(0, rows, change(audio[rows])) if len(rows) else audio


def shift(audio: Tensor, most: int) -> Tensor:
    """Move each clip by up to `most` samples either way; zeros come in."""
    offset = torch.randint(-most, most + 1, (audio.shape[0], 1), device=audio.device)
    index = torch.arange(audio.shape[1], device=audio.device) + offset
    inside = (index >= 0) & (index < audio.shape[1])
    return audio.gather(1, index.clamp(0, audio.shape[1] - 1)) * inside


def gain(audio: Tensor, low_db: float, high_db: float) -> Tensor:
    """Scale each clip by a gain drawn evenly in decibels."""
    db = torch.empty(audio.shape[0], 1, device=audio.device).uniform_(low_db, high_db)
    return audio * 10 ** (db / 20)


def coloured_noise(audio: Tensor, low_snr: float, high_snr: float) -> Tensor:
    """Add noise with power spectrum f^-β, β in -1 to 2, at a random SNR in dB."""
    batch, length = audio.shape
    spectrum = torch.fft.rfft(torch.randn_like(audio))
    frequency = torch.arange(spectrum.shape[1], device=audio.device).clamp(min=1) / spectrum.shape[1]
    beta = torch.empty(batch, 1, device=audio.device).uniform_(-1, 2)
    noise = torch.fft.irfft(spectrum * frequency ** (-beta / 2), n=length)
    return audio + at_snr(noise, level(audio), low_snr, high_snr)


def background(audio: Tensor, recordings: Tensor, low_snr: float, high_snr: float) -> Tensor:
    """Add pieces of noise recordings (n,) at a random SNR in dB."""
    return audio + at_snr(pieces(recordings, *audio.shape), level(audio), low_snr, high_snr)


def at_snr(noise: Tensor, signal: Tensor, low_snr: float, high_snr: float) -> Tensor:
    """Scale noise (B, n) to a random SNR in dB below the RMS `signal` (B, 1); pauses in a recording stay pauses."""
    snr = torch.empty_like(signal).uniform_(low_snr, high_snr)
    return noise * signal * 10 ** (-snr / 20) / (level(noise) + 1e-4)


def pieces(recordings: Tensor, count: int, length: int, speed: float = 1.0) -> Tensor:
    """Cut `count` random pieces of `length` samples out of recordings (n,), which begin again: (count, length).

    Each is played faster or slower by a random factor of up to `speed`, linear between samples.
    """
    begin = torch.randint(len(recordings), (count, 1), device=recordings.device)
    time = torch.arange(length, device=recordings.device)
    if speed == 1:
        return recordings[(begin + time) % len(recordings)] / 32768.0
    pace = speed ** torch.empty(count, 1, device=recordings.device).uniform_(-1, 1)
    place = time * pace
    before = place.long()
    low, high = (recordings[(begin + before + i) % len(recordings)] / 32768.0 for i in (0, 1))
    return torch.lerp(low, high, place - before)


def babble(speech: Tensor, talkers: int) -> Tensor:
    """Let so many voices speak at once for each row of speech (B, n): others, or its own later if it is alone."""
    batch, length = speech.shape
    other = torch.randint(1, max(2, batch), (batch, talkers), device=speech.device)
    who = torch.arange(batch, device=speech.device)[:, None] + other
    since = torch.randint(length, (batch, talkers, 1), device=speech.device)
    when = (torch.arange(length, device=speech.device) + since) % length
    return speech[who % batch].gather(2, when).sum(1)


def level(audio: Tensor) -> Tensor:
    """Return the RMS of each clip, (B, 1)."""
    return audio.square().mean(1, keepdim=True).sqrt()


def reverberate(audio: Tensor, rate: int, low: float, high: float) -> Tensor:
    """Put each clip into a simulated room, whose sound decays by 60 dB in `low` to `high` seconds.

    The word keeps its place in the clip.
    """
    return heard_in(audio, rooms(len(audio), min(audio.shape[1], round(high * rate)), rate, low, high, audio.device))


def rooms(count: int, samples: int, rate: int, low: float, high: float, device: torch.device) -> Tensor:
    """Return impulse responses (count, samples) of rooms whose sound decays by 60 dB in `low` to `high` seconds.

    A room is the direct sound, then decaying noise (Polack's model) at 0 to 15 dB below it.
    """
    t = torch.arange(samples, device=device) / rate
    decay = torch.empty(count, 1, device=device).uniform_(low, high)
    tail = torch.randn(count, samples, device=device) * 10 ** (-3 * t / decay) * (t > 0.002)
    below = 10 ** (torch.empty(count, 1, device=device).uniform_(-15, 0) / 20)
    room = tail * below / tail.square().sum(1, keepdim=True).sqrt()
    return torch.cat((torch.ones_like(below), room[:, 1:]), dim=1)  # the tail begins with zeros


def heard_in(audio: Tensor, responses: Tensor) -> Tensor:
    """Convolve clips (B, n) with a response each, (B, m); what would sound after their ends is left out."""
    size = audio.shape[1] + responses.shape[1]
    return torch.fft.irfft(torch.fft.rfft(audio, size) * torch.fft.rfft(responses, size), size)[:, : audio.shape[1]]


def clip(audio: Tensor, low: float) -> Tensor:
    """Cut off each clip's peaks, at `low` to 1 of the highest."""
    peak = audio.abs().amax(1, keepdim=True)
    limit = peak * torch.empty(len(audio), 1, device=audio.device).uniform_(low, 1)
    return audio.clamp(-limit, limit)


def tone(audio: Tensor, rate: int, spread_db: float) -> Tensor:
    """Filter each clip as mouths, rooms and microphones do: a smooth curve that strays at each octave, in decibels."""
    spectrum = torch.fft.rfft(audio)
    hertz = torch.linspace(0, rate / 2, spectrum.shape[1], device=audio.device)
    octave = (hertz.clamp(min=50) / 50).log2()
    knots = spread_db * torch.randn(len(audio), int(math.log2(rate / 100)) + 2, device=audio.device)
    low = octave.long()
    db = torch.lerp(knots[:, low], knots[:, low + 1], octave - low)
    return torch.fft.irfft(spectrum * 10 ** (db / 20), n=audio.shape[1])


def cut_above(audio: Tensor, rate: int, hertz: Tensor) -> Tensor:
    """Take away from each clip (B, n) all above a frequency each, (B, 1) in Hz."""
    spectrum = torch.fft.rfft(audio)
    place = torch.linspace(0, rate / 2, spectrum.shape[1], device=audio.device)
    return torch.fft.irfft(spectrum * (place <= hertz), n=audio.shape[1])


def some_speed(most: float) -> float:
    """Draw a factor for `faster`, within 1 - most to 1 + most: one of a few, whose transforms are planned once."""
    return 1 + most * int(torch.randint(-SPEEDS, SPEEDS + 1, ())) / SPEEDS


def faster(audio: Tensor, factor: float) -> Tensor:
    """Play clips (B, n) faster by a factor, and higher, band-limited: (B, n / factor)."""
    length = max(2, round(audio.shape[1] / factor))
    return torch.fft.irfft(torch.fft.rfft(audio), n=length) * (length / audio.shape[1])


def active_level(audio: Tensor, rate: int) -> Tensor:
    """Return the RMS of each clip (B, n) while there is sound, (B, 1): in frames of 20 ms within 40 dB of the loudest.

    That is how the level of speech is told without its pauses.
    """
    frame = rate // 50
    power = audio[:, : audio.shape[1] // frame * frame].unflatten(1, (-1, frame)).square().mean(2)
    active = power >= 1e-4 * power.amax(1, keepdim=True)
    return ((power * active).sum(1, keepdim=True) / active.sum(1, keepdim=True)).sqrt()


def mixup(audio: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Add to each clip another of the batch, by shares from Beta(alpha, alpha); alpha 0 leaves it (Zhang et al. 2018).

    Returns the mixed audio, the place (B,) of each clip's partner in the batch and the share (B,) of the clip itself.
    """
    if alpha == 0:
        return audio, torch.arange(len(audio), device=audio.device), audio.new_ones(len(audio))
    partner = torch.randperm(audio.shape[0], device=audio.device)
    share = torch.distributions.Beta(alpha, alpha).sample((audio.shape[0],)).to(audio)
    share = torch.maximum(share, 1 - share)
    return share[:, None] * audio + (1 - share)[:, None] * audio[partner], partner, share


def rates_around(rate: int, spread: float, step: int) -> list[int]:
    """Return the rates within ±spread (a share) of `rate`, `step` Hz apart: a clip read at another rate is sped up."""
    most = int(rate * spread / step)
    return [rate + step * i for i in range(-most, most + 1)]


def band_limit(features: Tensor, lowest: int, floor: float, share: float) -> Tensor:
    """Set all channels from a random one (at least `lowest`) up to the floor, in a share of the clips."""
    batch, _, channels = features.shape
    cut = torch.randint(lowest, channels, (batch, 1, 1), device=features.device)
    gone = torch.arange(channels, device=features.device) >= cut
    return features.masked_fill(gone & (torch.rand(batch, 1, 1, device=features.device) < share), floor)


def move_channels(features: Tensor, most: float) -> Tensor:
    """Move each clip's spectrum by up to `most` channels either way: another throat at the same pace (VTLP).

    On channels evenly spaced in pitch, a move is a longer or shorter vocal tract (Jaitly and Hinton 2013). Between
    channels it is linear; what comes in is the outermost channel.
    """
    if most == 0:
        return features
    batch, _, channels = features.shape
    by = torch.empty(batch, 1, 1, device=features.device).uniform_(-most, most)
    return interpolated(features, torch.arange(channels, device=features.device) + by, 2)


def stretch(features: Tensor, most: float) -> Tensor:
    """Say each clip faster or slower by up to a share `most`, at the same pitch; its end stays where it is."""
    if most == 0:
        return features
    batch, length, _ = features.shape
    pace = 1 + torch.empty(batch, 1, 1, device=features.device).uniform_(-most, most)
    left = torch.arange(length - 1, -1, -1, device=features.device).unsqueeze(1)  # ticks to the end
    return interpolated(features, length - 1 - left * pace, 1)


def interpolated(features: Tensor, place: Tensor, axis: int) -> Tensor:
    """Read features (B, T, C) at other places (broadcast to their shape) along an axis, linearly; the ends go on."""
    place = place.clamp(0, features.shape[axis] - 1).expand(features.shape)
    low = place.floor()
    high = (low + 1).clamp(max=features.shape[axis] - 1)
    part = place - low
    return (1 - part) * features.gather(axis, low.long()) + part * features.gather(axis, high.long())


def mask(features: Tensor, axis: int, widest: int, count: int) -> Tensor:
    """Put the mean into up to `widest` neighbours along an axis (1 time, 2 channel), `count` times (SpecAugment)."""
    mean = features.mean((0, 1), keepdim=True).detach()
    size = features.shape[axis]
    place = torch.arange(size, device=features.device)
    for _ in range(count):
        width = torch.rand(features.shape[0], 1, device=features.device) * widest
        start = torch.rand(features.shape[0], 1, device=features.device) * (size - width)
        inside = (place >= start) & (place < start + width)  # (B, size)
        inside = inside.unsqueeze(2) if axis == 1 else inside.unsqueeze(1)
        features = torch.where(inside, mean, features)
    return features

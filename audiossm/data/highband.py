"""Sound that a recording at a low rate cannot hold: a stand-in for what a full-band microphone hears above it."""

import numpy as np

NOISE = -50.0  # dB of the steady noise, relative to the clip
SMOOTH = 0.01  # seconds over which sibilance follows the band below


def add_highband(audio: np.ndarray, rate: int, above: float, seed: int = 0) -> np.ndarray:
    """Fill the band over `above` Hz of clips (n, samples) at `rate` Hz with sibilance and a little noise.

    Sibilance goes on upward: noise whose density falls by 6 dB an octave from that of the octave below `above`, and
    whose level follows that octave's in time, as the fricatives of a voice do. The noise is steady, white, and 50 dB
    below the clip.
    """
    rng, samples = np.random.default_rng(seed), audio.shape[1]
    hertz = np.fft.rfftfreq(samples, 1 / rate)
    octave = (hertz >= above / 2) & (hertz < above)
    below = np.fft.irfft(np.fft.rfft(audio) * octave, samples)
    window = np.hanning(max(3, round(2 * SMOOTH * rate)))
    power = np.stack([np.convolve(row, window / window.sum(), mode="same") for row in below**2])
    noise = np.fft.rfft(rng.standard_normal(audio.shape)) * (hertz > above)
    steady = np.fft.irfft(noise, samples)
    slope = np.fft.irfft(noise * above / np.maximum(hertz, above), samples)
    share = (hertz > above).sum() / octave.sum()  # of the bands' widths: equal density at `above`
    sibilance = slope * np.sqrt(power * share) / steady.std()
    level = 10 ** (NOISE / 20) * np.sqrt((audio**2).mean(1, keepdims=True)) / steady.std()
    return (audio + sibilance + level * steady).astype(np.float32)

"""Another sampling rate, for a prompt: band-limited interpolation by a windowed sinc."""

import numpy as np

WIDTH = 24  # zero crossings of the sinc on each side
AT_ONCE = 4096  # samples


def resample(audio: np.ndarray, rate: int, to: int) -> np.ndarray:
    """Return audio (n,) at `rate` Hz at another rate, (round(n to / rate),) float32: what both can hold is kept."""
    cutoff = min(1.0, to / rate)  # of the input's Nyquist frequency
    reach = int(np.ceil(WIDTH / cutoff))
    padded = np.pad(audio.astype(np.float64), reach + 1)
    taps = np.arange(-reach, reach + 1)
    out = np.empty(round(len(audio) * to / rate))
    for begin in range(0, len(out), AT_ONCE):
        moment = np.arange(begin, min(begin + AT_ONCE, len(out))) * (rate / to)
        nearest = np.floor(moment).astype(int)
        lag = (moment - nearest)[:, None] - taps
        window = np.cos(np.clip(lag / (reach + 1), -1, 1) * np.pi / 2) ** 2
        weights = cutoff * np.sinc(cutoff * lag) * window
        out[begin : begin + AT_ONCE] = (weights * padded[nearest[:, None] + taps + reach + 1]).sum(1)
    return out.astype(np.float32)

"""Another sampling rate, frame by frame: band-limited interpolation by a windowed sinc whose delay can be chosen.

soxr does this too, but neither tells its streaming delay exactly nor lets one choose it. Here the delay is part of the
definition, so that two of these around a model can be made to delay by a whole number of samples together.
"""

from math import floor, gcd

import numpy as np

HALF = 0.0019  # seconds on each side of the sinc, and so the least delay: two of them add 3.8 ms to a latency
BETA = 6.5  # of Kaiser's window: what is to be silent is 68 dB down
EDGE = 300.0  # Hz below the lower Nyquist frequency, where half the amplitude passes; 600 Hz further in, all of it
PHASES = 4096  # places between two samples that are told apart; customary rates need at most 640


class Resampler:
    """Output m is the input at the time m / to - delay: sums of the newest `reach` samples of input there.

    rate, to: Hz, of the input and the output. delay: seconds, at least `HALF`. An input need never have come that is
    later than the output: m needs the samples up to floor(m rate / to), the `newest`.
    """

    def __init__(self, rate: int, to: int, delay: float = HALF) -> None:
        divisor = gcd(rate, to)
        self._step, self._over = rate // divisor, to // divisor
        self._phases = min(self._over, PHASES)
        self.reach = floor((HALF + delay) * rate) + 1
        phase = np.arange(self._phases)[:, None] / self._phases
        lag = (phase + np.arange(self.reach - 1, -1, -1)) / rate - delay  # seconds, the oldest sample first
        cutoff = min(rate, to) - 2 * EDGE
        inside = np.sqrt(np.clip(1 - np.square(lag / HALF), 0, None))
        weights = np.sinc(cutoff * lag) * np.i0(BETA * inside) * (np.abs(lag) <= HALF)
        self._weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)  # a constant stays one

    def newest(self, m: int) -> int:
        """Return the index of the newest sample that output m needs."""
        return m * self._step // self._over

    def count(self, samples: int) -> int:
        """Return how many outputs the first `samples` of the input give."""
        return -(-samples * self._over // self._step)

    def frame(self, audio: np.ndarray, first: int, begin: int, end: int) -> np.ndarray:
        """Return the outputs begin ... end - 1, (end - begin) or (end - begin, C).

        audio: (n,) or (n, C) float32, the samples of the input from index `first` on.
        """
        if begin == end:
            return audio[:0]
        m, newest = np.arange(begin, end), self.newest(begin)
        weights = self._weights[m * self._step % self._over * self._phases // self._over]
        audio = audio[newest - self.reach + 1 - first : self.newest(end - 1) + 1 - first]
        rows = np.ascontiguousarray(audio.T.reshape(-1, len(audio)))
        # sliding_window_view makes strings anew in each call, for which Python's table of them grows by a MiB or two.
        shape = len(rows), rows.shape[1] - self.reach + 1, self.reach
        windows = np.ndarray(shape, np.float32, rows, strides=(*rows.strides, rows.itemsize))
        resampled = np.einsum("cmt,mt->cm", windows[:, m * self._step // self._over - newest], weights)
        return resampled.T.reshape(-1, *audio.shape[1:])

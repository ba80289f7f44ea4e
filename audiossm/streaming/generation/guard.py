"""Watch the level of what is made: a model that hears itself for long can run away into noise, or fall silent."""

from dataclasses import dataclass

import numpy as np

from audiossm.streaming.generation.facts import Level

PATIENCE = 3  # seconds in a row: of the training data itself, one in 500 is outside
QUIETEST = 1e-10  # power of a silent second, as in the training data's figures


@dataclass(frozen=True)
class Left:
    """A stream has left the level of the training data: which row, when it was noticed (seconds), its RMS in dBFS."""

    row: int
    time: float
    rms: float


class Guard:
    """Measure whole seconds of each stream; tell when three in a row lie outside the training data's level.

    level: of the training data. rate: Hz. batch: streams.
    """

    def __init__(self, level: Level, rate: int, batch: int = 1) -> None:
        self._level, self._rate = level, rate
        self._energy, self._filled = np.zeros(batch), 0  # of the second at hand
        self._outside = np.zeros(batch, int)  # seconds in a row
        self._seconds = 0

    def forget(self) -> None:
        """Begin to count anew."""
        self._energy[:], self._outside[:], self._filled = 0, 0, 0

    def add(self, audio: np.ndarray) -> list[Left]:
        """Hear audio (batch, n); return the streams that are now found outside."""
        found, begin = [], 0
        while begin < audio.shape[1]:
            piece = audio[:, begin : begin + self._rate - self._filled].astype(np.float64)
            begin += piece.shape[1]
            self._filled += piece.shape[1]
            self._energy += np.square(piece).sum(1)
            if self._filled == self._rate:
                found += self._second()
        return found

    def _second(self) -> list[Left]:
        rms = 10 * np.log10(np.maximum(self._energy / self._rate, QUIETEST))
        self._seconds += 1
        self._energy[:], self._filled = 0, 0
        # Figures of the training data are rounded to 0.01 dB.
        inside = (rms >= self._level.low - 0.01) & (rms <= self._level.high + 0.01)
        self._outside = np.where(inside, 0, self._outside + 1)
        rows = np.flatnonzero(self._outside == PATIENCE)
        return [Left(int(row), float(self._seconds), float(rms[row])) for row in rows]

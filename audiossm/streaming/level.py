"""How loud the audio is, as a meter shows it."""

import math

import numpy as np

from audiossm.streaming.samples import ABSURD

FAST = 0.125  # seconds: the time constant of a sound level meter set to "fast" (IEC 61672)
HOLD = 1.5  # seconds that a peak stays before a lower one takes its place
FLOOR = -120.0  # dBFS: what silence reads


class Level:
    """Follow the level in dBFS. A constant full scale reads 0, a sine of full scale -3 with its peak at 0.

    rate: of the audio, Hz.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._power = self._peak = 0.0
        self._age = 0.0  # of the peak, seconds

    def add(self, block: np.ndarray) -> None:
        """Hear a block (n,) or (n, channels) of floats; the loudest channel counts for the peak."""
        seconds = len(block) / self._rate
        peak = float(np.abs(block).max(initial=0.0))
        if not peak <= ABSURD or not seconds:  # NaN too: no audio
            return
        power = float(np.vdot(block, block)) / block.size
        self._power += (power - self._power) * -math.expm1(-seconds / FAST)
        self._age += seconds
        if peak >= self._peak or self._age > HOLD:
            self._peak, self._age = peak, 0.0

    @property
    def rms(self) -> float:
        """The level now, dBFS."""
        return max(FLOOR, 10 * math.log10(self._power)) if self._power else FLOOR

    @property
    def peak(self) -> float:
        """The highest sample of late, dBFS."""
        return max(FLOOR, 20 * math.log10(self._peak)) if self._peak else FLOOR

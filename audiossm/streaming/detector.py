"""From probabilities to events: smooth over time, compare with a threshold, then keep quiet for a while."""

from collections.abc import Sequence

import numpy as np

from audiossm.streaming.metadata import DetectorSettings


class Detector:
    """Decide after each frame whether a label was heard.

    The probabilities are averaged over the last `smoothing` seconds; a label whose average reaches `threshold` is
    reported, the highest if several do. Then nothing is reported for `refractory` seconds, and the same label not
    until its average has fallen under the threshold: one word is one event, however long its probability stays high.
    Nothing is reported before `smoothing` seconds have been heard. Labels that begin with `_` stand for silence and
    for other sounds and are never reported.

    labels: the classes in order. frame: seconds between two calls of `update`.
    """

    def __init__(self, labels: Sequence[str], settings: DetectorSettings, frame: float) -> None:
        size = max(1, round(settings.smoothing / frame))
        self._labels = tuple(labels)
        self._refractory = round(settings.refractory / frame)
        self._speaks = np.array([not label.startswith("_") for label in labels])
        self._limits = np.where(self._speaks, size * settings.threshold, np.inf)
        self._ring = np.zeros((size, len(labels)))
        self._total = np.zeros(len(labels))  # of the rows, in float64: exact enough after hours of adding up
        self.reset()

    def reset(self) -> None:
        """Forget everything heard."""
        self._ring[:] = 0
        self._total[:] = 0
        self._next = 0  # where the next frame goes in the ring
        self._count = 0  # how many rows of the ring hold a frame
        self._quiet = 0  # frames until something may be reported again
        self._armed = self._speaks  # labels that may be reported

    def update(self, posteriors: np.ndarray) -> tuple[str, float] | None:
        """Take a frame's probabilities (classes,); return (label, average) when a word is detected."""
        oldest, size = self._ring[self._next], len(self._ring)
        self._total -= oldest
        oldest[:] = posteriors
        self._total += oldest
        self._next = (self._next + 1) % size
        self._count += self._count < size
        self._quiet -= self._quiet > 0

        if self._count < size:
            return None
        high = self._total >= self._limits
        if not high.any():  # the usual frame
            self._armed = self._speaks
            return None
        self._armed = (self._armed | ~high) & self._speaks
        candidates = high & self._armed
        if self._quiet > 0 or not candidates.any():
            return None
        best = int(np.where(candidates, self._total, -1.0).argmax())
        self._armed[best] = False
        self._quiet = self._refractory
        return self._labels[best], float(self._total[best]) / size

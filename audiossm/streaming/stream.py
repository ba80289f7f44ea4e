"""One stream of audio through a keyword model: chunks of any length in, events out, in constant memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossm.streaming.detector import Detector
from audiossm.streaming.files import bind
from audiossm.streaming.samples import checked, cleaned
from audiossm.streaming.taps import FrameClock

if TYPE_CHECKING:
    from audiossm.streaming.model import Model


@dataclass(frozen=True)
class Event:
    """A keyword was heard: its label, `time` in seconds of input when it was detected, its probability."""

    label: str
    time: float
    score: float


class KeywordStream:
    """The changing half of a keyword model: open it with `model.stream(rate)`.

    The result does not depend on how the audio is cut into chunks, bit for bit, and memory does not grow.

    rate: of the audio to come, whole Hz from 4000 to 192000; None is the model's own rate.
    """

    def __init__(self, model: "Model", rate: int | None = None) -> None:
        meta = model.metadata
        self.model = model
        self.clock = FrameClock(meta.rate if rate is None else rate)
        self.rate = int(self.clock.rate)
        self._samples = self.clock.samples  # of a frame
        self._shared = [self.clock.shared(frame) for frame in (0, 1)]  # of a frame's samples, with the next one
        self._detector = Detector(meta.labels, meta.detector, meta.frame_seconds)
        self._audio = np.zeros((1, self.clock.samples), np.float32)
        self._states = np.zeros((2, 1, meta.state_size), np.float32)
        self._posteriors = np.zeros((1, len(meta.labels)), np.float32)
        # Frames come in two kinds: the state goes from the first buffer to the second, then back, and where
        # every second frame begins between two samples the sessions alternate in the same step.
        sessions = model.sessions(self.clock)
        known = {"audio": self._audio, "posteriors": self._posteriors}
        self._calls = [
            (session, bind(session, known | {"state": self._states[turn], "state_out": self._states[1 - turn]}))
            for turn, session in ((0, sessions[0]), (1, sessions[-1]))
        ]
        self.reset()

    def reset(self) -> None:
        """Forget all audio: the stream is as new."""
        self._states[:] = 0
        self._posteriors[:] = 0
        self._detector.reset()
        self._frames = 0  # frames completed
        self._filled = 0  # samples of the next frame that have come
        self._heard = 0  # samples of input
        self.bad_samples = 0
        """NaN, infinite or absurdly large input values so far; each was replaced by 0."""

    @property
    def posteriors(self) -> np.ndarray:
        """Probability of each label after the latest frame, (classes,) float32; zeros before the first."""
        return self._posteriors[0].copy()

    @property
    def latency(self) -> float:
        """Samples at the stream's rate from a sound to what is known of it: those of a frame."""
        return self.model.metadata.latency * self.rate / self.model.metadata.rate

    @property
    def seconds(self) -> float:
        """Seconds of input heard."""
        return self._heard / self.rate

    def push(self, chunk: np.ndarray) -> list[Event]:
        """Hear a chunk and return the keywords detected in it.

        chunk: (n,) or (n, channels), any n from 0; float32 or float64 in [-1, 1], or int16. The mean of the
        channels is heard.
        """
        return [event for event in self._run(chunk) if event]

    def scores(self, chunk: np.ndarray, last: bool = False) -> np.ndarray:
        """Hear a chunk as `push` does; return the probabilities after each frame: (frames, classes) float32.

        last: the audio ends here; a frame that has begun is completed with zeros, then the stream is reset.
        """
        rows = [self.posteriors for _ in self._run(chunk)]
        if last:
            rows += [self.posteriors for _ in self._finish()]
            self.reset()
        return np.array(rows, np.float32).reshape(-1, self._posteriors.shape[1])

    def flush(self) -> list[Event]:
        """End the audio: complete a frame that has begun with zeros, return its events, and reset."""
        events = [event for event in self._finish() if event]
        self.reset()
        return events

    def _run(self, chunk: np.ndarray) -> Iterator[Event | None]:
        """Hear a chunk; yield once for each frame it completes."""
        chunk = checked(chunk)
        begin = 0
        while begin < len(chunk):
            piece = chunk[begin : begin + self._samples - self._filled]
            begin += len(piece)
            if self._fill(self._mono(piece), len(piece)):
                yield self._frame()

    def _finish(self) -> Iterator[Event | None]:
        """Complete a frame that has begun. A straddling sample alone is none: the frame before read it."""
        if self._filled > self._shared[(self._frames - 1) % 2]:
            self._fill(np.zeros(self._samples - self._filled, np.float32), 0)
            yield self._frame()

    def _fill(self, samples: np.ndarray, heard: int) -> bool:
        """Append samples (n,) to the frame, `heard` of them from the input; say whether it is complete."""
        self._audio[0, self._filled : self._filled + len(samples)] = samples
        self._filled += len(samples)
        self._heard += heard
        return self._filled == self._samples

    def _frame(self) -> Event | None:
        """Run the complete frame and begin the next one."""
        turn = self._frames % 2
        session, binding = self._calls[turn]
        session.run_with_iobinding(binding)
        self._filled = self._shared[turn]
        if self._filled:
            self._audio[0, : self._filled] = self._audio[0, self._samples - self._filled :]
        self._frames += 1
        found = self._detector.update(self._posteriors[0])
        if found is None:
            return None
        # The zeros of a flush are not input, so they take no time.
        return Event(found[0], min(self.clock.seconds(self._frames), self.seconds), found[1])

    def _mono(self, piece: np.ndarray) -> np.ndarray:
        """(n,) or (n, channels) of an accepted type -> (n,) float32, with bad values replaced and counted."""
        piece, bad = cleaned(piece)
        self.bad_samples += bad
        if piece.ndim == 2:
            # One channel after the other: the order of a sum along an axis can depend on the memory's layout.
            total = piece[:, 0].astype(np.float64)
            for channel in range(1, piece.shape[1]):
                total += piece[:, channel]
            piece = total / piece.shape[1]
        return piece.astype(np.float32, copy=False)

"""One stream of audio through a keyword model: chunks of any length in, events out, in constant memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from audiossm.streaming.detector import Detector
from audiossm.streaming.taps import FrameClock, taps, windows

if TYPE_CHECKING:
    from audiossm.streaming.model import Model

# 120 dB above full scale. Such a sample is no audio, and its square could overflow inside the model.
ABSURD = 1e6


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
        self._detector = Detector(meta.labels, meta.detector, meta.frame_seconds)
        self._audio = np.zeros((1, self.clock.samples), np.float32)
        self._states = np.zeros((2, 1, meta.state_size), np.float32)
        self._posteriors = np.zeros((1, len(meta.labels)), np.float32)
        # The defaults inside the file are the taps at the native rate.
        self._taps: list[tuple[np.ndarray, np.ndarray]] = []
        if self.clock.grid != meta.rate:
            self._taps = [
                (taps(meta.filterbank, self.clock, frame), windows(self.clock, frame))
                for frame in range(self.clock.period)
            ]
        # Frames come in two kinds: the state goes from the first buffer to the second, then back, and where
        # every second frame begins between two samples the taps alternate in the same step.
        self._calls = [self._bind(0), self._bind(1)]
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
        chunk = _checked(chunk)
        begin = 0
        while begin < len(chunk):
            piece = chunk[begin : begin + self.clock.samples - self._filled]
            begin += len(piece)
            yield from self._fill(self._mono(piece), len(piece))

    def _finish(self) -> Iterator[Event | None]:
        """Complete a frame that has begun. A straddling sample alone is none: the frame before read it."""
        if self._filled > self.clock.shared(self._frames - 1):
            yield from self._fill(np.zeros(self.clock.samples - self._filled, np.float32), 0)

    def _fill(self, samples: np.ndarray, heard: int) -> Iterator[Event | None]:
        """Append samples (n,) to the frame, `heard` of them from the input; run it if it is complete."""
        self._audio[0, self._filled : self._filled + len(samples)] = samples
        self._filled += len(samples)
        self._heard += heard
        if self._filled < self.clock.samples:
            return
        self.model.session.run_with_iobinding(self._calls[self._frames % 2])
        kept = self.clock.shared(self._frames)
        self._audio[0, :kept] = self._audio[0, self.clock.samples - kept :]
        self._filled = kept
        self._frames += 1
        found = self._detector.update(self._posteriors[0])
        # The zeros of a flush are not input, so they take no time.
        time = min(self.clock.seconds(self._frames), self.seconds)
        yield Event(found[0], time, found[1]) if found else None

    def _mono(self, piece: np.ndarray) -> np.ndarray:
        """(n,) or (n, channels) of an accepted type -> (n,) float32, with bad values replaced and counted."""
        if piece.dtype == np.int16:
            piece = piece * np.float64(1 / 32768)
        elif not np.vdot(piece, piece) <= ABSURD:  # rare: NaN, infinity or far beyond full scale somewhere
            bad = ~(np.abs(piece) <= ABSURD)
            self.bad_samples += int(np.count_nonzero(bad))
            piece = np.where(bad, piece.dtype.type(0), piece)
        if piece.ndim == 2:
            # One channel after the other: the order of a sum along an axis can depend on the memory's layout.
            total = piece[:, 0].astype(np.float64)
            for channel in range(1, piece.shape[1]):
                total += piece[:, channel]
            piece = total / piece.shape[1]
        return piece.astype(np.float32, copy=False)

    def _bind(self, turn: int) -> onnxruntime.IOBinding:
        """Bind one call's buffers by their addresses, so that a frame allocates nothing."""
        binding = self.model.session.io_binding()

        def bind(kind: str, name: str, array: np.ndarray) -> None:
            method = binding.bind_input if kind == "in" else binding.bind_output
            method(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

        bind("in", "audio", self._audio)
        bind("in", "state", self._states[turn])
        if self._taps:
            tap, window = self._taps[turn % len(self._taps)]
            bind("in", "taps", tap)
            bind("in", "windows", window)
        bind("out", "posteriors", self._posteriors)
        bind("out", "state_out", self._states[1 - turn])
        return binding


def _checked(chunk: np.ndarray) -> np.ndarray:
    """Return the chunk if a stream can hear it, else raise a ValueError that says what it must be."""
    chunk = np.asarray(chunk)
    if chunk.ndim not in (1, 2) or (chunk.ndim == 2 and chunk.shape[1] == 0):
        raise ValueError(f"a chunk must have shape (samples,) or (samples, channels), not {chunk.shape}")
    if chunk.dtype not in (np.float32, np.float64, np.int16):
        raise ValueError(f"a chunk must be float32, float64 or int16, not {chunk.dtype}")
    return chunk

"""One stream of audio through an enhancement model: chunks of any length in, clean audio out, in constant memory."""

from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from audiossm.streaming.enhancement.resampler import HALF, Resampler
from audiossm.streaming.files import bind
from audiossm.streaming.samples import checked, cleaned
from audiossm.streaming.taps import HIGHEST, LOWEST

if TYPE_CHECKING:
    from audiossm.streaming.enhancement.model import Enhancer


ROOM = 4096  # samples that the memory for the input takes before it moves


class EnhancementStream:
    """The changing half of an enhancement model: open it with `model.stream(rate)`.

    What `push` and `flush` return, one after the other, is aligned with the input and as long: sample n is sample n of
    the input, enhanced. It comes with the input sample n + `latency` at the latest. The result does not depend on how
    the audio is cut into chunks, bit for bit, and memory does not grow. Each channel has a state of its own.

    The model hears its own rate: other audio is resampled on the way in and out, 1.9 ms each, and what is above the
    model's band is dropped.

    rate: of the audio, whole Hz from 4000 to 192000; None is the model's own.
    strength: 1 is the model's output, 0 the input, between them a mix of both. It may be changed at any time, and goes
        to a new value within a frame.
    """

    def __init__(self, model: "Enhancer", rate: int | None = None, strength: float = 1.0) -> None:
        facts = model.metadata
        self.model = model
        self.rate = facts.rate if rate is None else int(rate)
        if not LOWEST <= self.rate <= HIGHEST:
            raise ValueError(f"the sampling rate must be {LOWEST} to {HIGHEST} Hz, not {rate}")
        if not 0 <= strength <= 1:
            raise ValueError(f"the strength must be 0 to 1, not {strength}")
        self.strength = strength
        self.skipping = False
        """Whether frames pass as they are, without the model: where a machine is too slow for a moment."""
        self._frame = facts.frame
        if self.rate == facts.rate:
            self._down = self._up = None
            self._delay = facts.delay
        else:
            # The way out waits a little longer than it must, so that all delays are whole samples together.
            self._delay = ceil(self.rate * (2 * HALF + facts.delay / facts.rate))
            self._down = Resampler(self.rate, facts.rate)
            self._up = Resampler(facts.rate, self.rate, self._delay / self.rate - facts.delay / facts.rate - HALF)
        self.latency = self._delay + ceil(facts.frame * self.rate / facts.rate)
        """Samples at the stream's rate, at most, between what comes in and what goes out."""
        self.reset()

    def reset(self) -> None:
        """Forget all audio: the stream is as new, and may get another number of channels."""
        self._shape: tuple[int, ...] | None = None  # (channels,), or () for chunks without that axis
        self._frames = 0  # frames completed
        self._turn = 0  # which buffer holds the state
        self._heard = 0  # samples of input
        self._given = 0  # samples of output
        self._mix = self.strength
        self.bad_samples = 0
        """NaN, infinite or absurdly large input values so far; each was replaced by 0."""

    def push(self, chunk: np.ndarray) -> np.ndarray:
        """Hear a chunk and return the enhanced audio that is ready, (m,) or (m, channels) float32, m from 0 on.

        chunk: (n,) or (n, channels), any n from 0, always the same channels; float32 or float64 in [-1, 1], or int16.
        """
        chunk = checked(chunk)
        if self._shape is None:
            self._begin(chunk.shape[1:])
        elif chunk.shape[1:] != self._shape:
            began = ", ".join(("samples", *map(str, self._shape)))
            raise ValueError(f"the stream began with chunks of shape ({began}), not {chunk.shape}")
        return self._run(chunk)

    def flush(self) -> np.ndarray:
        """End the audio: return the rest of the output, so that it is as long as the input, and reset."""
        if self._shape is None:
            return np.zeros(0, np.float32)
        rest, silence = self._heard - self._given, np.zeros((self.latency, *self._shape), np.float32)
        tail = self._run(silence)[:rest]
        self.reset()
        return tail

    def _begin(self, shape: tuple[int, ...]) -> None:
        """Take the memory for channels."""
        facts, self._shape = self.model.metadata, shape
        channels = shape[0] if shape else 1
        audio, enhanced = (np.zeros((channels, facts.frame), np.float32) for _ in "io")
        # The state goes from the first buffer to the second, then back.
        self._states = states = np.zeros((2, channels, facts.state_size), np.float32)
        known = {"audio": audio, "audio_out": enhanced}
        self._calls = [
            bind(self.model.session, known | {"state": states[turn], "state_out": states[1 - turn]}) for turn in (0, 1)
        ]
        # The model's rows seen as a chunk: to copy between arrays of one shape takes half as long, for few samples.
        self._audio, self._enhanced = (rows.T.reshape(-1, *shape) for rows in (audio, enhanced))
        # Before its beginning there was silence.
        past, late = (side.reach if side else 0 for side in (self._down, self._up))
        self._dry, self._dry_from = np.zeros((past, *shape), np.float32), -past  # input that is still needed
        self._wet = np.zeros((late, *shape), np.float32)  # the same of the model's output

    def _run(self, chunk: np.ndarray) -> np.ndarray:
        """Hear a chunk; return the output of all frames that it completes, in the shape of chunks."""
        chunk, bad = cleaned(chunk)
        self.bad_samples += bad
        self._keep(chunk)
        pieces = []
        while self._heard >= self._needed():
            pieces.append(self._complete())
        return pieces[0] if len(pieces) == 1 else np.concatenate([self._wet[:0], *pieces])

    def _keep(self, chunk: np.ndarray) -> None:
        """Append input to what is still needed; where there is no more room, that moves to a new place."""
        end = self._heard - self._dry_from
        if end + len(chunk) > len(self._dry):
            oldest = self._oldest()
            room = np.empty((len(chunk) + ROOM, *chunk.shape[1:]), np.float32)
            self._dry = np.concatenate([self._dry[oldest - self._dry_from : end], room])
            self._dry_from, end = oldest, self._heard - oldest
        self._dry[end : end + len(chunk)] = chunk
        self._heard += len(chunk)

    def _oldest(self) -> int:
        """Return the first sample of input that the next frame or the mix needs."""
        oldest = self._frames * self._frame
        if self._down:
            oldest = self._down.newest(oldest) - self._down.reach + 1
        return min(oldest, self._given)

    def _needed(self) -> int:
        """How many samples of input complete the next frame."""
        end = (self._frames + 1) * self._frame
        return self._down.newest(end - 1) + 1 if self._down else end

    def _complete(self) -> np.ndarray:
        """Run the complete frame; return what of the output is new."""
        begin, end = self._frames * self._frame, (self._frames + 1) * self._frame
        if not self.skipping:
            if self._down:
                self._audio[:] = self._down.frame(self._dry, self._dry_from, begin, end)
            else:
                self._audio[:] = self._dry[begin - self._dry_from : end - self._dry_from]
            self.model.session.run_with_iobinding(self._calls[self._turn])
            self._turn = 1 - self._turn
        self._frames += 1
        ready = (self._up.count(end) if self._up else end) - self._delay
        mixed = self._mixed(self._at_rate(end, max(0, ready)), 0 if self.skipping else self.strength)
        self._given += len(mixed)
        return mixed

    def _at_rate(self, end: int, ready: int) -> np.ndarray:
        """Return the model's output at the stream's rate, from what was given up to `ready`, aligned with the input."""
        begin, last = self._given + self._delay, ready + self._delay
        if not self._up:
            return self._enhanced[begin - end + self._frame : last - end + self._frame]
        wet = np.concatenate([self._wet, self._enhanced])
        self._wet = wet[-self._up.reach :]
        return self._up.frame(wet, end - len(wet), begin, last)

    def _mixed(self, wet: np.ndarray, strength: float) -> np.ndarray:
        """Mix the output with the input, on the way to a strength that is reached within a frame."""
        if self._mix == strength == 1:
            return wet.copy()
        begin = self._given - self._dry_from
        dry = self._dry[begin : begin + len(wet)]
        share = np.linspace(self._mix, strength, len(wet) + 1, dtype=np.float32)[1:]
        if len(wet):
            self._mix = strength
        return dry + (share * (wet - dry).T).T

"""A microphone, cleaned, on a speaker or a virtual device, for as long as there is one."""

import math
import time
from collections.abc import Iterator

import numpy as np

from audiossm.streaming.enhancement.model import Enhancer
from audiossm.streaming.enhancement.playback import Playback
from audiossm.streaming.level import Level
from audiossm.streaming.listener import AGAIN
from audiossm.streaming.microphone import POLL, DeviceLost, Microphone

SPARE = 0.5  # real-time factor below which delay is given back
PATIENCE = 0.15  # seconds of input that may wait before frames pass as they are
RECENT = 1.0  # seconds: the time constant of the recent real-time factor


class Live:
    """Run a model from a microphone, which the caller has opened, to an output device:

        with Microphone() as microphone, Live(model, microphone) as live:
            for _ in live.turns():
                ...

    Sound keeps flowing. Where the output runs dry it gets a frame more of delay, which is given back when the machine
    has time to spare; where input waits for too long, frames pass as they are until it has been caught up with. When a
    device is lost, both are looked for until they are back.

    output: index, part of a name, or None for the default. latency: seconds that the output device shall hold, 0 for as
    few as it can. strength: as in `EnhancementStream`.
    """

    def __init__(
        self,
        model: Enhancer,
        microphone: Microphone,
        output: int | str | None = None,
        latency: float = 0.0,
        strength: float = 1.0,
    ) -> None:
        self.model, self.microphone = model, microphone
        self._strength, self._bypassed = strength, False
        self.playback = Playback(microphone.rate, microphone.channels, self._step, output, latency)
        self.heard = 0.0
        """Seconds of audio heard, over all losses."""
        self.passed = 0.0
        """Seconds that passed as they were because the machine was too slow."""
        self.losses = 0
        self.waiting = False
        """Whether a device is lost at the moment."""
        self._stuttered = 0  # before the output was last opened
        self._cpu = self._recent = 0.0
        self._begin()

    @property
    def _step(self) -> int:
        """Samples of a frame, at least of a block of the devices."""
        return math.ceil(max(0.01, self.model.metadata.frame_seconds) * self.microphone.rate)

    def _begin(self) -> None:
        self.stream = self.model.stream(self.microphone.rate, self._strength)
        self.bypassed = self._bypassed
        self.level_in, self.level_out = Level(self.microphone.rate), Level(self.microphone.rate)

    @property
    def bypassed(self) -> bool:
        """Whether the input is heard, as late as the output would be; may be set."""
        return self._bypassed

    @bypassed.setter
    def bypassed(self, wanted: bool) -> None:
        self._bypassed, self.stream.strength = wanted, 0.0 if wanted else self._strength

    @property
    def real_time_factor(self) -> float:
        """CPU time that the model took over the time it heard."""
        return self._cpu / self.heard if self.heard else 0.0

    @property
    def latency(self) -> float:
        """Seconds of the algorithm, the resampling included."""
        return self.stream.latency / self.stream.rate

    @property
    def delay(self) -> float:
        """Seconds from a sound to its enhanced sound, as far as the system says: the algorithm's and the devices'."""
        return self.latency + self.microphone.latency + self.playback.delay

    @property
    def stuttered(self) -> int:
        """How often the output ran dry."""
        return self._stuttered + self.playback.waiting.stuttered

    def turns(self) -> Iterator[None]:
        """Go on for ever; yield after each block, and each tenth of a second while a device is lost."""
        while True:
            try:
                for block in self.microphone.blocks():
                    if not self.playback.active:
                        raise DeviceLost("the output device takes no more audio")
                    self.waiting = False
                    self._hear(block)
                    yield
            except DeviceLost:
                self.losses += not self.waiting
                self.waiting = True
                yield from self._look()
                self._begin()

    def _hear(self, block: np.ndarray) -> None:
        """Clean a block and play it."""
        seconds = len(block) / self.stream.rate
        late = self.microphone.waiting
        self.stream.skipping = late > PATIENCE or (self.stream.skipping and late > seconds)
        cpu, begun = time.thread_time(), time.monotonic()
        enhanced = self.stream.push(block)
        self._cpu += time.thread_time() - cpu
        factor = (time.monotonic() - begun) / seconds
        self._recent += (factor - self._recent) * -math.expm1(-seconds / RECENT)
        self.heard += seconds
        self.passed += seconds * self.stream.skipping
        self.playback.put(enhanced)
        if self._recent < SPARE:
            self.playback.waiting.relax()
        self.level_in.add(block)
        self.level_out.add(enhanced)

    def _look(self) -> Iterator[None]:
        """Look for both devices until they are open again."""
        self._stuttered = self.stuttered
        while True:
            self.playback.close()
            if self.microphone.reopen():
                try:
                    self.playback.open(self.microphone.rate, self.microphone.channels, self._step)
                    return
                except (OSError, ValueError):
                    pass  # the output is not back yet
            for _ in range(round(AGAIN / POLL)):
                time.sleep(POLL)
                yield

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, *_: object) -> None:
        self.playback.close()

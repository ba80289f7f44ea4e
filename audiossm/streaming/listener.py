"""A model that listens to a source for as long as there is one, through the loss of a microphone too."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from audiossm.streaming.audiofile import AudioFile
from audiossm.streaming.level import Level
from audiossm.streaming.microphone import POLL, DeviceLost, Microphone
from audiossm.streaming.model import Model
from audiossm.streaming.stream import Event

AGAIN = 0.5  # seconds between two looks for a lost device


@dataclass(frozen=True)
class Lost:
    """The microphone `device` delivers no more audio; `time` in seconds since listening began."""

    device: str
    time: float


@dataclass(frozen=True)
class Back:
    """A microphone is heard again, with what it is called and its rate in Hz; `time` as in `Lost`."""

    device: str
    rate: int
    time: float


News = Event | Lost | Back


class Listener:
    """Run a model on a source that the caller has opened:

        with Microphone() as microphone:
            listener = Listener(model, microphone)
            for news in listener.news():
                ...

    When the microphone is lost, the model's state is forgotten, time goes on, and the microphone is looked for
    until it is back, at whatever rate it then has.
    """

    def __init__(self, model: Model, source: Microphone | AudioFile) -> None:
        self.model = model
        self.source = source
        self.waiting = False
        """Whether the microphone is lost at the moment."""
        self._begin(0.0)
        self.heard = 0.0
        """Seconds of audio heard, over all losses."""
        self._cpu = 0.0
        self._latest = time.monotonic()

    @property
    def time(self) -> float:
        """Seconds since listening began, up to the latest block; what events tell."""
        return self._began + self.stream.seconds

    @property
    def real_time_factor(self) -> float:
        """CPU time that the model took over the time it heard."""
        return self._cpu / self.heard if self.heard else 0.0

    def news(self) -> Iterator[list[News]]:
        """Yield what happened after each block, often nothing; while the microphone is lost, each tenth of a second.

        A file ends; a microphone does not.
        """
        while True:
            try:
                for block in self.source.blocks():
                    back = self._back()
                    yield [*back, *self._hear(block)]
            except DeviceLost:
                yield [] if self.waiting else self._lost()
                yield from self._look()
            else:
                yield self._end()
                return

    def _lost(self) -> list[News]:
        """Give up the microphone."""
        self.waiting = True
        self.level = Level(self.source.rate)
        at = self.time
        return [*self._end(), Lost(self._name, at)]

    def _look(self) -> Iterator[list[News]]:
        """Look for the lost microphone until it opens again."""
        assert isinstance(self.source, Microphone)  # nothing else is lost
        while not self.source.reopen():
            for _ in range(round(AGAIN / POLL)):
                time.sleep(POLL)
                yield []

    def _back(self) -> list[News]:
        """Begin again where the microphone was lost and is heard: one that opens may still deliver nothing."""
        if not self.waiting:
            return []
        self.waiting = False
        self._begin(self.time + time.monotonic() - self._latest)
        return [Back(self._name, self.source.rate, self.time)]

    @property
    def _name(self) -> str:
        return self.source.device.name if isinstance(self.source, Microphone) else ""

    def _begin(self, at: float) -> None:
        """Start with an empty state at `at` seconds."""
        self._began = at
        self.stream = self.model.stream(self.source.rate)
        self.level = Level(self.source.rate)

    def _hear(self, block: np.ndarray) -> list[News]:
        began, cpu = self._began, time.thread_time()
        events = self.stream.push(block)
        self._cpu += time.thread_time() - cpu
        self.heard += len(block) / self.stream.rate
        self._latest = time.monotonic()
        self.level.add(block)
        return [replace(event, time=began + event.time) for event in events]

    def _end(self) -> list[News]:
        """Complete a frame that has begun. The clock stays where it is."""
        began, seconds = self._began, self.stream.seconds
        events = self.stream.flush()
        self._began += seconds
        return [replace(event, time=began + event.time) for event in events]

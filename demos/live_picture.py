"""Photograph the live display: `audiossm listen` as it looks on a terminal while a voice speaks.

    python demos/live_picture.py OUT.svg [MODEL]

The voice is espeak-ng's, heard as a microphone would deliver it, in real time; all that is shown is measured then.
"""

import sys
import time
from collections.abc import Iterator

import numpy as np
from picture import speech
from rich.console import Console

import audiossm.streaming
from audiossm.cli.display import line, panel, status
from audiossm.streaming import Device, Listener
from audiossm.streaming.lag import Lag


class Speaker:
    """Stands in for a Microphone: a recording that is heard in blocks of 10 ms when their time has come."""

    def __init__(self, audio: np.ndarray, rate: int) -> None:
        self.audio, self.rate = audio, rate
        self.device = Device(0, "A voice of espeak-ng", "demo", 1, rate, True)
        self.dropped, self.latency = 0.0, 0.0
        self._lag, self._given = Lag(), 0

    @property
    def behind(self) -> float:
        """Seconds, as a microphone tells it."""
        return self._lag.read(time.monotonic(), self._given / self.rate)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the recording as it is spoken."""
        began, step = time.monotonic(), self.rate // 100
        for begin in range(0, len(self.audio), step):
            time.sleep(max(0.0, began + (begin + step) / self.rate - time.monotonic()))
            self._given += step
            yield self.audio[begin : begin + step, None]


def main(out: str, name: str = "keywords") -> None:
    """Write the picture, and print what it shows."""
    speaker = Speaker(*speech())
    listener = Listener(audiossm.streaming.load(name), speaker)
    log, picture = [], None
    for block, turn in enumerate(listener.news()):
        if turn or block % 10 == 0:  # as the display does, ten times a second
            now = panel(status(listener, speaker))
        if turn:
            log += map(line, turn)
            picture = now  # the bar of a word is longest when it is told
    console = Console(record=True, width=84)
    for text in (*log, picture or now):
        console.print(text, highlight=False)
    console.save_svg(out, title="audiossm listen")


if __name__ == "__main__":
    main(*sys.argv[1:])

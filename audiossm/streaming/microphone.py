"""A live microphone as a sequence of blocks, at the rate the device itself prefers."""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np

from audiossm.streaming.devices import Device, find_device, portaudio
from audiossm.streaming.ring import Ring
from audiossm.streaming.taps import HIGHEST, LOWEST

SILENT = 2.0  # seconds without a callback after which the device counts as lost
POLL = 0.1  # seconds between two looks at whether the stream is still active


class Microphone:
    """Listen to an input device: `with Microphone() as mic: for chunk in mic.blocks(): ...`

    The model reads any rate, so the device runs at its own and nothing is resampled. The callback copies into
    a ring and returns; if the program falls behind by more than `buffer` seconds, the oldest audio is
    dropped.

    device: index, part of a name, or None for the system's default. block, buffer: seconds.
    """

    def __init__(self, device: int | str | None = None, block: float = 0.01, buffer: float = 2.0) -> None:
        self._sd = portaudio()
        self.device = find_device(device)
        self.rate, self.channels = _accepted(self._sd, self.device)
        self.overflows = 0
        """How often the system reported that it lost input before we could see it."""
        samples = max(1, round(block * self.rate))
        self._ring = Ring(max(2, round(buffer / block)), (samples, self.channels))
        try:
            self._stream = self._sd.InputStream(
                device=self.device.index,
                samplerate=self.rate,
                channels=self.channels,
                dtype="float32",
                blocksize=samples,
                callback=self._callback,
            )
        except self._sd.PortAudioError as error:
            raise OSError(f"cannot open the input device {self.device.name!r}: {error}") from None

    @property
    def dropped(self) -> float:
        """Seconds of audio dropped because the program was too slow."""
        return self._ring.dropped / self.rate

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield what is heard as (n, channels) float32, for ever. A lost device raises a RuntimeError.

        PortAudio says nothing when a device goes away: the callbacks just stop.
        """
        last = time.monotonic()
        while True:
            block = self._ring.get(POLL)
            if block is not None:
                last = time.monotonic()
                yield block
            elif not self._stream.active or time.monotonic() - last > SILENT:
                raise RuntimeError(
                    f"device lost: {self.device.name!r} delivers no more audio; connect it and start again"
                )

    def close(self) -> None:
        """Stop listening and release the device."""
        self._stream.close()

    def _callback(self, indata: np.ndarray, frames: int, when: Any, status: Any) -> None:
        if status.input_overflow:
            self.overflows += 1
        self._ring.put(indata)

    def __enter__(self) -> "Microphone":
        try:
            self._stream.start()
        except self._sd.PortAudioError as error:
            self._stream.close()
            raise OSError(f"cannot start the input device {self.device.name!r}: {error}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _accepted(sd: Any, device: Device) -> tuple[int, int]:
    """Find a rate in Hz and a count of channels that the device takes, its own rate and one channel first."""
    rates = [rate for rate in dict.fromkeys((device.rate, 48000, 44100, 16000)) if LOWEST <= rate <= HIGHEST]
    counts = [count for count in dict.fromkeys((1, 2, device.channels)) if count <= device.channels]
    reason: Exception | None = None
    for rate in rates:
        for count in counts:
            try:
                sd.check_input_settings(device=device.index, samplerate=rate, channels=count, dtype="float32")
            except (sd.PortAudioError, ValueError) as error:
                reason = reason or error
            else:
                return rate, count
    raise OSError(f"the input device {device.name!r} accepts none of {rates} Hz: {reason}")

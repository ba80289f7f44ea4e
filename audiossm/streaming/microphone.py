"""A live microphone as a sequence of blocks, at the rate the device itself prefers."""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np

from audiossm.streaming.devices import Device, find_device, input_devices, is_index, look_again, portaudio
from audiossm.streaming.lag import Lag
from audiossm.streaming.ring import Ring
from audiossm.streaming.taps import HIGHEST, LOWEST

SILENT = 2.0  # seconds without a callback after which the device counts as lost
POLL = 0.1  # seconds between two looks at whether the stream is still active


class DeviceLost(RuntimeError):
    """The device delivers no more audio."""


class Microphone:
    """Listen to an input device: `with Microphone() as mic: for chunk in mic.blocks(): ...`

    The model reads any rate, so the device runs at its own and nothing is resampled. The callback copies into
    a ring and returns; if the program falls behind by more than `buffer` seconds, the oldest audio is
    dropped.

    device: index, part of a name, or None for the system's default. block, buffer: seconds.
    """

    def __init__(self, device: int | str | None = None, block: float = 0.01, buffer: float = 2.0) -> None:
        self._sd = portaudio()
        self._wanted, self._block, self._buffer = device, block, buffer
        self.overflows = 0
        """How often the system reported that it lost input before we could see it."""
        self._dropped = 0.0  # seconds, before the device was last opened
        self._open(find_device(device))

    def _open(self, device: Device) -> None:
        rate, channels = _accepted(self._sd, device)
        samples = max(1, round(self._block * rate))
        self._received = 0  # samples of each channel
        self._lag = Lag()
        self._ring = Ring(max(2, round(self._buffer / self._block)), (samples, channels))
        try:
            self._stream = self._sd.InputStream(
                device=device.index,
                samplerate=rate,
                channels=channels,
                dtype="float32",
                blocksize=samples,
                callback=self._callback,
            )
        except self._sd.PortAudioError as error:
            raise OSError(f"cannot open the input device {device.name!r}: {error}") from None
        self.device, self.rate, self.channels = device, rate, channels
        self.latency = self._stream.latency
        """Seconds that pass, as the system says, between a sound and its arrival here."""

    def _start(self) -> None:
        try:
            self._stream.start()
        except self._sd.PortAudioError as error:
            self.close()
            raise OSError(f"cannot start the input device {self.device.name!r}: {error}") from None

    @property
    def dropped(self) -> float:
        """Seconds of audio dropped because the program was too slow."""
        return self._dropped + self._ring.dropped / self.rate

    @property
    def waiting(self) -> float:
        """Seconds of audio that have come and were not taken yet."""
        return self._ring.waiting / self.rate

    @property
    def behind(self) -> float:
        """Seconds between what is said and what the program has heard, beyond the least of the last ten seconds.

        It is what waits here to be heard, and what the device owes by the clock. Look at it a few times a second.
        """
        owed = self._lag.read(time.monotonic(), self._received / self.rate)
        return owed + self.waiting

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield what is heard as (n, channels) float32, for ever. A lost device raises `DeviceLost`.

        PortAudio says nothing when a device goes away: the callbacks just stop.
        """
        last = time.monotonic()
        while True:
            block = self._ring.get(POLL)
            if block is not None:
                last = time.monotonic()
                yield block
            elif not self._stream.active or time.monotonic() - last > SILENT:
                raise DeviceLost(
                    f"device lost: {self.device.name!r} delivers no more audio; connect it and start again"
                )

    def reopen(self) -> bool:
        """Look once for a lost device, and listen to it if it is there: `blocks` can then be called again.

        The devices are enumerated anew, which ends every other stream of PortAudio in this process.
        """
        self._dropped, self._ring.dropped = self.dropped, 0
        self.close()
        try:
            look_again()
            self._open(self._find_again())
            self._start()
        except (OSError, ValueError, self._sd.PortAudioError):
            return False
        return True

    def _find_again(self) -> Device:
        """The default is whatever is the default now; another device is known by its name: indexes may have changed."""
        if self._wanted is None:
            return find_device()
        same = [found for found in input_devices() if (found.name, found.host) == (self.device.name, self.device.host)]
        if same:
            return min(same, key=lambda found: found.index != self.device.index)  # of twins, the one at its old place
        if is_index(self._wanted):
            raise OSError(f"the input device {self.device.name!r} is not back")
        return find_device(self._wanted)

    def close(self) -> None:
        """Stop listening and release the device."""
        stream, self._stream = self._stream, None  # PortAudio does not bear closing it twice
        if stream is not None:
            stream.close()

    def _callback(self, indata: np.ndarray, frames: int, when: Any, status: Any) -> None:
        if status.input_overflow:
            self.overflows += 1
        self._received += len(indata)
        self._ring.put(indata)

    def __enter__(self) -> "Microphone":
        self._start()
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

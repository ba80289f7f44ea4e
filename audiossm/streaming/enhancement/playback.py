"""A speaker, or a virtual device, fed with audio as it comes: its delay grows where it must, shrinks where it can."""

import threading
from typing import Any

import numpy as np

from audiossm.streaming.devices import Device, find_device, portaudio

BLOCK = 0.01  # seconds that the device takes at once
MOST = 0.5  # seconds that may wait; older audio is dropped
CALM = 3.0  # seconds without trouble after which delay is given back


class Waiting:
    """Audio between the program and a sound card's callback.

    An underrun adds a step of delay: playing goes on when the silence has made room for it. `relax`, called when
    the machine has time to spare, gives half of what was too much for the last seconds back, a step at least: clocks
    that run apart make it so, too, and a program that was held up, whose input then comes all at once.

    channels, rate: of the audio. step: samples of delay that are added or given back.
    """

    def __init__(self, channels: int, rate: int, step: int) -> None:
        self._lock, self.channels = threading.Lock(), channels
        self._store = np.zeros((0, channels), np.float32)
        self._step, self._most, self._calm = step, round(MOST * rate), round(CALM * rate)
        self._target, self._holding = step, True  # wait until so much is there
        self._least, self._since = self._most, 0  # waited in the last samples
        self.stuttered = 0
        """How often there was nothing to play after there had been something."""
        self.dropped = 0
        """Samples dropped because too many waited."""

    def __len__(self) -> int:
        """Samples that wait."""
        return len(self._store)

    def put(self, block: np.ndarray) -> None:
        """Append a block (n, channels)."""
        with self._lock:
            self._store = np.concatenate([self._store, block])
            over = len(self._store) - self._most
            if over > 0:
                self._store, self.dropped = self._store[over:], self.dropped + over

    def take(self, out: np.ndarray) -> None:
        """Fill `out` (n, channels) with the oldest audio, or with silence."""
        with self._lock:
            if self._holding and len(self._store) < max(self._target, len(out)):
                out[:] = 0
                return
            self._holding = False
            count = min(len(out), len(self._store))
            out[:count], out[count:] = self._store[:count], 0
            self._store = self._store[count:]
            self._least, self._since = min(self._least, len(self._store)), self._since + len(out)
            if count < len(out):
                self.stuttered += 1
                self._target = min(self._target + self._step, self._most // 2)
                self._holding = True
                self._least, self._since = self._most, 0

    def relax(self) -> None:
        """Give back delay that is not needed; what is heard goes over, within a step, into what comes later."""
        with self._lock:
            if self._since < self._calm:
                return
            if self._least > 2 * self._step and len(self._store) >= 2 * self._step:
                skip = max(self._step, (self._least - self._step) // 2)
                share = np.linspace(0, 1, self._step, dtype=np.float32)[:, None]
                now, later = self._store[: self._step], self._store[skip : skip + self._step]
                self._store = np.concatenate([now + share * (later - now), self._store[skip + self._step :]])
                self._target = max(self._step, self._target - self._step)
            self._least, self._since = self._most, 0


class Playback:
    """Play on an output device: `with Playback(rate, channels, step) as playback: playback.put(block)`.

    rate: Hz. channels: of the audio; a device that takes no fewer than two gets a single one twice. step: as in
    `Waiting`. device: index, part of a name, or None for the system's default. latency: seconds that the device
    shall hold, 0 for as few as it can.
    """

    def __init__(
        self, rate: int, channels: int, step: int, device: int | str | None = None, latency: float = 0.0
    ) -> None:
        self._wanted, self._latency = device, latency
        self._stream: Any = None
        self.open(rate, channels, step)

    def open(self, rate: int, channels: int, step: int) -> None:
        """Open the device, anew after it was lost."""
        sd = portaudio()
        device = find_device(self._wanted, "output")
        self.waiting, self.rate = Waiting(channels, rate, step), rate
        taken = channels if accepts(sd, device, rate, channels) else max(2, channels)
        try:
            self._stream = sd.OutputStream(
                device=device.index,
                samplerate=rate,
                channels=taken,
                dtype="float32",
                blocksize=round(BLOCK * rate),
                latency=self._latency or "low",
                callback=self._callback,
            )
            self._stream.start()
        except (sd.PortAudioError, ValueError) as error:
            self.close()
            raise OSError(
                f"cannot play at {rate} Hz, the microphone's rate, on {device.name!r} ({error}): give another --output"
            ) from None
        self.device = device

    @property
    def active(self) -> bool:
        """Whether the device still plays."""
        return bool(self._stream is not None and self._stream.active)

    @property
    def delay(self) -> float:
        """Seconds until what is put in now is heard, as far as the system says."""
        return len(self.waiting) / self.rate + (self._stream.latency if self._stream is not None else 0.0)

    def put(self, block: np.ndarray) -> None:
        """Play a block (n, channels) after those before it."""
        self.waiting.put(block)

    def close(self) -> None:
        """Stop and release the device."""
        stream, self._stream = self._stream, None  # PortAudio does not bear closing it twice
        if stream is not None:
            stream.close()

    def _callback(self, outdata: np.ndarray, frames: int, when: Any, status: Any) -> None:
        channels = self.waiting.channels
        self.waiting.take(outdata[:, :channels])
        outdata[:, channels:] = outdata[:, :1]

    def __enter__(self) -> "Playback":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def accepts(sd: Any, device: Device, rate: int, channels: int) -> bool:
    """Ask a device whether it takes so many channels at a rate."""
    try:
        sd.check_output_settings(device=device.index, samplerate=rate, channels=channels, dtype="float32")
    except (sd.PortAudioError, ValueError):
        return False
    return True

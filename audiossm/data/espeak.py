"""espeak-ng in a process of its own: text in, samples or phonemes out.

espeak-ng keeps state between words that cannot be reset (the phase of the voice, its random numbers), and it
is not thread safe. A fresh process a run makes the sound a function of the requests alone. This file is both
sides: the class is the caller's, `_serve` runs in the process, started by path so that it needs only Python.
"""

import ctypes
import json
import os
import struct
import subprocess
import sys

# Parameters of espeak_SetParameter, in the order in which a request gives them.
SPEED, VOLUME, PITCH, PITCH_RANGE = 1, 2, 3, 4
# espeak_Initialize: call back before espeak_Synth returns; report an error where it would end the process.
SYNCHRONOUS, DO_NOT_EXIT = 2, 0x8000
UTF8 = 1  # the text's encoding
PHONEMES = 0x100  # espeak_Synth: what stands in [[ ]] is phonemes
SEPARATED = ord("_") << 8  # espeak_TextToPhonemes: this sign between phonemes
IPA = 2  # espeak_TextToPhonemes: in the International Phonetic Alphabet


class Espeak:
    """A running espeak-ng. Use it in a `with` block.

    rate: Hz of what it speaks (22,050).
    variants: the names of its voices' variants (timbres), sorted.
    """

    reads_phonemes = True

    def __init__(self) -> None:
        import espeakng_loader

        data = espeakng_loader.get_data_path()
        self.variants = sorted(os.listdir(os.path.join(data, "voices", "!v")))
        self._process = subprocess.Popen(
            [sys.executable, "-I", os.path.abspath(__file__), espeakng_loader.get_library_path()],
            cwd=os.path.dirname(data),  # espeak-ng takes no path over 160 characters, so it is given '.'
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.rate = struct.unpack("<i", self._read(4, "starting"))[0]
        if self.rate <= 0:
            self.close()
            raise RuntimeError(f"espeak-ng finds no voices in {data}: reinstall espeakng-loader")

    def say(
        self,
        text: str,
        voice: str,
        speed: int = 160,
        volume: int = 80,
        pitch: int = 50,
        pitch_range: int = 50,
    ) -> bytes:
        """Speak `text`; give int16 samples, native byte order, with silence around them.

        text: words, or phonemes by espeak-ng's mnemonics in double brackets, such as "[[st'0p]]".
        voice: a language and a variant, such as 'en-us+f3'.
        speed: words a minute, 80 to 450. pitch, pitch_range: 0 to 99.
        volume: 0 to 100, where loud variants clip.
        """
        return self._ask(text, voice, [speed, volume, pitch, pitch_range])

    def phonemes(self, text: str, voice: str) -> list[str]:
        """Give the phonemes of `text` as a voice says it: espeak-ng's mnemonics, with marks of stress before vowels."""
        return self._ask(text, voice, [], SEPARATED).decode().replace(" ", "_").strip("_").split("_")

    def ipa(self, text: str, voice: str) -> str:
        """Give the phonemes of `text`, or those in double brackets, in the International Phonetic Alphabet."""
        return self._ask(text, voice, [], IPA).decode().strip()

    def close(self) -> None:
        """End the process: it stops where its input does."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def __enter__(self) -> "Espeak":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, text: str, voice: str, parameters: list[int], spelling: int | None = None) -> bytes:
        """Send a request and return its answer: the sound, or the phonemes in a spelling."""
        request = {"text": text, "voice": voice, "parameters": parameters, "spelling": spelling}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise RuntimeError(f"espeak-ng stopped before speaking {text!r}") from None
        size = struct.unpack("<i", self._read(4, f"speaking {text!r}"))[0]
        if size < 0:
            raise RuntimeError(f"espeak-ng cannot speak {text!r} with the voice {voice!r}")
        return self._read(size, f"speaking {text!r}")

    def _read(self, size: int, doing: str) -> bytes:
        assert self._process.stdout is not None
        read = self._process.stdout.read(size)
        if len(read) < size:
            raise RuntimeError(f"espeak-ng stopped while {doing}")
        return read


def _serve(library: str) -> None:
    """Answer requests, a JSON line each, with a byte count and int16 samples or text; -1 where espeak refuses."""
    espeak = ctypes.CDLL(library)
    espeak.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    espeak.espeak_Synth.argtypes = [
        ctypes.c_char_p,  # text
        ctypes.c_size_t,  # its size with the closing zero
        ctypes.c_uint,  # position
        ctypes.c_int,  # type of position
        ctypes.c_uint,  # end position
        ctypes.c_uint,  # flags
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    espeak.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
    espeak.espeak_TextToPhonemes.restype = ctypes.c_char_p
    answers = sys.stdout.buffer
    spoken = bytearray()

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def take(samples: int | None, count: int, events: int | None) -> int:
        if samples and count > 0:
            spoken.extend(ctypes.string_at(samples, 2 * count))
        return 0

    def speak(text: bytes, parameters: list[int]) -> int:
        for parameter, value in zip(
            (SPEED, VOLUME, PITCH, PITCH_RANGE), parameters, strict=True
        ):  # after the voice, which sets its own
            espeak.espeak_SetParameter(parameter, value, 0)
        return espeak.espeak_Synth(text, len(text) + 1, 0, 1, 0, UTF8 | PHONEMES, None, None)

    def spell(text: bytes, spelling: int) -> int:
        rest = ctypes.c_char_p(text)
        while rest.value:  # each call reads a clause and moves on
            spoken.extend((espeak.espeak_TextToPhonemes(ctypes.byref(rest), UTF8, spelling) or b"") + b" ")
        return 0

    answers.write(struct.pack("<i", espeak.espeak_Initialize(SYNCHRONOUS, 0, b".", DO_NOT_EXIT)))
    answers.flush()
    espeak.espeak_ng_SetRandSeed(ctypes.c_long(1))  # it starts from the clock: breathy voices would differ
    espeak.espeak_SetSynthCallback(take)
    speak(b"[[a]]", [160, 80, 50, 50])  # from here on it spells what stands in [[ ]] too
    for line in sys.stdin.buffer:
        request = json.loads(line)
        spoken.clear()
        text, spelling = request["text"].encode(), request["spelling"]
        failed = espeak.espeak_SetVoiceByName(request["voice"].encode())
        failed = failed or (speak(text, request["parameters"]) if spelling is None else spell(text, spelling))
        answers.write(struct.pack("<i", -1 if failed else len(spoken)) + (b"" if failed else spoken))
        answers.flush()


if __name__ == "__main__":
    _serve(*sys.argv[1:])

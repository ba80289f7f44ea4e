"""A Piper voice: a neural network (VITS) in an ONNX file, with a JSON file beside it that says how to ask it.

Kim et al. 2021, "Conditional variational autoencoder with adversarial learning for end-to-end text-to-speech". It reads
espeak-ng's phonemes, draws pace and melody anew each time, and some files hold hundreds of speakers.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

USUAL_SPEED = 160  # words a minute that are the voice's own pace
Phonemes = Callable[[str, str], str]  # a text and a voice of espeak-ng -> IPA


class Piper:
    """Speaks like `Espeak`, with IPA from it.

    rate: Hz.
    voices: the numbers of its speakers, as strings.
    """

    reads_phonemes = True

    def __init__(self, path: str | Path, ipa: Phonemes, seed: int = 0) -> None:
        """Take a file voice.onnx with its voice.onnx.json beside it, and what turns a text into IPA.

        Raises FileNotFoundError or ValueError, in one line, where there is no such voice.
        """
        path = Path(path)
        for file in (path, Path(f"{path}.json")):
            if not file.is_file():
                raise FileNotFoundError(f"no Piper voice: {file} is missing")
        try:
            about = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
            self.rate = int(about["audio"]["sample_rate"])
            self._reader = str(about["espeak"]["voice"])
            self._ids: dict[str, list[int]] = about["phoneme_id_map"]
            scales = about["inference"]
            self._scales = [float(scales[name]) for name in ("noise_scale", "length_scale", "noise_w")]
            self.voices = tuple(map(str, range(int(about.get("num_speakers", 1)))))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}.json does not describe a Piper voice: {error!r}") from None
        import onnxruntime

        onnxruntime.set_seed(seed)  # what the session draws from: the same requests in order give the same sound
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._ipa = ipa

    def say(
        self, text: str, voice: str, speed: int = 160, volume: int = 80, pitch: int = 50, pitch_range: int = 50
    ) -> bytes:
        """Speak `text` by one of `voices`; give int16 samples. As Espeak.say, but for all but the speed."""
        noise, length, wander = self._scales
        ids = self.numbers(self._ipa(text, self._reader))
        inputs = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array([noise, length * USUAL_SPEED / speed, wander], np.float32),
        }
        if len(self.voices) > 1:
            inputs["sid"] = np.array([int(voice)], np.int64)
        said = self._session.run(None, inputs)[0].ravel()
        return (32767 * said / max(1e-9, float(np.abs(said).max()))).astype(np.int16).tobytes()

    def numbers(self, ipa: str) -> list[int]:
        """Spell IPA as the network reads it: a number a sign, blanks between, a beginning and an end."""
        signs = [self._ids[sign] for sign in ipa if sign in self._ids]
        return [
            *self._ids["^"],
            *self._ids["_"],
            *(n for sign in signs for n in (*sign, *self._ids["_"])),
            *self._ids["$"],
        ]

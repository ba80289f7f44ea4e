"""Spoken words: reproducible, distinct, whole, in voices that no two splits share, and never half-written."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import soundfile

from audiossm.cli import main
from audiossm.data import find_clips, load_clips, synthesise
from audiossm.data import synth as module
from audiossm.data.espeak import Espeak

pytest.importorskip("espeakng_loader", reason="synth needs espeak-ng: pip install 'audiossm[synth]'")


def make(out, words=("yes", "no"), clips=10, **how):
    return synthesise(words, out, clips, progress=False, **how)


def content(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("synth") / "data"
    return out, make(out, clips=30)


def test_layout_and_manifest(made):
    out, clips = made
    assert sorted(path.name for path in out.iterdir()) == [
        "_other_",
        "_silence_",
        "manifest.csv",
        "no",
        "yes",
    ]
    assert sorted(clips, key=lambda clip: clip.path) == find_clips(out)
    assert len(clips) == 5 * 30  # `_other_` has other words and near misses
    for clip in clips:
        assert clip.path.parent.name == clip.label
        assert clip.path.name.startswith(f"{clip.speaker}_nohash_")


def test_without_the_manifest_the_names_say_the_same(made, tmp_path):
    out, _ = made
    copy = shutil.copytree(out, tmp_path / "copy")
    with_manifest = find_clips(copy)
    (copy / "manifest.csv").unlink()
    assert find_clips(copy) == with_manifest


def test_speakers_and_timbres_are_in_one_split(made):
    _, clips = made
    splits, timbres = {}, {}
    for clip in clips:
        splits.setdefault(clip.speaker, set()).add(clip.split)
        if clip.label != "_silence_":
            timbres.setdefault(clip.speaker.rsplit("-", 2)[1], set()).add(clip.split)
    assert all(len(found) == 1 for found in splits.values())
    assert all(len(found) == 1 for found in timbres.values())
    assert len(splits) > 60


def test_every_label_is_in_every_split(made):
    _, clips = made
    for label in ("yes", "no", "_silence_", "_other_"):
        counts = [sum(clip.label == label and clip.split == s for clip in clips) for s in ("train", "val", "test")]
        assert counts == ([48, 6, 6] if label == "_other_" else [24, 3, 3])


def test_length_rate_and_level(made):
    _, clips = made
    data = load_clips(clips, 16000, 1.0, progress=False)
    assert data.report.lines() == []
    loudest = np.abs(data.samples(slice(None))).max(axis=1)
    for clip, peak in zip(clips, loudest, strict=True):
        assert soundfile.info(clip.path).subtype == "PCM_16"
        assert (peak > 0) if clip.label == "_silence_" else (peak > 0.09)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(tmp_path / name, ["yes"], clips=25, seed=seed)
    a, b, c = (content(tmp_path / name) for name in "abc")
    assert a == b
    assert a != c


def test_words_differ(tmp_path):
    """The same voice says two words: their spectra over time are not one sound."""
    clips = make(tmp_path / "d", ["yes", "no"], clips=3, background=False, noise=False)
    assert {clip.label for clip in clips} == {"yes", "no"}
    hiss = {}
    for clip in clips:
        power = np.abs(np.fft.rfft(soundfile.read(clip.path)[0])) ** 2
        hiss.setdefault(clip.label, []).append(power[4000:].sum() / power.sum())
    assert np.median(hiss["yes"]) > 5 * np.median(hiss["no"])  # the s of yes


def test_without_noise_the_rest_is_silent_and_the_word_whole(tmp_path):
    starts = []
    for clip in make(tmp_path / "d", ["stop"], clips=20, background=False, noise=False):
        samples = soundfile.read(clip.path)[0]
        loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
        assert 0.1 < (loud[-1] - loud[0]) / 16000 < 1
        assert np.abs(samples[[0, -1]]).max() < 0.02 * np.abs(samples).max()
        starts.append(loud[0])
    assert len(set(starts)) > 10


@pytest.mark.parametrize("rate, seconds", [(8000, 1.5), (44100, 0.7)])
def test_other_rates_and_lengths(tmp_path, rate, seconds):
    for clip in make(tmp_path / "d", ["go"], clips=3, rate=rate, seconds=seconds):
        info = soundfile.info(clip.path)
        assert (info.samplerate, info.frames) == (rate, round(rate * seconds))


def test_a_long_word_is_spoken_faster(tmp_path, monkeypatch):
    speeds = []
    say = Espeak.say

    def spy(self, text, voice, speed, *rest):
        speeds.append(speed)
        return say(self, text, voice, speed, *rest)

    monkeypatch.setattr(Espeak, "say", spy)
    for clip in make(tmp_path / "d", ["extraordinary"], clips=8, background=False, noise=False, seconds=0.5):
        samples = soundfile.read(clip.path)[0]
        assert np.abs(samples[-16:]).max() < 0.02 * np.abs(samples).max()  # its end has room
    assert max(speeds) > 220 and len(speeds) > 8


def test_a_word_that_never_fits_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"lasts .* longer than a clip of 0.2 s: ask for longer clips") as raised:
        make(tmp_path / "d", ["no", "extraordinary"], seconds=0.2)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["", "a/b", "..", "_silence_", "日本", "!", "yes ", "a\nb", "x" * 200])
def test_what_cannot_be_spoken(tmp_path, word):
    with pytest.raises(ValueError, match="cannot be spoken") as raised:
        make(tmp_path / "d", ["yes", word])
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "how, message",
    [
        ({"words": []}, "no words"),
        ({"words": ["yes", "Yes"]}, "asked for twice"),
        ({"clips": 0}, "ask for 1 or more"),
        ({"rate": 100}, "100 Hz"),
        ({"seconds": 0.0}, "0.0 s"),
    ],
)
def test_bad_requests(tmp_path, how, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "d", **how)
    assert list(tmp_path.iterdir()) == []


def test_a_word_is_not_overwritten(made):
    out, _ = made
    before = content(out)
    with pytest.raises(FileExistsError, match="yes exists already") as raised:
        make(out, ["go", "yes"], background=False)
    assert "\n" not in str(raised.value)
    assert content(out) == before


def test_out_is_a_file(tmp_path):
    (tmp_path / "d").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        make(tmp_path / "d")


def test_words_are_added(tmp_path):
    out = tmp_path / "d"
    make(out, ["yes"], clips=3)
    make(out, ["turn on", "it's"], clips=3, background=False)
    assert {clip.label for clip in find_clips(out)} == {"yes", "turn on", "it's", "_silence_", "_other_"}
    with open(out / "manifest.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 18


def test_recordings_without_a_manifest_are_not_hidden_by_one(tmp_path):
    out = tmp_path / "d"
    (out / "yes").mkdir(parents=True)
    soundfile.write(out / "yes" / "ann_nohash_0.wav", np.ones(100), 16000)
    make(out, ["no"], clips=3, background=False)
    assert not (out / "manifest.csv").exists()
    assert {clip.label for clip in find_clips(out)} == {"yes", "no"}


def test_a_failure_on_the_way_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    out = tmp_path / "d"
    make(out, ["yes"], clips=3, background=False)
    before = content(out)

    def fail(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(module, "_silence", fail)
    with pytest.raises(RuntimeError):
        make(out, ["go"], clips=3)
    assert content(out) == before and sorted(p.name for p in out.iterdir()) == ["manifest.csv", "yes"]


@pytest.fixture
def said(monkeypatch):
    """The texts that synthesise asks to be spoken, in order."""
    said, spoken = [], module._spoken
    monkeypatch.setattr(module, "_spoken", lambda espeak, text, *rest: said.append(text) or spoken(espeak, text, *rest))
    return said


def test_other_words_are_not_the_asked_ones(tmp_path, said):
    make(tmp_path / "d", ["Dog"], clips=80, confusable=False)
    assert said[:80] == ["Dog"] * 80
    assert len(said) == 160 and "dog" not in said[80:] and len(set(said[80:])) > 30


def test_near_misses_are_spoken_too(tmp_path, said):
    make(tmp_path / "d", ["left", "go"], clips=20)
    assert len(said) == 80 and all(text.startswith("[[") == (i >= 60) for i, text in enumerate(said))
    assert len(set(said[60:])) > 15


def test_command(tmp_path, capsys):
    arguments = ["synth", "yes", "no", "--out", str(tmp_path / "d"), "--clips", "3", "--json"]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["clips"] == 15 and report["labels"] == {"yes": 3, "no": 3, "_silence_": 3, "_other_": 6}
    with pytest.raises(SystemExit) as left:
        main(arguments)
    out, error = capsys.readouterr()
    assert (left.value.code, out, error.count("\n")) == (1, "", 1)
    assert "exists already" in error


def test_command_without_near_misses(tmp_path, run):
    code, out, _ = run("synth", "yes", "--out", tmp_path / "d", "--clips", 3, "--no-confusable", "--json")
    assert code == 0 and json.loads(out)["labels"] == {"yes": 3, "_silence_": 3, "_other_": 3}


def test_command_without_espeak(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(SystemExit) as left:
        main(["synth", "yes", "--out", str(tmp_path / "d")])
    assert left.value.code == 1
    assert "pip install 'audiossm[synth]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

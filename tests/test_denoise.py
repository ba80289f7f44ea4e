"""The enhancement runtime and `audiossm denoise` on files: alignment, cutting, rates, channels, formats, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from audiossm.streaming import load, load_enhancer, load_keywords
from audiossm.streaming.enhancement.recording import denoise_file, pairs
from audiossm.streaming.enhancement.resampler import HALF, Resampler

tiny = SimpleNamespace(**run_path(str(Path(__file__).with_name("tiny_enhancer.py"))))

RATES = (8000, 11025, 16000, 44100, 48000)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="module")
def model(file):
    return load_enhancer(file)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def whole(stream, audio):
    return np.concatenate([stream.push(audio), stream.flush()])


def relative(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


# The stream


def test_the_output_is_the_models_and_aligned(model):
    for samples in (0, 1, 7, 159, 160, 161, 5000):
        audio = noise(samples)
        got = whole(model.stream(), audio)
        assert got.shape == audio.shape and got.dtype == np.float32
        np.testing.assert_allclose(got, tiny.reference(audio), atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_cuts_change_nothing(model, rate, strength):
    audio, rng = noise(9000, 2), np.random.default_rng(1)
    want = whole(model.stream(rate, strength), audio)
    for count in (1, 8, 200):
        stream = model.stream(rate, strength)
        pieces = np.split(audio, np.sort(rng.integers(0, len(audio), count)))
        got = np.concatenate([*map(stream.push, pieces), stream.flush()])
        np.testing.assert_array_equal(got, want)
    stream = model.stream(rate, strength)
    whole(stream, noise(300))  # flushing resets: another number of channels is taken, too
    np.testing.assert_array_equal(whole(stream, audio), want)


@pytest.mark.parametrize("rate", RATES)
def test_latency_is_kept_and_needed(model, rate):
    """Sample by sample: what lacks is never more than the latency, and nearly as much at some time."""
    stream, given, most = model.stream(rate), 0, 0
    for n in range(1, 3000):
        given += len(stream.push(noise(1)))
        most = max(most, n - given)
    assert stream.latency - 3 <= most + 1 <= stream.latency
    assert stream.latency / rate <= (tiny.FRAME + tiny.DELAY) / tiny.RATE + 2 * HALF + 2 / rate


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("hertz", [0, 100, 1000, 3000])
def test_any_rate_hears_the_same(model, rate, hertz):
    """A tone comes out with the gain and the phase of the model at its own rate, at the same time."""
    t = np.arange(rate // 2) / rate
    got = whole(model.stream(rate), 0.5 * np.cos(2 * np.pi * hertz * t))
    turn = 2 * np.pi * hertz / tiny.RATE
    gain = (1 - tiny.KEEP) / (1 - tiny.KEEP * np.exp(-1j * turn))
    want = 0.5 * np.real(gain * np.exp(2j * np.pi * hertz * t))
    middle = slice(rate // 10, -rate // 10)
    assert relative(got[middle], want[middle]) < 1e-3


@pytest.mark.parametrize("rate", [44100, 48000])
def test_what_is_above_the_band_is_dropped_and_returns_with_the_input(model, rate):
    audio = 0.5 * np.sin(2 * np.pi * 12000 * np.arange(rate // 2) / rate)
    middle = slice(rate // 10, -rate // 10)
    assert np.abs(whole(model.stream(rate), audio)[middle]).max() < 1e-3
    np.testing.assert_allclose(whole(model.stream(rate, 0.25), audio)[middle], 0.75 * audio[middle], atol=1e-3)


def test_a_resampler_needs_no_future():
    for rate, to in ((8000, 16000), (44100, 16000), (16000, 44100), (16000, 8000), (44101, 16000), (192000, 16000)):
        resampler = Resampler(rate, to)
        for m in (0, 1, 2, 77, 1000):
            assert resampler.newest(m) <= m * rate / to
            assert resampler.count(resampler.newest(m) + 1) > m >= resampler.count(resampler.newest(m))


def test_a_frame_may_give_nothing():
    """The first frame of a model whose delay is as long."""
    assert Resampler(16000, 8000).frame(np.zeros((9, 2), np.float32), 0, 111, 111).shape == (0, 2)


def test_two_channels_are_two_streams(model):
    audio = noise(4000, 2)
    got = whole(model.stream(44100), audio)
    for channel in (0, 1):
        np.testing.assert_allclose(got[:, channel], whole(model.stream(44100), audio[:, channel]), atol=1e-6)


def test_kinds_of_samples(model):
    audio = (noise(3000) * 32768).astype(np.int16)
    want = whole(model.stream(), audio / np.float32(32768))
    np.testing.assert_allclose(whole(model.stream(), audio), want, atol=1e-7)
    np.testing.assert_allclose(whole(model.stream(), audio / 32768), want, atol=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_no_number_is_silence(model, bad):
    audio = noise(4000)
    audio[1000:1100] = 0
    broken = audio.copy()
    broken[1000:1100] = bad
    for strength in (1.0, 0.5):
        stream = model.stream(48000, strength)
        got = stream.push(broken)
        assert stream.bad_samples == 100
        np.testing.assert_array_equal(
            np.concatenate([got, stream.flush()]), whole(model.stream(48000, strength), audio)
        )


def test_strength(model):
    audio = noise(4000)
    wet, dry = tiny.reference(audio), audio
    np.testing.assert_array_equal(whole(model.stream(strength=0.0), audio), dry)
    np.testing.assert_allclose(whole(model.stream(strength=0.7), audio), 0.7 * wet + 0.3 * dry, atol=1e-6)
    stream = model.stream()
    got = [stream.push(audio[:2000])]
    stream.strength = 0.0  # as the bypass key does
    got = np.concatenate([*got, stream.push(audio[2000:]), stream.flush()])
    np.testing.assert_allclose(got[:1800], wet[:1800], atol=1e-6)
    np.testing.assert_array_equal(got[2100:], dry[2100:])


def test_frames_that_are_skipped_pass(model):
    audio, stream = noise(8000), model.stream()
    got = [stream.push(audio[:3000])]
    stream.skipping = True
    got.append(stream.push(audio[3000:5000]))
    stream.skipping = False
    got = np.concatenate([*got, stream.push(audio[5000:]), stream.flush()])
    np.testing.assert_array_equal(got[3200:4700], audio[3200:4700])
    np.testing.assert_allclose(got[5400:], tiny.reference(audio)[5400:], atol=1e-6)


def test_memory_does_not_grow(file, tmp_path):
    """However long a file is."""
    soundfile.write(tmp_path / "long.wav", np.tile(noise(48000), 300), 48000)
    code = """
import sys
from audiossm.streaming import load_enhancer
from audiossm.streaming.bench import resident
from audiossm.streaming.enhancement.recording import denoise_file
held = []
denoise_file(load_enhancer(sys.argv[1]), sys.argv[2], sys.argv[3], tell=lambda seconds: held.append(resident()))
print(max(held), held[-1] - held[len(held) // 15])
"""
    command = [sys.executable, "-c", code, file, tmp_path / "long.wav", tmp_path / "out.wav"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    memory, growth = map(float, done.stdout.split())
    assert memory < 100 and growth < 0.3


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (np.zeros((2, 2, 2), np.float32), "shape"),
        (np.zeros((5, 0), np.float32), "shape"),
        (np.zeros(5, np.int32), "float32, float64 or int16"),
    ],
)
def test_chunks_that_cannot_be(model, chunk, words):
    with pytest.raises(ValueError, match=words):
        model.stream().push(chunk)


def test_channels_cannot_change(model):
    stream = model.stream()
    stream.push(noise(10, 2))
    with pytest.raises(ValueError, match="began with"):
        stream.push(noise(10))


@pytest.mark.parametrize(("rate", "strength", "words"), [(100, 1.0, "sampling rate"), (16000, 1.5, "strength")])
def test_streams_that_cannot_be(model, rate, strength, words):
    with pytest.raises(ValueError, match=words):
        model.stream(rate, strength)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"delay": None}, "lacks 'delay'"),
        ({"latency": 1}, "does not allow: latency"),
        ({"frame": 80, "latency": 160}, r"audio has shape \['batch', 160\]"),
        ({"state": [{"name": "y", "shape": [81], "offset": 3}]}, "gap or an overlap at 'y'"),
        ({"format": 9}, "pip install --upgrade"),
        ({"task": "keywords"}, "not for enhancement"),
    ],
)
def test_files_that_cannot_be(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        load_enhancer(tiny.build(tmp_path / "x.onnx", changes))


def test_the_wrong_task_is_told(file):
    with pytest.raises(ValueError, match=r"not for keywords: try `audiossm denoise .* in\.wav out\.wav`"):
        load_keywords(file)


def test_one_door_for_all_tasks(file):
    assert type(load(file)).__name__ == "Enhancer" and type(load("keywords")).__name__ == "Model"


# Files


@pytest.mark.parametrize(
    ("name", "subtype", "rate", "channels"),
    [
        ("a.wav", "PCM_16", 16000, 1),
        ("a.wav", "PCM_24", 44100, 2),
        ("a.wav", "FLOAT", 8000, 1),
        ("a.wav", "DOUBLE", 48000, 2),
        ("a.wav", "PCM_U8", 16000, 1),
        ("a.flac", "PCM_24", 48000, 1),
        ("a.flac", "PCM_16", 16000, 3),
    ],
)
def test_a_file_keeps_all_but_the_noise(model, tmp_path, name, subtype, rate, channels):
    audio = noise(5001, channels)
    soundfile.write(tmp_path / name, audio, rate, subtype)
    denoise_file(model, tmp_path / name, tmp_path / f"out{name}")
    before, after = (soundfile.info(tmp_path / prefixed) for prefixed in (name, f"out{name}"))
    for fact in ("samplerate", "channels", "frames", "format", "subtype"):
        assert getattr(before, fact) == getattr(after, fact)
    heard = soundfile.read(tmp_path / name, dtype="float32", always_2d=True)[0]
    got = soundfile.read(tmp_path / f"out{name}", always_2d=True)[0]
    np.testing.assert_allclose(got, whole(model.stream(rate), heard), atol=0.01 if subtype == "PCM_U8" else 1e-4)
    assert not list(tmp_path.glob("*.part"))


def test_another_format_takes_its_own_kind_of_samples(model, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(5000), 16000, "FLOAT")
    denoise_file(model, tmp_path / "a.wav", tmp_path / "b.flac")
    assert soundfile.info(tmp_path / "b.flac").subtype == "PCM_16"


@pytest.mark.parametrize(
    ("name", "audio"),
    [
        ("silent", np.zeros(4000)),
        ("constant", np.full(4000, 0.5)),
        ("clipped", np.clip(9 * noise(4000), -1, 1)),
        ("louder than full scale", 5 * np.ones(4000)),
        ("short", noise(3)),
        ("no number", np.where(np.arange(4000) % 500 == 0, np.nan, noise(4000))),
    ],
)
def test_unusual_audio(run, file, tmp_path, name, audio):
    soundfile.write(tmp_path / "in.wav", audio, 16000, "FLOAT")
    code, out, err = run("denoise", file, tmp_path / "in.wav", tmp_path / "out.wav", "--json")
    assert (code, err) == (0, "")
    got, rate = soundfile.read(tmp_path / "out.wav")
    want = tiny.reference(np.nan_to_num(audio))
    np.testing.assert_allclose(got, want, atol=1e-5)
    facts = json.loads(out)
    assert facts["bad_samples"] == np.isnan(audio).sum()
    assert facts["seconds"] == len(audio) / rate and facts["channels"] == 1 and facts["latency_ms"] == 15
    assert facts["real_time_factor"] > 0


def test_integer_files_are_clipped_not_wrapped(model, tmp_path):
    audio = np.clip(20 * noise(4000), -1, 1)
    soundfile.write(tmp_path / "in.wav", audio, 44100, "PCM_16")
    denoise_file(model, tmp_path / "in.wav", tmp_path / "out.wav")
    want = whole(model.stream(44100), soundfile.read(tmp_path / "in.wav", dtype="float32")[0])
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(soundfile.read(tmp_path / "out.wav")[0], want.clip(-1, 1), atol=1e-4)


def test_strength_of_a_file(run, file, tmp_path):
    audio = noise(4000)
    soundfile.write(tmp_path / "in.wav", audio, 16000, "FLOAT")
    assert run("denoise", file, tmp_path / "in.wav", tmp_path / "out.wav", "--strength", 0)[0] == 0
    np.testing.assert_array_equal(soundfile.read(tmp_path / "out.wav", dtype="float32")[0], audio)


def test_a_folder(run, file, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "a.wav", noise(4000), 16000)
    soundfile.write(tmp_path / "in" / "deep" / "b.flac", noise(4000, 2), 48000)
    (tmp_path / "in" / "notes.txt").write_text("no sound")
    code, out, err = run("denoise", file, tmp_path / "in", tmp_path / "out", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["files"] == 2 and json.loads(out)["failed"] == []
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert found == ["a.wav", os.path.join("deep", "b.flac")]


def test_a_folder_with_bad_files(run, file, tmp_path):
    """Each is told of in a line; the others are cleaned."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.wav", os.path.join("deep", "b.wav"), "z.wav"):
        soundfile.write(tmp_path / "in" / name, noise(4000), 16000)
    soundfile.write(tmp_path / "in" / "empty.wav", noise(0), 16000)
    (tmp_path / "in" / "broken.wav").write_text("RIFF, but no more")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep").write_text("a file where a folder would be")
    (tmp_path / "out" / "z.wav").symlink_to(tmp_path / "in" / "z.wav")
    code, out, err = run("denoise", file, tmp_path / "in", tmp_path / "out", "--no-progress")
    assert code == 1 and "1 files" in out
    told = [line.split(" is left out")[0] for line in err.splitlines()]
    assert told == [str(tmp_path / "in" / name) for name in ("broken.wav", "deep/b.wav", "empty.wav", "z.wav")]
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["a.wav", "deep", "z.wav"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals as POSIX has them")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped(file, tmp_path, stop):
    """What is whole by then stays, and no part of a file."""
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", noise(4000), 16000)
    soundfile.write(tmp_path / "in" / "b.flac", np.zeros(16000 * 7200, np.int16), 16000)
    command = [sys.executable, "-m", "audiossm", "denoise", file, tmp_path / "in", tmp_path / "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path / "out" / "b.flac.part").exists():
            break
        time.sleep(0.1)
    process.send_signal(stop)
    assert process.communicate(timeout=60) == ("", "audiossm: interrupted\n") and process.returncode == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.wav"]


def test_bad_calls(run, file, tmp_path):
    wav = tmp_path / "in.wav"
    soundfile.write(wav, noise(4000), 16000)
    soundfile.write(tmp_path / "empty.wav", noise(0), 16000)
    (tmp_path / "broken.wav").write_text("no sound")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "in.wav").symlink_to(wav)
    (tmp_path / "nothing").mkdir()
    out = tmp_path / "out.wav"
    cases = [
        ([wav], 2, "give an input and an output, or --live"),
        ([], 2, "give an input and an output, or --live"),
        ([wav, out, "--live"], 2, "or --live"),
        ([wav, out, "--output", "x"], 2, "are for --live"),
        ([wav, out, "--strength", "2"], 2, "strength"),
        ([wav, wav], 1, "is the input itself"),
        ([wav, tmp_path / "folder" / "in.wav"], 1, "is the input itself"),
        ([wav, tmp_path / "nowhere" / "out.wav"], 1, "no folder"),
        ([wav, tmp_path / "out.xyz"], 1, "sound file's format"),
        ([wav, tmp_path / "folder"], 1, "sound file's format"),
        ([wav, "/proc/out.wav"], 1, "cannot write /proc/out.wav"),
        ([tmp_path / "no.wav", out], 1, "there is no file"),
        ([tmp_path / "broken.wav", out], 1, "no sound file that can be read"),
        ([tmp_path / "empty.wav", out], 1, "holds no audio"),
        ([tmp_path / "folder", tmp_path / "folder"], 1, "lies in the folder"),
        ([tmp_path / "folder", tmp_path / "folder" / "clean"], 1, "lies in the folder"),
        ([tmp_path / "folder", wav], 1, "is a file"),
        ([tmp_path / "nothing", out], 1, "no sound file in"),
    ]
    for arguments, code, words in cases:
        got, _, err = run("denoise", file, *arguments)
        assert (got, len(err.splitlines())) == (code, 1), (arguments, err)
        assert words in err, err
    assert not out.exists() and not list(tmp_path.rglob("*.part"))
    np.testing.assert_allclose(soundfile.read(wav)[0], noise(4000), atol=1e-4)
    got, _, err = run("denoise", "keywords", wav, out)
    assert got == 1 and "it is a model for keywords" in err


def test_a_folder_that_cannot_be_read_is_not_passed_over(run, file, tmp_path, closed):
    (tmp_path / "in" / "closed").mkdir(parents=True)
    code, _, err = run("denoise", file, tmp_path / "in", tmp_path / "out")
    assert code == 1 and "Permission denied" in err and "closed" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_read_only_folder(model, tmp_path, monkeypatch):
    """As somebody who is not root sees it."""
    soundfile.write(tmp_path / "in.wav", noise(4000), 16000)
    monkeypatch.setattr("audiossm.streaming.audiofile.os.access", lambda *_: False)
    with pytest.raises(OSError, match="its folder is read-only"):
        denoise_file(model, tmp_path / "in.wav", tmp_path / "out.wav")
    with pytest.raises(OSError, match="it is read-only"):
        pairs(tmp_path, tmp_path.with_name("out"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_never_half_a_file(model, tmp_path, error):
    soundfile.write(tmp_path / "in.wav", noise(16000), 16000)
    (tmp_path / "out.wav").write_text("what was there before")

    def stop(seconds):
        raise error

    with pytest.raises(error):
        denoise_file(model, tmp_path / "in.wav", tmp_path / "out.wav", tell=stop)
    assert (tmp_path / "out.wav").read_text() == "what was there before" and not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("name", ["out.wav", "out.flac", "out.ogg", "out.opus", "out.mp3"])
def test_a_full_disk(model, tmp_path, name):
    resource = pytest.importorskip("resource")
    soundfile.write(tmp_path / "in.wav", noise(48000), 16000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # which is told as a full disk is
    try:
        with pytest.raises(OSError, match="Is the disk full"):
            denoise_file(model, tmp_path / "in.wav", tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["in.wav"]


def test_a_truncated_file_gives_what_it_holds_or_a_line(run, file, tmp_path):
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, noise(160000), 16000)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        code, _, err = run("denoise", file, tmp_path / name, tmp_path / f"out{name}")
        if code == 0:
            assert 0 < soundfile.info(tmp_path / f"out{name}").frames <= 160000
        else:
            assert len(err.splitlines()) == 1 and not (tmp_path / f"out{name}").exists()


def test_too_long_for_wav(model, tmp_path, monkeypatch):
    monkeypatch.setattr("audiossm.streaming.audiofile.WAV_LIMIT", 5000)
    soundfile.write(tmp_path / "in.flac", noise(4000), 16000)
    with pytest.raises(ValueError, match=r"name it \.flac"):
        denoise_file(model, tmp_path / "in.flac", tmp_path / "out.wav")


def test_bench_and_inspect(run, file):
    code, out, _ = run("bench", file, "--rate", 48000, "--seconds", 1, "--json")
    figures = json.loads(out)
    assert code == 0 and figures["latency_ms"] == pytest.approx(18.8, abs=0.1) and figures["state_bytes"] == 324
    assert 0 < figures["frame_us_p50"] <= figures["frame_us_p99"] <= figures["frame_us_p999"]
    code, out, _ = run("inspect", file, "--json")
    assert code == 0 and json.loads(out)["delay"] == tiny.DELAY

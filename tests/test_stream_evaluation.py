"""Misses against false alarms an hour: the counting rules on hand-made events, then whole streams and the commands."""

import json
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import soundfile

from audiossm.data import find_clips
from audiossm.data.streams import Stream, Word, make_streams
from audiossm.streaming import load
from audiossm.streaming.metadata import DetectorSettings
from audiossm.training.mine import mine
from audiossm.training.stream_evaluation import (
    Count,
    Heard,
    count,
    file_listener,
    hear,
    measure,
    module_listener,
    operating_point,
    poisson_interval,
)
from audiossm.training.tune import choose, tune

tiny = SimpleNamespace(**run_path(str(Path(__file__).with_name("tiny_model.py"))))
RATE = 16000
LABELS = ("_other_", "no", "yes")


def heard(words, posteriors=None, seconds=100.0):
    posteriors = np.zeros((round(seconds * 50), len(LABELS)), np.float32) if posteriors is None else posteriors
    return Heard("words", True, posteriors, 0.02, [Word(*word) for word in words], seconds)


def counted(words, events):
    result = count(heard(words), np.array([t for t, _ in events]), np.array([label for _, label in events], str))
    return result.misses, result.wrong, result.false_alarms


YES, NO = ("yes", 10.0, 10.5), ("no", 20.0, 20.5)


# The counting rules


@pytest.mark.parametrize(
    ("events", "misses", "wrong", "false_alarms"),
    [
        ([], 2, 0, 0),
        ([(10.4, "yes"), (20.6, "no")], 0, 0, 0),
        ([(10.0, "yes"), (21.25, "no")], 0, 0, 0),  # the window's ends belong to it
        ([(9.98, "yes"), (21.26, "no")], 2, 0, 2),  # too early, too late
        ([(10.4, "no"), (20.6, "yes")], 2, 2, 0),  # another word than was said
        ([(10.2, "no"), (10.9, "yes"), (20.6, "no")], 0, 1, 0),  # then the right one
        ([(10.2, "yes"), (10.9, "yes")], 1, 1, 0),  # one word reported twice
        ([(5.0, "yes"), (15.0, "no"), (50.0, "yes")], 2, 0, 3),
    ],
)
def test_what_counts(events, misses, wrong, false_alarms):
    assert counted([YES, NO], events) == (misses, wrong, false_alarms)


def test_a_stream_without_words_has_only_false_alarms():
    assert counted([], [(1.0, "yes"), (2.0, "yes")]) == (0, 0, 2)
    assert counted([], []) == (0, 0, 0)


def test_hours_are_those_outside_windows():
    assert heard([YES, NO]).hours == pytest.approx((100 - 2 * 1.25) / 3600)


def test_intervals():
    """The exact Poisson interval of 0 and of 10 (Garwood's table), and Wilson's of 5 in 100."""
    assert poisson_interval(0) == pytest.approx((0, 3.689), abs=1e-3)
    assert poisson_interval(10) == pytest.approx((4.795, 18.390), abs=1e-3)
    facts = Count(words=100, misses=5, wrong=1, false_alarms=10, hours=2.0).report()
    assert facts["miss_rate"] == 5.0 and facts["miss_rate_ci95"] == pytest.approx([2.154, 11.175], abs=1e-3)
    assert facts["false_alarms_per_hour"] == 5.0
    assert facts["false_alarms_per_hour_ci95"] == pytest.approx([2.398, 9.195], abs=1e-3)
    assert "miss_rate" not in Count(0, 0, 0, 1, 1.0).report()


def test_operating_point():
    """Fewest misses, of equal ones the highest threshold, and no luck below a threshold that fails."""
    rows = [(0.9, 30, 0), (0.8, 20, 0), (0.7, 20, 0), (0.6, 10, 3), (0.5, 5, 0)]
    curve = [(threshold, Count(100, misses, 0, alarms, 1.0)) for threshold, misses, alarms in rows]
    found = operating_point(curve, 0.5)
    assert found is not None and found[0] == 0.8
    assert operating_point(curve[3:], 0.5) is None


def spoken(words, false=(), seconds=600.0, height=0.925):
    """Posteriors that rise for half a second at each word's end, and at false alarms (time, column, height)."""
    rows = np.zeros((round(seconds * 50), 3), np.float32)
    rises = [(end, LABELS.index(label), height) for label, _, end in words] + list(false)
    for time, column, top in rises:
        rows[round(time * 50) - 10 : round(time * 50) + 15, column] = top
    rows[:, 0] = 1 - rows[:, 1:].sum(1)
    return heard(words, rows, seconds)


def test_curve():
    """Ten words at 0.925 and two false alarms at 0.7: the threshold between them misses none and reports none."""
    words = [("yes", 20.0 * i, 20.0 * i + 0.5) for i in range(1, 11)]
    row = measure([spoken(words, [(105.0, 1, 0.7), (305.0, 2, 0.7)])], LABELS, DetectorSettings(0.2, 0.5, 0.6))
    by_threshold = {point["threshold"]: (point["misses"], point["false_alarms"]) for point in row["curve"]}
    assert by_threshold[0.95] == (10, 0) and by_threshold[0.8] == (0, 0) and by_threshold[0.6] == (0, 2)
    assert row["stored"]["false_alarms"] == 2 and row["stored"]["threshold"] == 0.5
    assert row["at"]["misses"] == 0 and row["at"]["threshold"] == 0.92
    assert row["at"]["streams"]["words"]["words"] == 10


def test_tuning_chooses_what_tells_words_from_false_alarms():
    """Short false peaks as high as the words: only smoothing tells them apart."""
    words = [("yes", 20.0 * i, 20.0 * i + 0.5) for i in range(1, 11)]
    stream = spoken(words)
    for time in (105, 305, 405):
        stream.posteriors[time * 50 : time * 50 + 8, 2] = 0.95
    settings, result = choose([stream], LABELS, 0.5)
    assert (result.misses, result.false_alarms) == (0, 0)
    assert settings.smoothing * settings.threshold > 0.16 * 0.95 - 0.01


@pytest.mark.parametrize("count, smoothing", [(60, 0.1), (20, 0.24)])
def test_tuning_weighs_delay(count, smoothing):
    """One word is lower than short false peaks: an average tells it apart, worth its delay if words are few."""
    stream = spoken([("yes", 9.0 * i, 9.0 * i + 0.5) for i in range(1, count + 1)], height=0.99)
    yes, no = LABELS.index("yes"), LABELS.index("no")
    stream.posteriors[:600, yes] *= 0.93 / 0.99
    for time in (13, 22, 31):
        stream.posteriors[time * 50 : time * 50 + 8, no] = 0.95
    settings, result = choose([stream], LABELS, 0.5)
    assert (settings.smoothing, result.misses) == (smoothing, int(smoothing == 0.1))


def test_tuning_says_when_nothing_keeps_to_it():
    rows = np.tile(np.float32([0, 1, 0]), (5000, 1))
    with pytest.raises(ValueError, match="no detector keeps to"):
        choose([heard([], rows)], LABELS, 0.5)


# Whole streams


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("model") / "tiny.onnx")


def tone(hz, seconds, level=0.8):
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Words of 0.4 s for the tiny model, and a recording of noise in which it hears `high` once, at 2 s."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split in ("val", "test"):
        for label, hz in (("low", 500), ("high", 1500)):
            for i in range(4):
                path = root / "words" / split / label / f"{i}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                audio = rng.normal(0, 1e-4, RATE)
                audio[4800:11200] += tone(hz, 0.4)
                soundfile.write(path, audio, RATE)
    (root / "noise").mkdir()
    audio = rng.normal(0, 0.001, 6 * RATE)
    soundfile.write(root / "noise/calm.wav", audio, RATE)
    audio[round(1.6 * RATE) : 2 * RATE] += tone(1500, 0.4)
    (root / "beeps").mkdir()
    soundfile.write(root / "beeps/beep.wav", audio, RATE)
    return root


@pytest.fixture
def command(run, model, folders):
    """Run a command on the words with the calm noise."""

    def command(name, file=model, *more, noise="noise"):
        return run(name, file, "--data", folders / "words", "--noise", folders / noise, *more)

    return command


def test_evaluate_stream(command, model):
    code, out, err = command("evaluate", model, "--stream", "--rates", "16000,44100", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["task"] == "keywords" and report["detector"] == tiny.metadata()["detector"]
    for rate in ("16000", "44100"):
        row = report["rates"][rate]
        assert (row["stored"]["words"], row["stored"]["misses"], row["stored"]["false_alarms"]) == (8, 0, 0)
        assert set(row["stored"]["streams"]) == {"words in noise", "noise"}
        assert row["at"]["misses"] == 0
        assert len(row["curve"]) == 92
    assert "heard words in noise: " in err and "with 8 words at 44100 Hz" in err


def test_evaluate_stream_counts_a_false_alarm(command, model):
    report = json.loads(command("evaluate", model, "--stream", "--json", noise="beeps")[1])
    stored = report["rates"]["16000"]["stored"]["streams"]["noise"]
    assert (stored["words"], stored["false_alarms"]) == (0, 1)
    assert stored["hours"] == pytest.approx(6 / 3600, abs=1e-4)


def test_evaluate_stream_for_people(command, model):
    code, out, _ = command("evaluate", model, "--stream")
    assert code == 0
    assert "0.6, as stored" in out and "0.5 an hour" in out and ": 8 words" in out
    assert "0.0 (0.0–32.4)" in out and "0 in 0.01 h" in out and "…" not in out


def test_a_run_folder_hears_what_its_file_hears(trained, exported, toys):
    from audiossm.training import load_model

    streams = make_streams(toys, "val", RATE)
    module, _ = load_model(trained)
    want = hear(module_listener(module, "cpu"), module.config.labels, streams, lambda line: None)
    got = hear(file_listener(load(exported)), module.config.labels, streams, lambda line: None)
    for a, b in zip(want, got, strict=True):
        assert a.words == b.words and a.posteriors.shape == b.posteriors.shape and len(a.words) == 9
        np.testing.assert_allclose(a.posteriors, b.posteriors, atol=1e-3)


def test_evaluate_stream_of_a_run_folder(trained, toys, run):
    code, out, _ = run("evaluate", trained, "--data", toys, "--stream", "--json")
    assert code == 0
    row = json.loads(out)["rates"]["16000"]
    assert row["stored"]["words"] == 21 and row["stored"]["threshold"] == DetectorSettings().threshold


def test_an_unknown_word_is_said(model):
    stream = Stream("words", RATE, True, lambda: iter([(np.zeros(RATE, np.float32), [Word("cat", 0.1, 0.4)])]))
    with pytest.raises(ValueError, match="the data holds the words cat, but the model knows low, high"):
        hear(file_listener(load(model)), load(model).metadata.labels, [stream], lambda line: None)


def test_noise_without_stream_is_bad_usage(command, model):
    code, _, err = command("evaluate", model)
    assert code == 2 and "belong to --stream" in err


# Tune


def test_tune_writes_the_detector_and_nothing_else(command, tmp_path):
    path = tiny.build(tmp_path / "kw.onnx")
    before, old = onnx.load(path), load(path).metadata
    code, out, err = command("tune", path, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert (report["words"], report["misses"], report["false_alarms"]) == (8, 0, 0)
    assert report["before"] == tiny.metadata()["detector"] != report["detector"]
    after, new = onnx.load(path), load(path).metadata
    assert after.graph.SerializeToString() == before.graph.SerializeToString()
    assert new.summary() == old.summary() | {"detector": report["detector"]}
    assert "cannot show 0.5 false alarms an hour" in err
    onnx.checker.check_model(after)
    assert [file.name for file in tmp_path.iterdir()] == ["kw.onnx"]


def test_tune_for_people(command, tmp_path):
    code, out, _ = command("tune", tiny.build(tmp_path / "kw.onnx"))
    assert code == 0 and "on val 0.0 % of 8 words missed, 0 false alarms in 0.01 h" in out


def test_a_failed_tune_leaves_the_file(folders, tmp_path):
    path = tiny.build(tmp_path / "kw.onnx")
    data = path.read_bytes()
    for wrong in ({"false_alarms": 0.0}, {"noise": [tmp_path / "none"]}, {"split": "train"}):
        with pytest.raises((ValueError, FileNotFoundError)):
            tune(path, folders / "words", **wrong)
    assert path.read_bytes() == data
    with pytest.raises(FileNotFoundError, match="export the model first"):
        tune("keywords", folders / "words")


# Mine


@pytest.mark.parametrize("rate", [16000, 44100])
def test_mine_finds_a_planted_false_alarm(model, run, tmp_path, rate):
    """At 2 s and at 5 s something sounds like `high`: each becomes the second that ends where it was heard."""
    rng = np.random.default_rng(0)
    t = np.arange(8 * rate) / rate
    audio = rng.normal(0, 0.001, len(t))
    for begin in (2, 5):
        audio += 0.2 * np.sin(2 * np.pi * 1500 * t) * ((t >= begin) & (t < begin + 0.4))
    place = tmp_path / "recordings" / "radio"
    place.mkdir(parents=True)
    soundfile.write(place / "news.flac", np.stack([audio, audio], 1), rate)
    soundfile.write(place / "calm.wav", rng.normal(0, 0.001, 3 * rate), rate)
    arguments = ("mine", model, "--recordings", tmp_path / "recordings", "--out", tmp_path / "mined")
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["clips"] == 2 and report["labels"] == {"high": 2} and report["seconds"] == pytest.approx(11)
    for i, begin in enumerate((2, 5)):
        clip, got = soundfile.read(tmp_path / "mined" / "_other_" / f"radio-news_nohash_{i}.wav")
        assert got == rate and len(clip) == rate
        onset = int(np.flatnonzero(np.abs(clip) > 0.05)[0])
        assert 0.6 < onset / rate < 0.95  # most of the clip is what came before the tone was recognised
        starts = [begin * rate - onset + i for i in range(20)]  # where in the recording the clip may begin
        assert min(np.abs(clip - audio[start : start + rate]).max() for start in starts) < 1e-4
    found = find_clips(tmp_path / "mined")
    assert {(clip.label, clip.speaker) for clip in found} == {("_other_", "radio-news")}
    assert len({clip.split for clip in found}) == 1

    code, _, err = run(*arguments)  # once more: nothing is replaced
    assert code == 1 and "already holds clips of radio-news" in err and len(err.splitlines()) == 1


def test_a_clip_from_a_recordings_first_moments_begins_with_silence(model, tmp_path):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in/a.wav", tone(500, 2), RATE)
    assert mine(model, tmp_path / "in", tmp_path / "out").labels == {"low": 1}
    clip, _ = soundfile.read(tmp_path / "out/_other_/a_nohash_0.wav")
    assert len(clip) == RATE and not clip[: RATE // 2].any() and np.abs(clip[-800:]).max() > 0.1


def test_mine_keeps_recordings_apart(model, tmp_path):
    """Names that would meet do not."""
    for name in ("x/a_nohash_1.wav", "x/a_nohash_1.flac", "x-a_1.wav"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "in" / name, tone(500, 1.5), RATE)
    assert mine(model, tmp_path / "in", tmp_path / "out").clips == 3
    assert len(list((tmp_path / "out/_other_").iterdir())) == 3


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda folder: None, "no sound files in"),
        (lambda folder: (folder / "a.wav").write_bytes(b"none"), "is no sound file that can be read"),
        (lambda folder: soundfile.write(folder / "a.wav", np.zeros(9), 2000), "must be 4000 to 192000 Hz"),
    ],
)
def test_mine_refuses_before_it_writes(model, run, tmp_path, make, line):
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    code, _, err = run("mine", model, "--recordings", tmp_path / "in", "--out", tmp_path / "out")
    assert code == 1 and line in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("score", ["0", "1", "nan"])
def test_mine_refuses_a_score_without_sense(model, run, tmp_path, score):
    code, _, err = run("mine", model, "--recordings", tmp_path, "--out", tmp_path / "out", "--score", score)
    assert code == 1 and "the score must lie between 0 and 1" in err

"""The way of a user: train, export, evaluate, listen; and one clear line for each mistake."""

import json
import shutil
import signal

import numpy as np
import pytest
import soundfile

from audiossm.data import find_clips, resample
from audiossm.training import load_model
from audiossm.training.module import KeywordTraining

SMALL = ["--width", 6, "--layers", 1, "--d-state", 2, "--channels", 12]
QUICK = [*SMALL, "--batch", 4, "--epochs", 1, "--no-progress"]


@pytest.fixture
def data(make, tmp_path):
    """Two words by three speakers, all for training."""
    return make.toys(tmp_path / "data", ["low", "high"], {"train": 3})


def assert_refused(result, *parts, code=1):
    assert result[0] == code and result[1] == "", result
    lines = [line for line in result[2].splitlines() if line.strip()]  # rich ends its bars with an empty line
    assert len(lines) == 1 and lines[0].startswith("audiossm: "), result[2]
    assert all(part in lines[0] for part in parts), result[2]


# The way


def test_train_says_what_it_does(trained):
    said = (trained / "said").read_text().splitlines()
    assert said[0].startswith("training ") and said[0].endswith(" parameters on 42 clips of 3 classes")
    assert said[1].startswith("epoch 1: ") and said[-2].startswith("epoch 30: ")
    assert said[-1] == f"done: the model is in {trained}; try: audiossm export {trained} --out model.onnx"
    assert len(said) == 32


def test_export_says_what_it_wrote(exported):
    done = json.loads(exported.with_name("said").read_text())
    assert set(done) >= {"path", "bytes", "nodes", "error"}
    assert done["path"] == str(exported) and done["bytes"] == exported.stat().st_size and done["error"] < 1e-4


def test_inspect_the_exported_file(run, exported):
    code, out, _ = run("inspect", exported, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["labels"] == ["high", "low", "warble"] and facts["data_terms"] == "CC0 [toys]"
    assert facts["training"]["clips"] == 42


@pytest.mark.parametrize("which", ["trained", "exported"])
def test_evaluate(run, toys, which, request):
    code, out, _ = run("evaluate", request.getfixturevalue(which), "--data", toys, "--rates", "16000, 44100", "--json")
    report = json.loads(out)
    assert code == 0 and report["n"] == 21 and list(report["rates"]) == ["16000", "44100"]
    assert all(row["accuracy"] >= 80 for row in report["rates"].values())


def test_evaluate_as_a_table(run, toys, exported):
    code, out, _ = run("evaluate", exported, "--data", toys, "--rates", "8000", "--split", "val")
    assert code == 0 and "on 9 clips" in out and "8000 Hz" in out


@pytest.mark.parametrize("rate", [16000, 44100])
def test_listen_hears_the_word(run, toys, exported, tmp_path, rate):
    clip = next(clip for clip in find_clips(toys, "test") if clip.label == "low")
    samples = resample(soundfile.read(clip.path, dtype="float32")[0], 16000, rate)
    soundfile.write(tmp_path / "low.wav", np.stack([samples, samples], 1), rate)
    code, out, err = run("listen", exported, "--input", tmp_path / "low.wav", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and "1.0 s heard" in err
    assert "low" in [event["label"] for event in events if event["time"] > 0.25]


# Data as people have it


def test_stereo_at_44100_hz(run, data, tmp_path):
    for path in data.glob("*/*.wav"):
        samples, _ = soundfile.read(path)
        samples = resample(samples.astype(np.float32), 16000, 44100)
        soundfile.write(path, np.stack([samples, samples], 1), 44100)
    code, out, _ = run("train", "keywords", "--data", data, "--out", tmp_path / "run", *QUICK)
    assert code == 0
    assert out.splitlines()[:2] == [
        "6 of 6 clips at another sampling rate: resampled",
        "6 of 6 clips with several channels: the channels' mean taken",
    ]
    assert load_model(tmp_path / "run")[0].config.rate == 16000


def test_no_data_folder(run, trained, tmp_path):
    out = tmp_path / "run"
    assert_refused(run("train", "keywords", "--data", tmp_path / "no", "--out", out), "no data folder at", "no")
    assert_refused(run("evaluate", trained, "--data", tmp_path / "no"), "no data folder at", "no")
    assert not out.exists()


def test_an_empty_folder(run, trained, tmp_path):
    (tmp_path / "data").mkdir()
    for command in (["train", "keywords", "--out", tmp_path / "run"], ["evaluate", trained]):
        assert_refused(run(*command, "--data", tmp_path / "data"), "no clips in", "a folder per word")
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_audio(run, data, tmp_path):
    (data / "low" / "notes_nohash_0.wav").write_text("these are words, not samples\n" * 9)
    result = run("train", "keywords", "--data", data, "--out", tmp_path / "run", *QUICK)
    assert_refused(result, "notes_nohash_0.wav cannot be read as audio")
    assert not (tmp_path / "run").exists()


def test_one_word(run, data, tmp_path):
    shutil.rmtree(data / "low")
    result = run("train", "keywords", "--data", data, "--out", tmp_path / "run", *QUICK)
    assert_refused(result, "only the class 'high'", "at least two")


def test_a_run_is_not_overwritten(run, trained, toys):
    before = (trained / "model.safetensors").read_bytes()
    result = run("train", "keywords", "--data", toys, "--out", trained, *QUICK)
    assert_refused(result, "already holds a run", "--out", "--resume")
    assert_refused(run("train", "keywords", "--data", toys, "--out", trained, "--resume", *QUICK), "other options")
    assert (trained / "model.safetensors").read_bytes() == before


def test_nothing_to_resume(run, data, tmp_path):
    result = run("train", "keywords", "--data", data, "--out", tmp_path / "run", "--resume", *QUICK)
    assert_refused(result, "nothing to resume")


@pytest.mark.parametrize("rates", ["", "fast", "16000,", "16000;8000", "44.1"])
def test_rates_that_are_no_numbers(run, trained, toys, rates):
    result = run("evaluate", trained, "--data", toys, "--rates", rates)
    assert_refused(result, repr(rates), "8000,16000", "audiossm evaluate --help", code=2)


@pytest.mark.parametrize("rates", ["0", "16000,-8000", "1000000"])
def test_rates_that_no_microphone_has(run, trained, toys, rates):
    assert_refused(run("evaluate", trained, "--data", toys, "--rates", rates), "4000 to 192000 Hz")


def test_models_that_are_none(run, toys, tmp_path):
    (tmp_path / "notes.txt").write_text("not a model")
    assert_refused(run("evaluate", tmp_path / "no.onnx", "--data", toys), "no.onnx", "no released model")
    assert_refused(run("evaluate", tmp_path / "notes.txt", "--data", toys), "not an ONNX file")
    assert_refused(run("evaluate", tmp_path, "--data", toys), "no trained model in")
    assert_refused(run("export", tmp_path, "--out", tmp_path / "m.onnx"), "no trained model in")
    assert_refused(run("export", tmp_path / "no", "--out", tmp_path / "m.onnx"), "no trained model in")


def test_exports_that_cannot_be(run, trained, tmp_path):
    assert_refused(run("export", trained, "--out", tmp_path / "no" / "m.onnx"), "no folder")
    assert_refused(run("export", trained, "--out", tmp_path / "m.onnx", "--rate", 11025), "11025 Hz", "baked in")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--epochs", 0], ["--batch", 0], ["--rate", 100], ["--lr", "fast"]])
def test_options_out_of_range(run, data, tmp_path, option):
    result = run("train", "keywords", "--data", data, "--out", tmp_path / "run", *option)
    assert_refused(result, option[0], "audiossm train keywords --help", code=2)


@pytest.mark.parametrize("option", [["--lr", -1], ["--lr", "nan"], ["--devices", "two"], ["--devices", 0]])
def test_values_without_sense(run, data, tmp_path, option):
    result = run("train", "keywords", "--data", data, "--out", tmp_path / "run", *QUICK, *option)
    assert_refused(result, option[0].strip("-"), str(option[1]), code=result[0])
    assert result[0] in (1, 2) and not (tmp_path / "run").exists()


def test_a_model_of_any_native_rate_can_be_exported(run, data, tmp_path):
    """Or else that rate is refused before the training."""
    code, _, _ = run("train", "keywords", "--data", data, "--out", tmp_path / "run", "--rate", 11025, *QUICK)
    assert code != 0 or run("export", tmp_path / "run", "--out", tmp_path / "m.onnx")[0] == 0


def test_ctrl_c(run, data, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(KeywordTraining, "training_step", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    try:
        code, _, err = run("train", "keywords", "--data", data, "--out", tmp_path / "run", *QUICK)
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning turns it off
    assert code == 130 and err.splitlines()[-1] == "audiossm: interrupted"

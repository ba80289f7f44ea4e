"""Training: toy words are learned, the seed decides everything, and an interrupted run can be finished exactly."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file
from torch.nn import functional as F

from audiossm.data import find_clips, load_clips
from audiossm.mixers import LMU
from audiossm.tasks import KeywordConfig, KeywordModel
from audiossm.training import TrainOptions, load_model, save_model, train_keywords
from audiossm.training.evaluate import evaluate_model
from audiossm.training.module import KeywordTraining
from audiossm.training.run import Average

SMALL = KeywordConfig((), channels=12, modes=2, d_model=8, layers=1, d_state=4)
OPTIONS = TrainOptions(epochs=4, batch=14, channel_mask=2)


def train(data, out, options=OPTIONS, config=SMALL, **how):
    return train_keywords(data, out, config, options, progress=False, say=lambda line: None, **how)


@pytest.fixture(scope="module")
def whole(toys, tmp_path_factory):
    """A run of four epochs that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(toys, out)
    return out


def weights(run):
    return load_file(run / "model.safetensors")


def equal(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def stop(monkeypatch, epoch, batch, error):
    """Training raises an error at a batch of an epoch."""
    step = KeywordTraining.training_step

    def stopping(self, data, index):
        if (self.current_epoch, index) == (epoch, batch):
            raise error
        return step(self, data, index)

    monkeypatch.setattr(KeywordTraining, "training_step", stopping)


def one_line(raised):
    message = str(raised.value)
    assert message and "\n" not in message
    return message


# Learning


def test_it_learns_the_words(trained, toys):
    report = evaluate_model(trained, toys, [16000])
    assert report["n"] == 21 and report["rates"]["16000"]["accuracy"] >= 90


def test_training_lowers_the_loss(trained, toys):
    model, _ = load_model(trained)
    clips = load_clips(find_clips(toys, "train"), 16000, 1.0, list(model.config.labels), progress=False)
    torch.manual_seed(0)
    losses = []
    for heard in (KeywordModel(model.config).eval(), model):
        with torch.inference_mode():
            logits = heard(torch.from_numpy(clips.samples(slice(None))).unsqueeze(-1))[0][:, -1]
        losses.append(float(F.cross_entropy(logits, torch.from_numpy(clips.targets))))
    assert losses[1] < 0.5 * losses[0]


def test_the_run_folder_tells_how_it_came_about(trained):
    model, training = load_model(trained)
    assert not model.training and model.config.labels == ("high", "low", "warble")
    assert (training["clips"], training["epochs"], training["steps"]) == (42, 30, 90)
    assert training["options"]["lr"] == 0.01 and training["val_accuracy"] >= 90
    assert json.loads((trained / "run.json").read_text())["config"]["d_model"] == 16
    assert list((trained / "logs").glob("events.*"))


# The seed


def test_the_same_seed_gives_the_same_weights(whole, toys, tmp_path):
    train(toys, tmp_path / "again")
    assert equal(weights(whole), weights(tmp_path / "again"))
    train(toys, tmp_path / "other", TrainOptions(**(vars(OPTIONS) | {"seed": 1})))
    assert not equal(weights(whole), weights(tmp_path / "other"))


# The average of the weights


def averaging(device):
    """An LMU's average, and what a training tells it after a step; its memory is kept as bits of float64 numbers."""
    model, average = LightningModule(), Average(0.1)
    model.mixer = LMU(4)
    strategy = SimpleNamespace(root_device=torch.device(device))
    trainer = SimpleNamespace(strategy=strategy, global_step=0, callbacks=[], estimated_stepping_batches=100)
    average.setup(trainer, model, "fit")
    average.on_train_start(trainer, model)
    return model, average, trainer


def test_the_average_is_of_the_weights_since_the_first_step_and_leaves_integers_alone():
    model, average, trainer = averaging("cpu")
    for step in range(1, 4):
        with torch.no_grad():
            model.mixer.skip.weight += 1
        trainer.global_step = step
        for _ in range(2):  # batches of one step count once
            average.on_train_batch_end(trainer, model)
    found = average._average_model.module.mixer
    assert torch.equal(found.held, model.mixer.held)
    assert torch.allclose(found.skip.weight, model.mixer.skip.weight - 2 + 0.1 * 0.9 + 0.1 * 2)


def test_the_average_is_where_the_training_will_be():
    """Lightning moves the module there after the setup."""
    model, average, _ = averaging("meta")
    assert {p.device.type for p in average._average_model.parameters()} == {"meta"}
    assert {p.device.type for p in model.parameters()} == {"cpu"}


# Resuming


@pytest.mark.parametrize(("epoch", "batch"), [(1, 0), (2, 1), (3, 2)])
def test_a_resumed_run_is_the_uninterrupted_one(whole, toys, tmp_path, epoch, batch):
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, epoch, batch, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            train(toys, out)
    assert (out / "last.ckpt").is_file() and not (out / "model.json").exists()
    train(toys, out, resume=True)
    assert equal(weights(out), weights(whole))
    facts = [json.loads((run / "model.json").read_text()) for run in (out, whole)]
    for fact in facts:
        del fact["training"]["seconds"], fact["training"]["step_ms"]
    assert facts[0] == facts[1]


def test_resuming_a_finished_run_changes_nothing(toys, whole, tmp_path):
    train(toys, tmp_path / "run")
    train(toys, tmp_path / "run", resume=True)
    assert equal(weights(tmp_path / "run"), weights(whole))


def test_ctrl_c_can_be_resumed(whole, toys, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.MonkeyPatch.context() as patch:
            stop(patch, 2, 0, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                train(toys, tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning turns it off
    train(toys, tmp_path / "run", resume=True)
    assert equal(weights(tmp_path / "run"), weights(whole))


@pytest.mark.parametrize("change", [{"options": TrainOptions(epochs=9)}, {"config": KeywordConfig((), d_model=9)}])
def test_resuming_with_other_options_is_refused(whole, toys, change):
    before = weights(whole)
    with pytest.raises(ValueError, match="begun with other options") as raised:
        train(toys, whole, resume=True, **change)
    one_line(raised)
    assert equal(weights(whole), before)


def test_a_run_of_before_an_option_is_resumed(whole, toys, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    note = tmp_path / "run" / "run.json"
    begun = json.loads(note.read_text())
    for part, name in (("config", "dropout"), ("options", "balance")):
        del begun[part][name]
    note.write_text(json.dumps(begun))
    train(toys, tmp_path / "run", resume=True)
    assert json.loads(note.read_text()) == json.loads((whole / "run.json").read_text())
    note.write_text(json.dumps(begun))
    with pytest.raises(ValueError, match="begun with other options"):
        train(toys, tmp_path / "run", resume=True, options=replace(OPTIONS, balance=0.5))


def test_nothing_to_resume(toys, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume") as raised:
        train(toys, tmp_path / "run", resume=True)
    one_line(raised)


def test_a_run_that_failed_at_once_can_be_begun_again(toys, tmp_path):
    with pytest.raises(ValueError, match="d_state"):
        train(toys, tmp_path / "run", config=KeywordConfig((), channels=4, d_model=4, layers=1, d_state=3))
    train(toys, tmp_path / "run", TrainOptions(epochs=1, batch=42, channel_mask=2))


# What is refused


def test_a_run_is_not_overwritten(whole, toys):
    before = {path: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="already holds a run: choose another --out, or go on with --resume") as raised:
        train(toys, whole)
    one_line(raised)
    assert {path: path.read_bytes() for path in whole.iterdir() if path.is_file()} == before


def test_one_class_is_refused(make, tmp_path):
    data = make.toys(tmp_path / "data", ["low"], {"train": 2})
    with pytest.raises(ValueError, match="only the class 'low'") as raised:
        train(data, tmp_path / "run")
    one_line(raised)
    assert not (tmp_path / "run").exists()


def test_a_few_clips_without_validation_are_enough(make, tmp_path):
    """Fewer than a batch."""
    data = make.toys(tmp_path / "data", ["low", "high"], {"train": 2})
    train(data, tmp_path / "run", TrainOptions(epochs=2, channel_mask=2))
    _, training = load_model(tmp_path / "run")
    assert (training["clips"], training["steps"], training["val_accuracy"]) == (4, 2, None)


# Files


def test_the_checkpoint_holds_weights_only(whole):
    checkpoint = torch.load(whole / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 3 and checkpoint["global_step"] == 12


def test_a_saved_model_comes_back(tmp_path):
    torch.manual_seed(3)
    config = KeywordConfig(("ja", "nein"), rate=8000, channels=5, modes=3, readouts=1, d_model=7, layers=1, d_state=2)
    model = KeywordModel(config).eval()
    save_model(tmp_path, model, {"note": "ä"})
    again, training = load_model(str(tmp_path))
    assert again.config == config and training == {"note": "ä"} and not again.training
    assert equal(model.state_dict(), again.state_dict())
    audio = torch.randn(1, 8000, 1)
    assert torch.equal(model(audio)[0], again(audio)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


# Several devices


def test_two_processes(toys, tmp_path):
    """Two CPU processes share every batch and leave one model."""
    out, log = tmp_path / "run", tmp_path / "log"
    size = "--width 8 --layers 1 --d-state 4 --channels 12 --batch 14 --epochs 2 --devices 2 --no-progress"
    program = Path(sys.executable).with_name("audiossm")
    command = [program, "train", "keywords", "--data", toys, "--out", out, *size.split()]
    with open(log, "w") as file:
        done = subprocess.run(
            command, stdout=file, stderr=file, timeout=120, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        )
    assert done.returncode == 0, log.read_text()
    assert load_model(out)[1]["devices"] == 2

"""Training at scale: several processes, stopping and going on; and data, files and disks that are not as they should be."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from audiossm.data import download_speech_commands, find_clips, load_clips
from audiossm.tasks import KeywordConfig, KeywordModel, parameter_count
from audiossm.training import TrainOptions, load_model, train_keywords
from audiossm.training.loader import ClipBatches, TrainingOrder, class_weights
from audiossm.training.module import KeywordTraining
from audiossm.training.recipes import load_recipe, recipe_names

SMALL = KeywordConfig((), channels=12, modes=2, d_model=8, layers=1, d_state=4)
OPTIONS = TrainOptions(epochs=4, batch=14, channel_mask=2)  # three steps an epoch
QUICK = "--width 8 --layers 1 --d-state 4 --channels 12 --batch 14 --no-progress".split()


def train(data, out, said=None, options=OPTIONS, **how):
    say = (lambda line: None) if said is None else said.append
    return train_keywords(data, out, SMALL, options, progress=False, say=say, **how)


@pytest.fixture(scope="module")
def whole(toys, tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(toys, out)
    return out


@pytest.fixture
def at_step(monkeypatch):
    """Let something happen inside a step of training, counted from 0."""

    def at(number, happen):
        step = KeywordTraining.training_step

        def stepping(self, *batch):
            if self.global_step == number:
                happen()
            return step(self, *batch)

        monkeypatch.setattr(KeywordTraining, "training_step", stepping)

    return at


def equal(run, other):
    one, two = (load_file(folder / "model.safetensors") for folder in (run, other))
    return list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


def send(number):
    return lambda: os.kill(os.getpid(), number)


def assert_refused(result, *parts):
    code, _, err = result
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 1 and len(lines) == 1 and lines[0].startswith("audiossm: "), result
    assert all(str(part) in lines[0] for part in parts), result


# Told to stop


@pytest.mark.parametrize(
    ("number", "step", "kept"),
    [
        (signal.SIGTERM, 4, 5),  # inside an epoch
        (signal.SIGINT, 3, 4),
        (signal.SIGTERM, 5, 6),  # the last step of an epoch
        (signal.SIGINT, 0, 1),
    ],
)
def test_a_stopped_run_goes_on_to_the_bit(whole, toys, tmp_path, at_step, number, step, kept):
    out, said, handler = tmp_path / "run", [], signal.getsignal(number)
    with pytest.MonkeyPatch.context():
        at_step(step, send(number))
        with pytest.raises(BaseException) as stopped:
            train(toys, out, said)
    assert stopped.type is KeyboardInterrupt or (stopped.type is SystemExit and stopped.value.code == 143)
    assert (stopped.type is KeyboardInterrupt) == (number == signal.SIGINT)
    assert said[-1].startswith(f"stopped after step {kept} of 12: ") and "--resume" in said[-1]
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == kept
    assert signal.getsignal(number) is handler and not (out / "model.json").exists()
    at_step(step, lambda: None)
    train(toys, out, resume=True)
    assert equal(out, whole)


def test_stopping_in_the_last_step_is_finishing(whole, toys, tmp_path, at_step):
    at_step(11, send(signal.SIGTERM))
    train(toys, tmp_path / "run")
    assert equal(tmp_path / "run", whole)


def test_ctrl_c_through_the_program(run, toys, tmp_path, at_step):
    at_step(1, send(signal.SIGINT))
    code, out, err = run("train", "keywords", "--data", toys, "--out", tmp_path / "run", "--epochs", 2, *QUICK)
    assert code == 130 and err.splitlines()[-1] == "audiossm: interrupted"
    assert out.splitlines()[-1].startswith("stopped after step 2 of 6: it is kept in ")


# Several devices


@pytest.mark.parametrize("devices", [1, 2, 7])
def test_a_batch_is_the_same_over_any_number_of_devices(devices):
    orders = [TrainingOrder(torch.ones(45), 14, devices, rank, seed=3) for rank in range(devices)]
    alone = TrainingOrder(torch.ones(45), 14, 1, 0, seed=3)
    seen = []
    for shares, batch in zip(zip(*orders, strict=True), alone, strict=True):
        assert {len(share) for share in shares} == {14 // devices}
        assert sorted(torch.cat(shares).tolist()) == sorted(batch.tolist())
        seen += batch.tolist()
    assert len(set(seen)) == len(seen) == 42


def test_the_order_depends_on_the_epoch_and_begins_where_a_run_stopped():
    order = TrainingOrder(torch.ones(45), 14, 1, 0, seed=3)
    first = [batch.tolist() for batch in order]
    order.set_epoch(1)
    assert [batch.tolist() for batch in order] != first
    order.set_epoch(0)
    order.begin = lambda: 2
    assert [batch.tolist() for batch in order] == first[2:] and len(order) == 3


def test_balance():
    """100 clips of a class, 25 of another and 1: in proportion to the square root, 10 to 5 to 1."""
    targets = torch.tensor([0] * 100 + [1] * 25 + [2])
    for balance, expected in ((0.0, [100, 25, 1]), (0.5, [78.75, 39.375, 7.875]), (1.0, [42, 42, 42])):
        order = TrainingOrder(class_weights(targets, balance)[targets], 126, 1, 0, seed=0)
        counts = targets[next(iter(order))].bincount().double()
        assert (counts - torch.tensor(expected)).abs().max() <= len(targets) / 100 + 25 * (balance > 0) / 25 + 1
        assert balance > 0 or counts.tolist() == expected


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_each_validation_clip_is_heard_once(toys, devices):
    train_clips, val = (load_clips(find_clips(toys, split), 16000, 1.0, progress=False) for split in ("train", "val"))
    batches, heard = ClipBatches(train_clips, val, OPTIONS), []
    for rank in range(devices):
        batches.trainer = SimpleNamespace(world_size=devices, global_rank=rank)
        heard += [audio for batch, _ in batches.val_dataloader() for audio in batch.numpy()]
    assert len(heard) == len(val) == 9
    assert sorted(audio.tobytes() for audio in heard) == sorted(audio.tobytes() for audio in val.audio)


def test_torchrun_stops_and_one_process_goes_on(whole, toys, tmp_path):
    """SIGTERM to torchrun, in the middle of an epoch: both processes stop after the same step."""
    out = tmp_path / "run"
    log = open(tmp_path / "log", "w+")  # noqa: SIM115
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    ours = ["-m", "audiossm", "train", "keywords", "--data", toys, "--out", out, "--epochs", 2000, *QUICK]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    job = subprocess.Popen(
        list(map(str, torchrun + ours)), stdout=subprocess.PIPE, stderr=log, text=True, env=environment
    )
    said = []
    try:
        for line in job.stdout:
            said.append(line)
            if line.startswith("epoch "):
                job.send_signal(signal.SIGTERM)
        assert job.wait(60) != 0
    finally:
        job.kill()
    log.seek(0)
    assert len([line for line in said if line.startswith("stopped after step")]) == 1, (said, log.read())
    assert len([line for line in said if line.startswith("training ")]) == 1
    before = torch.load(out / "last.ckpt", weights_only=True)
    assert 0 < before["global_step"] < 6000

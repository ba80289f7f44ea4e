"""Training by the clock: it ends in time and is complete then, is resumed with what is left, and devices agree."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file
from torch import nn

from audiossm.tasks import KeywordConfig
from audiossm.training import TrainOptions, train_keywords
from audiossm.training.checkpoints import LastCheckpoint
from audiossm.training.clock import Clock, length
from audiossm.training.module import KeywordTraining
from audiossm.training.optimiser import optimiser
from audiossm.training.run import Average

SMALL = KeywordConfig((), channels=12, modes=2, d_model=8, layers=1, d_state=4)
OPTIONS = TrainOptions(minutes=1, batch=14, channel_mask=2)  # three steps an epoch


class Watch:
    """A clock that a training moves: a step by `step` seconds, a validation by `validation`; and what it has seen."""

    def __init__(self, monkeypatch, step=1.25, validation=0.0, first=0.0):
        self.now = 1e5
        self.weights, self.rates, self.validated = [], [], Counter()
        train_step, validate = KeywordTraining.training_step, KeywordTraining.validation_step

        def training_step(module, *batch):
            self.now += step + first * (module.global_step == 0)
            self.weights.append(flat(module.model.state_dict()))
            self.rates.append(module.optimizers().param_groups[0]["lr"])
            return train_step(module, *batch)

        def validation_step(module, *batch):
            self.now += validation
            self.validated[module.global_step] += 1
            return validate(module, *batch)

        monkeypatch.setattr(KeywordTraining, "training_step", training_step)
        monkeypatch.setattr(KeywordTraining, "validation_step", validation_step)
        monkeypatch.setattr("audiossm.training.clock.monotonic", lambda: self.now)


def flat(weights):
    return torch.cat([weights[name].flatten() for name in sorted(weights) if weights[name].is_floating_point()])


def train(data, out, options=OPTIONS, say=lambda line: None, **how):
    train_keywords(data, out, SMALL, options, progress=False, say=say, **how)
    return json.loads((out / "model.json").read_text())["training"]


# A training


def test_it_is_complete_when_the_time_is_up(toys, tmp_path, monkeypatch):
    watch = Watch(monkeypatch, step=1.3)
    about = train(toys, tmp_path / "run")
    assert watch.now - 1e5 == pytest.approx(47 * 1.3)  # of 60 s
    assert (about["steps"], about["epochs"]) == (47, 15.67) and about["val_accuracy"] is not None
    assert about["options"]["minutes"] == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["options"]["minutes"] == 1
    assert max(watch.validated.values()) == 1 and max(watch.validated) == 47 and len(watch.validated) <= 21
    assert watch.rates[-1] < 0.01 * max(watch.rates)
    result = flat(load_file(tmp_path / "run" / "model.safetensors"))
    near, far = ((result - weights).norm() for weights in (watch.weights[-1], watch.weights[0]))
    assert near < 0.1 * far


def test_a_validation_in_which_the_time_ends_is_the_last(toys, tmp_path, monkeypatch):
    watch = Watch(monkeypatch, validation=60)
    assert train(toys, tmp_path / "run")["steps"] == 3 and watch.validated == {3: 1}


def test_validations_take_a_tenth_of_the_time(toys, tmp_path, monkeypatch):
    watch = Watch(monkeypatch, validation=1)
    assert train(toys, tmp_path / "run")["steps"] == 44 and list(watch.validated) == [3, 12, 21, 30, 39, 44]


def test_the_step_that_compiles_takes_time_but_not_the_rise_of_the_learning_rate(toys, tmp_path, monkeypatch):
    watch = Watch(monkeypatch, first=20)
    assert train(toys, tmp_path / "run")["steps"] == 32 and watch.now - 1e5 == 60
    assert max(watch.rates[:2]) < 0.1 * max(watch.rates)


def test_without_validation_and_less_time_than_a_step(make, tmp_path, monkeypatch):
    data = make.toys(tmp_path / "data", ["low", "high"], {"train": 2})
    Watch(monkeypatch, step=100)
    about = train(data, tmp_path / "run")
    assert (about["steps"], about["epochs"], about["val_accuracy"]) == (1, 1, None)


@pytest.mark.parametrize("kept", [11, 12])
def test_a_resumed_run_goes_on_with_the_time_that_is_left(toys, tmp_path, monkeypatch, kept):
    """Inside an epoch and at its end. With a clock that can be repeated, so can the training."""
    options = replace(OPTIONS, minutes=0.5)
    whole = Watch(monkeypatch, validation=0.5)
    train(toys, tmp_path / "whole", options)

    def begin(callback, trainer, module):
        callback.trainer = trainer

    def told(callback):
        return callback.trainer.global_step == kept

    said = []
    monkeypatch.undo()
    watch = Watch(monkeypatch, validation=0.5)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(LastCheckpoint, "on_train_start", begin)
        patch.setattr(LastCheckpoint, "stopping", told)
        train(toys, tmp_path / "run", options, say=said.append)
    assert said[-1].startswith(f"stopped after step {kept} of about 2")
    watch.now += 1e6  # a night
    train(toys, tmp_path / "run", options, resume=True)
    assert watch.rates == whole.rates
    weights = [load_file(tmp_path / run / "model.safetensors") for run in ("run", "whole")]
    assert torch.equal(*map(flat, weights))


# What is foretold


def clocked(seconds, devices=1, averaging=0.02, warmup=0.05):
    """Let steps end after so many seconds in a training of a minute, whose one weight is the number of the step.

    Returns the seconds at the begin of each step, its learning rate as a share of the highest, and the average.
    """
    now = 0.0
    clock, average, module = Clock(1), Average(averaging), LightningModule()
    module.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    strategy = SimpleNamespace(root_device=torch.device("cpu"), broadcast=lambda seconds: seconds)
    trainer = SimpleNamespace(
        strategy=strategy, world_size=devices, global_step=0, callbacks=[clock, average], should_stop=False
    )
    options = TrainOptions(lr=1.0, batch=64, warmup=warmup)
    schedule = optimiser(module, options, length(trainer), False)["lr_scheduler"]["scheduler"]
    begun, rates = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("audiossm.training.clock.monotonic", lambda: now)
        average.setup(trainer, module, "fit")
        for callback in trainer.callbacks:
            callback.on_train_start(trainer, module)
        for end in seconds:
            begun.append(now)
            rates.append(schedule.get_last_lr()[0])
            now = end
            trainer.global_step += 1
            module.weight.data.fill_(trainer.global_step)
            schedule.optimizer.step()
            schedule.step()
            for callback in trainer.callbacks:
                callback.on_train_batch_end(trainer, module)
            if trainer.should_stop:
                break
    return np.array(begun), np.array(rates), float(average._average_model.module.weight.detach())


PACES = {
    "even": [0.02] * 9000,
    "slow": [0.9] * 200,
    "slower and slower": list(np.linspace(0.01, 0.05, 9000)),
    "with pauses": [0.02 + 2.0 * (n % 300 == 299) for n in range(9000)],
    "first compiled": [20.0] + [0.01] * 9000,
}


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("pace", PACES)
def test_the_learning_rate_follows_the_clock(pace, devices):
    ends = list(accumulate(PACES[pace]))
    begun, rates, _ = clocked(ends, devices)
    assert begun[-1] < 60 + (devices - 1) and ends[len(begun) - 1] >= 60
    first = ends[0]
    share = np.clip((begun - first) / (60 - first), 0, 1)
    due = np.where(share < 0.05, share / 0.05, 0.5 * (1 + np.cos(math.pi * (share - 0.05) / 0.95)))
    assert np.abs(rates - due)[10:].max() < 0.12 and np.abs(rates - due)[len(rates) // 2 :].max() < 0.08
    assert rates[:2].max() < 0.1 and rates[-1] < 0.01


@pytest.mark.parametrize("pace", PACES)
def test_the_average_is_over_the_last_steps(pace):
    """Of weights that grow by 1 a step, an average over n steps is n - 1 behind."""
    begun, _, average = clocked(accumulate(PACES[pace]))
    behind = len(begun) - average
    assert 0.5 * 0.02 * len(begun) < behind + 1 < max(2.5, 1.5 * 0.02 * len(begun))


def test_several_devices_look_at_the_clock_about_once_a_second_and_at_the_end(monkeypatch):
    looks, look = [], Clock.look

    def looking(clock, trainer):
        looks.append(trainer.global_step)
        return look(clock, trainer)

    monkeypatch.setattr(Clock, "look", looking)
    begun, _, _ = clocked(accumulate([0.01] * 9000), devices=2)
    assert len(begun) == looks[-1] == pytest.approx(6000, abs=1)
    assert 60 < len(looks) < 150


# Several devices

PROCESS = """
import os, sys, time
from audiossm.tasks import KeywordConfig
from audiossm.training import TrainOptions, clock, train_keywords
from audiossm.training.module import KeywordTraining

data, out = sys.argv[1:]
rank = int(os.environ.get("LOCAL_RANK", 0))
now = 0.0

def step(module, batch, index, train=KeywordTraining.training_step):
    global now
    now += 2.5 if rank else 0.25  # the second process's clock is fast
    return train(module, batch, index)

def end(module):
    rate = module.optimizers().param_groups[0]["lr"]
    with open(f"{out}-{rank}", "w") as file:
        print(module.global_step, rate, float(sum(p.sum() for p in module.model.parameters())), file=file)

clock.monotonic = lambda: now
KeywordTraining.training_step, KeywordTraining.on_train_end = step, end
config = KeywordConfig((), channels=12, modes=2, d_model=8, layers=1, d_state=4)
options = TrainOptions(minutes=0.105, batch=14, channel_mask=2)
train_keywords(data, out, config, options, devices="2", progress=False)
"""


def test_the_first_process_has_the_clock(toys, tmp_path):
    (tmp_path / "process.py").write_text(PROCESS)
    with open(tmp_path / "log", "w") as log:
        done = subprocess.run(
            [sys.executable, tmp_path / "process.py", toys, tmp_path / "run"],
            stdout=log,
            stderr=log,
            timeout=120,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        )
    assert done.returncode == 0, (tmp_path / "log").read_text()
    first, second = ((tmp_path / f"run-{rank}").read_text() for rank in (0, 1))
    assert first == second and first.startswith("26 ")
    assert (tmp_path / "log").read_text().count(" % of the validation clips") == 9


# What is refused


@pytest.mark.parametrize(
    "task", [["keywords", "--data", "d"], ["generate", "--data", "d"], ["enhance", "--pairs", "d"]]
)
def test_epochs_and_minutes_exclude_one_another(run, tmp_path, task):
    code, _, err = run("train", *task, "--out", tmp_path / "run", "--epochs", 3, "--minutes", 2)
    [line] = [line for line in err.splitlines() if line.strip()]
    assert code == 2 and "--epochs and --minutes both say how long to train: leave one out" in line


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_without_sense(run, toys, tmp_path, minutes):
    code, _, err = run("train", "keywords", "--data", toys, "--out", tmp_path / "run", "--minutes", minutes)
    assert code == 1 and "minutes must be a positive number" in err and not (tmp_path / "run").exists()

"""Generation: the model obeys the law, learns what is in the recordings, and its training resumes to the bit."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from audiossm.data import augment, find_clips
from audiossm.data.recordings import open_recordings
from audiossm.data.windows import Windows
from audiossm.kernels import dispatch
from audiossm.tasks import GenerationConfig, GenerationModel, KeywordModel, load_model
from audiossm.tasks.checkpoint import task_of
from audiossm.training import GenerateOptions, train_generation
from audiossm.training.evaluate_generation import bits_of, evaluate_generation
from audiossm.training.generation import GenerationTraining, floats
from audiossm.training.graphed import Recorded
from audiossm.training.judge import frechet, judge_made
from audiossm.training.optimiser import optimiser
from audiossm.training.recipes import load_recipe, recipe_names
from audiossm.training.run import Pace

from .law import check_law

RATE = 2000
TINY = GenerationConfig(pools=(2, 2), d_model=4, layers=1, d_state=4, feed_forward=1)
OPTIONS = GenerateOptions(epochs=3, batch=4, lr=0.01, window=0.1)


def melody(rng, hz, seconds=0.6):
    t = np.arange(round(RATE * seconds)) / RATE
    return 0.4 * np.sin(2 * np.pi * (hz * t + rng.uniform())) + rng.normal(0, 0.002, len(t))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tones of two heights, 0.6 s each: 8 for training, 4 for val, 4 for test."""
    root, rng = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    for split, count in {"train": 4, "val": 2, "test": 2}.items():
        for name, hz in {"low": 100, "high": 250}.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                soundfile.write(root / split / name / f"{i}.wav", melody(rng, hz), RATE)
    return root


def train(data, out, options=OPTIONS, config=TINY, **how):
    return train_generation(data, out, config, options, progress=False, **{"say": lambda line: None} | how)


def weights(run):
    return load_file(run / "model.safetensors")


def equal(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


# The model


class OfFloats(nn.Module):
    """A generation model that reads codes from floats, which the law's test gives and wants a gradient for."""

    def __init__(self, config):
        super().__init__()
        self.model = GenerationModel(config)
        self.any_rate, self.streamable = self.model.any_rate, self.model.streamable
        self.initial_state = self.model.initial_state

    def forward(self, u, state=None, rate=None):
        codes = ((u[..., 0].float() * 100).round() % (self.model.start + 1)).long()
        outputs, state = self.model(codes, state, rate=rate)
        return outputs + 0.01 * u, state


@pytest.mark.parametrize("change", [{}, {"pools": (), "pattern": "s4d tcn gru", "layers": 3}, {"coding": "mixture"}])
def test_law(change):
    check_law(lambda: OfFloats(replace(TINY, rate=RATE, **change)), channels=1, examples=5, longest=40)


def test_an_output_depends_on_the_past_alone():
    torch.manual_seed(0)
    model = GenerationModel(replace(TINY, rate=RATE)).eval()
    codes = torch.randint(256, (1, 50))
    changed = codes.index_fill(1, torch.tensor([30]), 7)
    with torch.inference_mode():
        same = (model(codes)[0] == model(changed)[0]).all(2)[0]
    assert same[:30].all() and not same[30:].all()


@pytest.mark.parametrize("coding", ["mu-law", "mixture"])
def test_before_the_first_sample_the_embedding_is_zero(coding):
    model = GenerationModel(replace(TINY, coding=coding))
    assert not model.embed(torch.full((2, 1), model.start)).any()
    assert model.embed(torch.full((2, 1), 100)).any()
    model.embed(torch.full((2, 1), model.start)).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.embedding.parameters())


def test_embeddings_of_like_codes_begin_alike():
    torch.manual_seed(0)
    e = GenerationModel(replace(TINY, d_model=256)).embedding.weight.detach()[:256]
    like = torch.nn.functional.cosine_similarity
    assert like(e[1:], e[:-1]).mean() > 0.95 and like(e[100:], e[:-100]).abs().mean() < 0.3
    assert e.var() == pytest.approx(1, abs=0.15) and torch.linalg.matrix_rank(e) > 60


def test_a_model_of_classes():
    torch.manual_seed(0)
    model = GenerationModel(replace(TINY, classes=("high", "low"))).eval()
    codes = torch.randint(256, (2, 9))
    with torch.inference_mode():
        outputs = model(codes, label=torch.tensor([0, 1]))[0]
        assert torch.allclose(outputs[1:], model(codes[1:], label=torch.tensor([1]))[0], atol=1e-5)
    with pytest.raises(ValueError, match="give one of its classes"):
        model(codes)


@pytest.mark.parametrize(
    ("change", "what"),
    [({"coding": "pcm"}, "no coding"), ({"pools": (1,)}, "a pool makes one"), ({"rate": 5}, "1000 to 192000 Hz")],
)
def test_configs_that_cannot_be(change, what):
    with pytest.raises(ValueError, match=what):
        replace(TINY, **change)


def test_wavenet_reaches_as_far_as_published():
    config = GenerationConfig(pools=(), pattern="tcn", d_model=2, layers=2)
    mixers = [layer.mixer for layer in GenerationModel(config).backbone.layers]
    assert [sum(mixer.past) + 1 for mixer in mixers] == [1024, 1024]


# Bits


def test_bits_are_those_of_one_sample_after_another(folder):
    """Window by window, in batches and in pieces, against a loop with the state handed on."""
    torch.manual_seed(0)
    model = GenerationModel(replace(TINY, rate=RATE)).eval()
    clips = find_clips(folder, "test")
    recordings, _ = open_recordings(clips, RATE)
    got = bits_of(model, Windows(recordings, 400, torch.zeros(len(clips), dtype=torch.int64)), "cpu")
    codes = model.coding.encode(torch.from_numpy(recordings.read(2, 0, 1200)))
    want, state = 0.0, None
    with torch.inference_mode():
        for n in range(1200):
            state = None if n % 400 == 0 else state
            before = torch.tensor([[model.start if n % 400 == 0 else int(codes[n - 1])]])
            outputs, state = model(before, state)
            want -= float(outputs[0, 0].log_softmax(0)[codes[n]]) / math.log(2)
    assert got[2] == pytest.approx(want, rel=1e-5)


# Training


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A run that nothing interrupted, told of its classes."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(folder, out, conditional=True)
    return out


def test_it_learns(folder, tmp_path):
    said = []
    train(folder, tmp_path / "run", replace(OPTIONS, epochs=6), replace(TINY, d_model=16), say=said.append)
    assert said[0].endswith("on 8 recordings, 0.00 h at 2000 Hz")
    assert said[1].startswith("epoch 1: ") and said[1].endswith(" bits a sample on validation")
    told = float(said[-2].split(": ")[1].split()[0])
    assert told < 7.3  # 8 for one who knows nothing
    report = evaluate_generation([tmp_path / "run"], folder, "val", window=0.1)
    assert report["n"] == 4 and report["samples"] == 4800 and len(report["clips"]) == 4
    assert report["bits"] == pytest.approx(told, abs=0.001)
    assert report["ci95"][0] <= report["bits"] <= report["ci95"][1]


def test_the_run_folder_tells_how_it_came_about(whole):
    model, training = load_model(whole, GenerationModel)
    assert task_of(whole) == "generation" and not model.training
    assert model.config == replace(TINY, rate=RATE, classes=("high", "low"))
    assert (training["recordings"], training["epochs"], training["window"], training["steps"]) == (8, 3, 200, 36)
    assert training["options"]["lr"] == 0.01 and 0 < training["val_bits"] < 9
    assert training["level"]["rms_db"][1] == pytest.approx(-10.97, abs=0.1)


def test_a_run_by_the_clock_tells_what_it_came_to(folder, tmp_path, monkeypatch):
    """What a step takes is measured without the validation."""
    now, train_step, validate = [0.0], GenerationTraining.training_step, GenerationTraining.validation_step

    def taking(seconds, step):
        def stepping(*how):
            now[0] += seconds
            return step(*how)

        return stepping

    monkeypatch.setattr("audiossm.training.clock.monotonic", lambda: now[0])
    monkeypatch.setattr(Pace, "now", lambda pace: now[0])
    monkeypatch.setattr(GenerationTraining, "training_step", taking(1.0, train_step))
    monkeypatch.setattr(GenerationTraining, "validation_step", taking(0.5, validate))  # of which there are six
    train(folder, tmp_path / "run", replace(OPTIONS, minutes=0.5))
    _, training = load_model(tmp_path / "run", GenerationModel)
    assert (training["steps"], training["epochs"], training["step_ms"]) == (27, 2.25, 1000)
    assert training["options"]["minutes"] == 0.5 and 0 < training["val_bits"] < 9


def test_a_run_of_another_task(whole, folder, trained):
    with pytest.raises(ValueError, match="is one of generation: this is for keywords"):
        load_model(whole, KeywordModel)
    with pytest.raises(ValueError, match="is one of keywords: this is for generation"):
        evaluate_generation([trained], folder)


def test_the_same_seed_gives_the_same_weights(whole, folder, tmp_path):
    train(folder, tmp_path / "again", conditional=True)
    assert equal(weights(whole), weights(tmp_path / "again"))
    train(folder, tmp_path / "other", replace(OPTIONS, seed=1), conditional=True)
    assert not equal(weights(whole), weights(tmp_path / "other"))


def test_data_on_disk_gives_the_same_weights(whole, folder, tmp_path):
    """As what does not fit into memory is."""
    train(folder, tmp_path / "run", conditional=True, memory=0.0)
    assert equal(weights(whole), weights(tmp_path / "run"))


@pytest.mark.parametrize(
    ("how", "epoch", "batch"),
    [
        ({}, 1, 0),
        ({"carry": True}, 1, 0),
        ({"carry": True}, 1, 7),  # inside an epoch
        ({"speed": 0.1, "softer": 6.0}, 1, 7),
    ],
    ids=str,
)
def test_a_resumed_run_is_the_uninterrupted_one(folder, tmp_path, monkeypatch, how, epoch, batch):
    options = replace(OPTIONS, **how, epochs=2)
    train(folder, tmp_path / "whole", options)
    step = GenerationTraining.training_step

    def stopping(self, data, index):
        loss = step(self, data, index)
        if (self.current_epoch, index) == (epoch, batch):
            [callback] = [c for c in self.trainer.callbacks if type(c).__name__ == "LastCheckpoint"]
            callback.note(15, None)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(GenerationTraining, "training_step", stopping)
        with pytest.raises(SystemExit):
            train(folder, tmp_path / "run", options)
    assert not (tmp_path / "run" / "model.json").exists()
    train(folder, tmp_path / "run", options, resume=True)
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_carried_state_is_that_of_the_whole(folder):
    """Two windows with the state carried are one window of twice the length; a fresh row begins with nothing."""
    torch.manual_seed(0)
    model = GenerationModel(replace(TINY, rate=RATE)).eval()
    training = GenerationTraining(model, OPTIONS)
    codes, label = torch.randint(256, (2, 17)), torch.zeros(2, dtype=torch.int64)
    with torch.inference_mode():
        both = training.hear(codes, label)[0]
        first, _, *carried = training.hear(codes[:, :9], label, *floats(model.initial_state(2)))
        second = training.hear(codes[:, 8:], label, *carried)[0]
    assert torch.allclose(torch.cat((first, second), 1), both, atol=1e-5)


def test_a_fresh_row_begins_with_nothing(folder, tmp_path, monkeypatch):
    """Whatever was carried to it: its bits are those of a training that carries nothing."""
    hear, begun = GenerationTraining.hear, []

    def hearing(self, codes, label, *carried):
        fresh = codes[:, 0] == self.model.start
        if carried:
            begun.append((fresh, [value.flatten(1).abs().sum(1) > 0 for value in carried]))
        return hear(self, codes, label, *carried)

    monkeypatch.setattr(GenerationTraining, "hear", hearing)
    train(folder, tmp_path / "run", replace(OPTIONS, carry=True, epochs=1))
    assert len(begun) == 12 and any((~fresh).any() for fresh, _ in begun)
    for fresh, filled in begun:
        assert all(torch.equal(any_of, ~fresh) for any_of in filled[:1]) and not any(f[fresh].any() for f in filled)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_windows_faster_and_softer(factor, monkeypatch):
    """A tone of 100 Hz becomes one of 100 Hz times the factor, and what was heard of a short recording is shorter."""
    monkeypatch.setattr(augment, "some_speed", lambda most: factor)
    options = replace(OPTIONS, window=0.5, speed=0.2, softer=20.0)
    training = GenerationTraining(GenerationModel(replace(TINY, rate=RATE)), options)
    t = torch.arange(-1, RATE * 6 // 10) / RATE
    tone = (20000 * torch.sin(2 * torch.pi * 100 * t)).short().repeat(8, 1)
    heard = torch.full((8,), RATE // 10)
    audio, heard, *_ = training.varied((tone, heard, heard, heard.bool()))
    assert audio.dtype == torch.int16 and audio.shape == (8, RATE // 2 + 1)
    assert (heard - RATE / 10 / factor).abs().max() < 1
    hertz = 2 * torch.fft.rfft(audio.double() * torch.hann_window(audio.shape[1])).abs().argmax(1)  # steps of 2 Hz
    assert (hertz - 100 * factor).abs().max() <= 2
    peaks = audio.abs().amax(1) / 20000
    assert 0.09 < peaks.min() < peaks.max() < 1.05 and peaks.std() > 0.05


def test_windows_as_they_are_unless_asked(folder):
    training = GenerationTraining(GenerationModel(replace(TINY, rate=RATE)), OPTIONS)
    batch = (torch.randint(-9, 9, (2, 41), dtype=torch.int16), *torch.zeros(3, 2, dtype=torch.int64))
    assert training.varied(batch) is batch


def test_what_is_carried_is_heard_as_it_is():
    with pytest.raises(ValueError, match="carry goes without speed and softer"):
        replace(OPTIONS, carry=True, speed=0.1)


STACK = {"pools": (), "pattern": "s4d tcn", "layers": 2}


@pytest.mark.parametrize(
    ("change", "carry"), [({}, False), ({"coding": "mixture"}, False), (STACK, False), (STACK, True)]
)
def test_a_step_can_be_recorded_on_a_gpu(change, carry, monkeypatch):
    """As in tests/test_recordable.py. SaShiMi asks for a phase in its state, on the CPU, which a fake has not."""
    monkeypatch.setattr(dispatch, "capable", lambda device: True)
    model = GenerationModel(replace(TINY, rate=RATE, classes=("high", "low"), **change))
    step = Recorded(model, GenerationTraining(model, OPTIONS).hear, ())
    named = [*step.named_parameters(), *step.named_buffers()]
    tensors = {name: value.detach() for name, value in named}
    carried = floats(model.initial_state(3)) if carry else []
    with FakeTensorMode() as fakes:
        there = {name: fakes.from_tensor(value).to("cuda") for name, value in tensors.items()}
        given = [fakes.from_tensor(value).to("cuda") for value in carried]
        codes = torch.zeros(3, 41, dtype=torch.int64, device="cuda")
        bits, _, *after = functional_call(step, there, (codes, codes[:, 0], *given))
    assert bits.shape == (3, 40) and len(after) == len(carried)
    assert {value.device.type for value in (bits, *after)} == {"cuda"}


def test_a_recorded_step_is_no_part_of_a_checkpoint():
    """`record` gives modules: as an attribute one would be saved beside the model, and no run could be resumed."""
    training = GenerationTraining(GenerationModel(replace(TINY, rate=RATE)), OPTIONS)
    names = set(training.state_dict())
    training.graphs[()] = Recorded(training.model, training.hear, ())
    assert set(training.state_dict()) == names


# What another model makes of what was made


def test_frechet_distance():
    """Of Gaussians whose distance is known: shifted, and scaled axis by axis."""
    rng = np.random.default_rng(0)
    one = rng.standard_normal((200_000, 3))
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet(one, one + np.array([3, 0, 4])) == pytest.approx(25, rel=1e-6)
    scale = np.array([2.0, 1.0, 0.5])
    want = np.square(one.std(0) * (scale - 1)).sum() + np.square(one.mean(0) * (scale - 1)).sum()
    assert frechet(one, one * scale) == pytest.approx(want, rel=0.01)
    assert frechet(one[:, :1], one[:, :1] * 2) == pytest.approx(1, rel=0.02)


def test_the_judge(trained, toys, make, tmp_path):
    """Clips like the real ones are recognised and near; noise is neither."""
    rng = np.random.default_rng(5)
    for folder, sound in {"good": make.word, "bad": lambda word, rng: rng.normal(0, 0.1, 16000)}.items():
        for word in ("high", "low", "warble"):
            (tmp_path / folder / word).mkdir(parents=True)
            for i in range(6):
                soundfile.write(tmp_path / folder / word / f"{i}.wav", sound(word, rng), 16000)
    good, bad = (judge_made(trained, tmp_path / folder, toys) for folder in ("good", "bad"))
    assert good["n"] == 18 and good["accuracy"] > 90 > 60 > bad["accuracy"] and good["real_accuracy"] > 90
    assert good["ci95"][0] < good["accuracy"] and good["frechet_real"] < good["frechet"] < bad["frechet"] / 3


# Recipes


@pytest.mark.parametrize("name", recipe_names("generation"))
def test_recipes_can_be_built(name):
    recipe = load_recipe(name, "generation")
    assert isinstance(recipe.options, GenerateOptions)
    GenerationModel(replace(recipe.config, rate=16000))


def test_the_published_size():
    """5.0 million parameters beside the embedding and the head."""
    model = GenerationModel(load_recipe("sashimi", "generation").config)
    assert sum(p.numel() for p in model.backbone.parameters()) == pytest.approx(4.96e6, rel=0.01)


def test_slow_tiers_learn_slowly():
    model = GenerationModel(replace(TINY, rate=RATE))
    [groups] = [optimiser(model, OPTIONS, lambda: 10, False)["optimizer"].param_groups]
    rates = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
    backbone = model.backbone
    for k, share in enumerate((1, 2**-0.5, 0.5)):
        modules = [backbone.tiers[k], *([backbone.down[k - 1], backbone.up[k - 1]] if k else [])]
        for parameter in (p for module in modules for p in module.parameters()):
            lr = getattr(parameter, "ssm_lr", OPTIONS.lr)
            assert rates[id(parameter)] == pytest.approx(share * lr)
    assert rates[id(model.head.weight)] == OPTIONS.lr


# What is refused, in one line


def refused(raised):
    assert "\n" not in str(raised.value)


def test_recordings_shorter_than_a_window(folder, tmp_path):
    with pytest.raises(ValueError, match=r"0\.6 s, less than a window of 1 s: give --window 0\.6 or less") as raised:
        train(folder, tmp_path / "run", replace(OPTIONS, window=1.0))
    refused(raised)
    assert not (tmp_path / "run").exists()


def test_some_recordings_shorter_than_a_window(folder, tmp_path):
    said = []
    for k, seconds in enumerate((0.05, 0.3)):
        soundfile.write(tmp_path / f"{k}.wav", melody(np.random.default_rng(0), 100, seconds), RATE)
    train(tmp_path, tmp_path / "run", replace(OPTIONS, epochs=1), say=said.append)
    assert said[0] == "1 of 2 recordings shorter than a window: what they lack is not learnt from"


def test_silence_alone(tmp_path):
    soundfile.write(tmp_path / "nothing.wav", np.zeros(2000), RATE)
    with pytest.raises(ValueError, match="the recordings are silent") as raised:
        train(tmp_path, tmp_path / "run")
    refused(raised)


def test_classes_where_there_are_none(tmp_path):
    soundfile.write(tmp_path / "a.wav", melody(np.random.default_rng(0), 100), RATE)
    with pytest.raises(ValueError, match="has no classes to tell the model") as raised:
        train(tmp_path, tmp_path / "run", conditional=True)
    refused(raised)


def test_a_class_that_the_model_does_not_know(whole, folder, tmp_path):
    (tmp_path / "middle").mkdir()
    soundfile.write(tmp_path / "middle" / "a.wav", melody(np.random.default_rng(0), 150), RATE)
    with pytest.raises(ValueError, match="labelled middle, but the classes are high, low") as raised:
        evaluate_generation([whole], tmp_path)
    refused(raised)


def test_resuming_with_other_options(whole, folder):
    with pytest.raises(ValueError, match="begun with other options"):
        train(folder, whole, replace(OPTIONS, lr=0.02), resume=True, conditional=True)


# The command line


def test_the_way(run, folder, tmp_path):
    size = "--recipe small --width 4 --layers 1 --d-state 4 --pools 2 --epochs 1 --batch 4 --window 0.1 --no-progress"
    out = tmp_path / "run"
    code, said, err = run("train", "generate", "--data", folder, "--out", out, *size.split())
    assert code == 0 and "done: the model is in" in said, err
    code, said, _ = run("evaluate", out, "--data", folder, "--json")
    report = json.loads(said)
    assert code == 0 and report["task"] == "generation" and report["bits"] > 0
    code, said, _ = run("evaluate", out, "--data", folder, "--window", 0.1, "--split", "val")
    assert code == 0 and "bits a sample" in said and "on 4 recordings" in said


def test_two_processes_train_what_one_does(run, folder, tmp_path):
    """They share every batch: weights and losses are the same but for the order in which gradients are summed."""
    size = "--width 4 --layers 1 --d-state 4 --pools 2,2 --epochs 2 --batch 4 --window 0.1 --lr 0.01 --no-progress"
    command = ["train", "generate", "--data", folder, *size.split()]
    assert run(*command, "--out", tmp_path / "1", "--devices", 1)[0] == 0
    several = [Path(sys.executable).with_name("audiossm"), *command, "--out", tmp_path / "2", "--devices", "2"]
    here = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(several, capture_output=True, text=True, timeout=120, env=here)
    assert done.returncode == 0, done.stderr
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert load_model(tmp_path / "2", GenerationModel)[1]["devices"] == 2
    assert all(torch.allclose(one[name], two[name], atol=2e-3) for name in one)
    apart = sum((one[name] - two[name]).square().sum() for name in one) / sum(w.square().sum() for w in one.values())
    assert apart.sqrt() < 1e-3
    curves = [[bits.value for bits in logged(tmp_path / run, "train_bits")] for run in ("1", "2")]
    assert curves[0] and curves[1] == pytest.approx(curves[0], abs=1e-3)


def logged(run, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(run / "logs"))
    log.Reload()
    return log.Scalars(name)


@pytest.mark.parametrize("mixer", ["tcn", "gru", "mamba"])
def test_baselines_by_the_same_command(run, folder, tmp_path, mixer):
    size = f"--recipe stack --mixer {mixer} --layers 2 --width 4 --epochs 1 --batch 4 --window 0.1 --no-progress"
    assert run("train", "generate", "--data", folder, "--out", tmp_path / "run", *size.split())[0] == 0


def assert_refused(result, *parts, code=1):
    assert result[0] == code and result[1] == "", result
    lines = [line for line in result[2].splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("audiossm: "), result[2]
    assert all(part in lines[0] for part in parts), result[2]


def test_mistakes_on_the_command_line(run, folder, whole, tmp_path):
    command = ("train", "generate", "--data", folder, "--out", tmp_path / "run", "--no-progress")
    assert_refused(run(*command, "--where", "language"), "column=value", code=2)
    assert_refused(run(*command, "--pools", "four"), "4,4", code=2)
    assert_refused(run(*command, "--mixer", "gru", "--pattern", "s4d"), "leave out --mixer", code=2)
    assert_refused(run(*command, "--recipe", "base"), "no recipe 'base'", "sashimi, small, stack")
    assert_refused(run(*command, "--where", "language=en"), "no manifest.csv")
    assert_refused(run(*command, "--coding", "pcm"), "no coding 'pcm'")
    assert_refused(run("evaluate", whole, "--data", folder, "--judge", whole), "--made DIR", code=2)
    assert_refused(run("evaluate", whole, "--data", folder, "--judge", whole, "--made", folder), "this is for keywords")
    assert_refused(run("train", "generate", "--data", tmp_path / "no", "--out", tmp_path / "run"), "no data folder")
    assert not (tmp_path / "run").exists()

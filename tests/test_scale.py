"""Training at scale: several processes, stopping and going on; and data, files and disks not as they should be."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from urllib.error import URLError

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
from audiossm.training.run import layout

SMALL = KeywordConfig((), channels=12, modes=2, d_model=8, layers=1, d_state=4)
OPTIONS = TrainOptions(epochs=4, batch=14, channel_mask=2)  # three steps an epoch
TORCHRUN = ["--standalone", "--nproc-per-node", "2"]
QUICK = ["--width", 8, "--layers", 1, "--d-state", 4, "--channels", 12, "--batch", 14, "--no-progress"]


def train(data, out, said=None, options=OPTIONS, **how):
    say = (lambda line: None) if said is None else said.append
    return train_keywords(data, out, SMALL, options, progress=False, say=say, **how)


@pytest.fixture(scope="module")
def whole(toys, tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(toys, out)
    return out


@contextlib.contextmanager
def at_step(number, happen):
    """Let something happen inside a step of training, counted from 0."""
    step = KeywordTraining.training_step

    def stepping(self, *batch):
        if self.global_step == number:
            happen()
        return step(self, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeywordTraining, "training_step", stepping)
        yield


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
def test_a_stopped_run_goes_on_to_the_bit(whole, toys, tmp_path, number, step, kept):
    out, said, handler = tmp_path / "run", [], signal.getsignal(number)
    with at_step(step, send(number)), pytest.raises(BaseException) as stopped:
        train(toys, out, said)
    assert stopped.type is KeyboardInterrupt or (stopped.type is SystemExit and stopped.value.code == 143)
    assert (stopped.type is KeyboardInterrupt) == (number == signal.SIGINT)
    assert said[-1].startswith(f"stopped after step {kept} of 12: ") and "--resume" in said[-1]
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == kept
    assert signal.getsignal(number) is handler and not (out / "model.json").exists()
    train(toys, out, resume=True)
    assert equal(out, whole)


def test_stopping_in_the_last_step_is_finishing(whole, toys, tmp_path):
    with at_step(11, send(signal.SIGTERM)):
        train(toys, tmp_path / "run")
    assert equal(tmp_path / "run", whole)


def test_ctrl_c_through_the_program(run, toys, tmp_path):
    with at_step(1, send(signal.SIGINT)):
        code, out, err = run("train", "keywords", "--data", toys, "--out", tmp_path / "run", "--epochs", 2, *QUICK)
    assert code == 130 and err.splitlines()[-1] == "audiossm: interrupted"
    assert out.splitlines()[-1].startswith("stopped after step 2 of 6: it is kept in ")


def test_a_second_ctrl_c_waits_for_nothing(whole, toys, tmp_path, monkeypatch):
    def twice():
        send(signal.SIGINT)()
        send(signal.SIGINT)()

    said, handler = [], signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("audiossm.training.checkpoints.AGAIN", -1.0)
    with at_step(4, twice), pytest.raises(KeyboardInterrupt):
        train(toys, tmp_path / "run", said)
    assert said[-1].startswith("stopped at once: ") and signal.getsignal(signal.SIGINT) is handler
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 3
    train(toys, tmp_path / "run", resume=True)
    assert equal(tmp_path / "run", whole)


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
    """100 clips of a class, 25 of another and 1: in proportion to the root they are 10 to 5 to 1."""
    targets = torch.tensor([0] * 100 + [1] * 25 + [2])
    for balance, expected in ((0.0, [100, 25, 1]), (0.5, [78.75, 39.375, 7.875]), (1.0, [42, 42, 42])):
        order = TrainingOrder(class_weights(targets, balance)[targets], 126, 1, 0, seed=0)
        picked = next(iter(order))
        assert all(abs(n - e) <= 6 for n, e in zip(targets[picked].bincount().tolist(), expected, strict=True))
        assert balance or sorted(picked.tolist()) == list(range(126))


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_each_validation_clip_is_heard_once(toys, devices):
    train_clips, val = (load_clips(find_clips(toys, split), 16000, 1.0, progress=False) for split in ("train", "val"))
    batches, heard = ClipBatches(train_clips, val, OPTIONS), []
    for rank in range(devices):
        batches.trainer = SimpleNamespace(world_size=devices, global_rank=rank)
        heard += [audio for batch, *_ in batches.val_dataloader() for audio in batch.numpy()]
    assert len(heard) == len(val) == 9
    assert sorted(audio.tobytes() for audio in heard) == sorted(audio.tobytes() for audio in val.audio)


def test_torchrun_stops_and_one_process_goes_on(toys, tmp_path, run):
    """SIGTERM to torchrun: both processes stop after the same step, and one of them speaks."""
    out, said = tmp_path / "run", []
    ours = ["train", "keywords", "--data", toys, "--out", out, "--epochs", 60, *QUICK]
    job = subprocess.Popen(
        [str(part) for part in (sys.executable, "-m", "torch.distributed.run", *TORCHRUN, "-m", "audiossm", *ours)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"},
    )
    late = threading.Timer(150, job.terminate)
    late.start()
    for line in job.stdout:
        said.append(line)
        if line.startswith("epoch 6:"):
            job.send_signal(signal.SIGTERM)
    assert job.wait() != 0
    late.cancel()
    assert [line.split()[0] for line in said] == ["training", "epoch", "epoch", "stopped"]
    step = torch.load(out / "last.ckpt", weights_only=True)["global_step"]
    assert 18 <= step < 180 and said[-1].startswith(f"stopped after step {step} of 180: ")
    code, done, _ = run(*ours, "--resume")
    assert code == 0 and done.splitlines()[1].startswith(f"epoch {9 if step < 27 else step // 3}")
    model, training = load_model(out)
    assert (training["steps"], training["devices"]) == (180, 1)
    val = load_clips(find_clips(toys, "val"), 16000, 1.0, list(model.config.labels), progress=False)
    assert training["val_accuracy"] == pytest.approx(accuracy(model, val), abs=0.01)


def accuracy(model, clips):
    logits, _ = model(torch.from_numpy(clips.samples(slice(None))).unsqueeze(-1))
    return 100 * float((logits[:, -1].argmax(1).numpy() == clips.targets).mean())


@pytest.mark.parametrize("options", [["--batch", 14, "--devices", 4], ["--batch", 64, "--devices", 64]])
def test_devices_that_cannot_share(run, toys, tmp_path, options):
    result = run("train", "keywords", "--data", toys, "--out", tmp_path / "run", *options, "--no-progress")
    assert_refused(result, "devices")
    assert not (tmp_path / "run").exists()


def test_devices_beside_torchrun(run, toys, tmp_path, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)
    assert layout("auto") == (2, 3)
    result = run("train", "keywords", "--data", toys, "--out", tmp_path / "run", "--devices", 4)
    assert_refused(result, "torchrun has started 2 processes", "--devices 4")


def test_learning_rates_follow_the_batch():
    for batch, factor in ((64, 1), (256, 2), (16, 0.5)):
        options = TrainOptions(batch=batch)
        training = KeywordTraining(KeywordModel(KeywordConfig(("a", "b"), d_model=4, layers=1, d_state=2)), options)
        training._trainer = SimpleNamespace(estimated_stepping_batches=100, callbacks=[])
        rates = {group["initial_lr"] for group in training.configure_optimizers()["optimizer"].param_groups}
        assert sorted(rates) == pytest.approx([0.001 * factor, 0.004 * factor])


# Recipes


def test_recipes_are_of_the_size_they_say():
    sizes = {}
    for name in recipe_names():
        config = replace(load_recipe(name).config, labels=tuple("abcdefghijklmnopqrs"))
        sizes[name] = parameter_count(KeywordModel(config))
    assert sizes["small"] <= 60_000 and 150_000 < sizes["base"] <= 250_000 < sizes["paper-s4d"] < 310_000


def test_a_recipe_and_what_is_given_beside_it(run, toys, tmp_path):
    given = ["--recipe", "small", "--epochs", 1, "--width", 6, "--layers", 1, "--balance", 0.5, "--no-progress"]
    assert run("train", "keywords", "--data", toys, "--out", tmp_path / "run", *given)[0] == 0
    model, training = load_model(tmp_path / "run")
    size = model.config
    assert (size.d_model, size.layers, size.channels, size.modes, size.d_state) == (6, 1, 40, 3, 8)
    assert training["options"]["balance"] == 0.5 and training["options"]["batch"] == 128


def test_no_such_recipe(run, toys, tmp_path):
    result = run("train", "keywords", "--data", toys, "--out", tmp_path / "run", "--recipe", "huge")
    assert_refused(result, "no recipe 'huge'", "base, paper-s4d, small")


# Speech Commands


@pytest.fixture
def archive(make, tmp_path):
    """Return a small speech_commands_v0.02.tar.gz: its lists name other clips than the speakers' hash would."""
    root = make.toys(tmp_path / "archive", ["low", "high"], {"train": 3, "val": 1, "test": 1})
    (root / "_background_noise_").mkdir()
    shutil.copy(next(root.glob("low/*.wav")), root / "_background_noise_" / "hum.wav")
    clips = sorted(f"{path.parent.name}/{path.name}" for path in root.glob("*/*_nohash_*.wav"))
    (root / "validation_list.txt").write_text("".join(f"{clip}\n" for clip in clips[1::4]))
    (root / "testing_list.txt").write_text("".join(f"{clip}\n" for clip in clips[2::4]))
    with tarfile.open(tmp_path / "speech_commands_v0.02.tar.gz", "w:gz") as tar:
        for path in sorted(root.iterdir()):
            tar.add(path, f"./{path.name}")
    return tmp_path / "speech_commands_v0.02.tar.gz"


def fetched(monkeypatch, fetch):
    """Let torchaudio get its archive from here."""
    module = import_module("torchaudio.datasets.speechcommands")
    monkeypatch.setattr(module, "download_url_to_file", lambda url, path, hash_prefix: fetch(path))


def test_the_official_lists_as_torchaudio_reads_them(archive, tmp_path, monkeypatch):
    from torchaudio.datasets import SPEECHCOMMANDS

    fetched(monkeypatch, lambda path: shutil.copy(archive, path))
    root = tmp_path / "theirs"
    root.mkdir()
    SPEECHCOMMANDS(root, download=True)
    data = root / "SpeechCommands" / "speech_commands_v0.02"
    for subset, split in (("training", "train"), ("validation", "val"), ("testing", "test")):
        theirs = SPEECHCOMMANDS(root, subset=subset)
        items = {theirs.get_metadata(i) for i in range(len(theirs))}
        ours = {(str(clip.path.relative_to(root / "SpeechCommands")), clip.label) for clip in find_clips(data, split)}
        assert ours == {(item[0], item[2]) for item in items} and ours


def test_download_then_train(archive, tmp_path, monkeypatch, run):
    fetched(monkeypatch, lambda path: shutil.copy(archive, path))
    part = tmp_path / "data" / "speech_commands_v0.02.part" / "SpeechCommands" / "speech_commands_v0.02" / "low"
    part.mkdir(parents=True)  # left of an unpacking that broke off
    options = ["--data", tmp_path / "data", "--download", "--epochs", 1, *QUICK]
    code, out, _ = run("train", "keywords", "--out", tmp_path / "run", *options)
    assert code == 0 and "on 5 clips of 2 classes" in out
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["speech_commands_v0.02"]
    fetched(monkeypatch, lambda path: pytest.fail("it is there already"))
    assert download_speech_commands(tmp_path / "data") == tmp_path / "data" / "speech_commands_v0.02"


def test_no_way_to_the_net(tmp_path, monkeypatch, run):
    def refuse(path):
        raise URLError("Name or service not known")

    fetched(monkeypatch, refuse)
    result = run("train", "keywords", "--data", tmp_path / "data", "--out", tmp_path / "run", "--download")
    assert_refused(result, "cannot download Speech Commands", "Name or service not known", "unpack its archive into")


# Data as people have it


@pytest.fixture
def data(make, tmp_path):
    """Three words by three speakers for training, one for validation and one for test."""
    return make.toys(tmp_path / "data", speakers={"train": 3, "val": 1, "test": 1})


def clips_of(data, word, split):
    return [clip.path for clip in find_clips(data, split) if clip.label == word]


@pytest.mark.parametrize("splits", [["val", "test"], ["test"]])
def test_a_class_without_training_clips(run, data, tmp_path, splits):
    for split in {"train", "val", "test"} - set(splits):
        for path in clips_of(data, "low", split):
            path.unlink()
    result = run("train", "keywords", "--data", data, "--out", tmp_path / "run", *QUICK)
    assert_refused(result, "no training clips of low in")
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_and_a_class_of_one_clip(run, data, tmp_path):
    (data / "lamp").mkdir()
    for path in clips_of(data, "low", "train")[1:]:
        path.unlink()
    code, out, _ = run("train", "keywords", "--data", data, "--out", tmp_path / "run", "--epochs", 1, *QUICK)
    assert code == 0 and out.splitlines()[:2] == [
        f"no clips in the folders lamp of {data}: they are no classes",
        "only one training clip of low: too few to learn a word from",
    ]


@pytest.mark.parametrize(
    ("samples", "subtype", "why"),
    [(np.zeros(0), "PCM_16", "is empty"), (np.full(16000, np.nan), "FLOAT", "NaN or infinite")],
)
def test_clips_that_are_refused(run, data, tmp_path, samples, subtype, why):
    path = clips_of(data, "low", "train")[0]
    soundfile.write(path, samples, 16000, subtype)
    result = run("train", "keywords", "--data", data, "--out", tmp_path / "run", *QUICK)
    assert_refused(result, path, why)


def test_silent_and_clipped_clips_are_counted(run, data, tmp_path, make):
    silent, flat, loud = clips_of(data, "low", "train")
    word = make.word("low", np.random.default_rng(0))
    soundfile.write(silent, np.zeros(16000), 16000)
    soundfile.write(flat, np.clip(40 * word, -1, 1), 16000, "PCM_16")
    soundfile.write(loud, 40 * word, 16000, "FLOAT")
    soundfile.write(clips_of(data, "high", "train")[0], word / np.abs(word).max(), 16000, "PCM_16")  # just not clipped
    code, out, _ = run("train", "keywords", "--data", data, "--out", tmp_path / "run", "--epochs", 1, *QUICK)
    assert code == 0 and out.splitlines()[:3] == [
        "1 of 9 clips with peaks beyond full scale: limited",
        "1 of 9 clips clipped when recorded, with peaks cut off at full scale: kept so",
        "1 of 9 clips silent, all zeros: kept so",
    ]


# Files and disks


@pytest.fixture
def stopped(toys, tmp_path):
    """Return a run that stopped after four of its twelve steps."""
    with at_step(3, send(signal.SIGINT)), pytest.raises(KeyboardInterrupt):
        train(toys, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "damaged or not a checkpoint"),
        (lambda path: path.write_bytes(b""), "damaged or not a checkpoint"),
        (lambda path: path.write_text("these are words"), "damaged or not a checkpoint"),
        (lambda path: torch.save({"state_dict": {}}, path), "not a checkpoint of this audiossm"),
        (lambda path: torch.save([1, 2], path), "damaged or not a checkpoint"),
        (lambda path: torch.save(torch.load(path, weights_only=True) | {"audiossm": 9}, path), "is of format 9"),
    ],
)
def test_checkpoints_that_are_none(toys, stopped, spoil, why):
    spoil(stopped / "last.ckpt")
    before = (stopped / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match=why) as raised:
        train(toys, stopped, resume=True)
    assert "\n" not in str(raised.value) and str(stopped / "last.ckpt") in str(raised.value)
    assert (stopped / "last.ckpt").read_bytes() == before


def test_a_model_of_a_newer_format(whole, toys, tmp_path, run):
    shutil.copytree(whole, tmp_path / "run")
    about = json.loads((whole / "model.json").read_text())
    (tmp_path / "run" / "model.json").write_text(json.dumps(about | {"format": 9}))
    with pytest.raises(ValueError, match="it is of format 9; this audiossm reads up to") as raised:
        train(toys, tmp_path / "run", resume=True)
    assert "\n" not in str(raised.value)
    assert_refused(run("evaluate", tmp_path / "run", "--data", toys), "of format 9")


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder that holds a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk])
    if not mounted or mounted.returncode:
        pytest.skip("a disk of its own can only be mounted by root on Linux")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk(whole, toys, stopped, small_disk):
    """The checkpoint that was there stays, nothing half-written does, and with some room training goes on."""
    out = small_disk / "run"
    shutil.copytree(stopped, out)
    before = (out / "last.ckpt").read_bytes()
    room = shutil.disk_usage(small_disk).free - 20_000  # enough for all but a checkpoint
    (small_disk / "other").write_bytes(bytes(room))
    with pytest.raises(OSError, match=r"cannot write .*last\.ckpt: No space left on device") as raised:
        train(toys, out, resume=True)
    assert "\n" not in str(raised.value)
    assert (out / "last.ckpt").read_bytes() == before
    assert {path.name for path in out.iterdir()} == {"last.ckpt", "run.json", "logs"}
    (small_disk / "other").unlink()
    train(toys, out, resume=True)
    assert equal(out, whole)

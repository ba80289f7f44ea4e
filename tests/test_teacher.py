"""Teachers: the loss is what the formula says, a student follows them, and they leave the run as it was otherwise."""

import json

import pytest
import torch
from safetensors.torch import load_file

from audiossm.data import find_clips, load_clips
from audiossm.tasks import KeywordConfig, KeywordModel
from audiossm.training import TrainOptions, load_model, save_model, train_keywords
from audiossm.training.module import CLIPS, ROWS, KeywordTraining
from audiossm.training.teacher import Teachers

LABELS = ("high", "low", "warble")
SIZE = {"channels": 12, "modes": 2, "d_model": 8, "layers": 1, "d_state": 4}
SMALL = KeywordConfig((), **SIZE)
OPTIONS = TrainOptions(epochs=2, batch=14, channel_mask=2)
QUICK = ["--width", 8, "--layers", 1, "--d-state", 4, "--channels", 12, "--batch", 14, "--epochs", 1, "--no-progress"]


def model(seed, **changes):
    torch.manual_seed(seed)
    return KeywordModel(KeywordConfig(LABELS, **(SIZE | changes)))


def train(data, out, options=OPTIONS, **how):
    return train_keywords(data, out, SMALL, options, progress=False, say=lambda line: None, **how)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two run folders with models of random weights, of the student's shape and of another."""
    folders = [tmp_path_factory.mktemp("teacher") / name for name in ("same", "wider")]
    for folder, teacher in zip(folders, (model(1), model(2, d_model=10, channels=14)), strict=True):
        folder.mkdir()
        save_model(folder, teacher, {})
    return folders


@pytest.fixture(scope="module")
def whole(toys, runs, tmp_path_factory):
    """A taught run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(toys, out, teachers=runs)
    return out


def equal(run, other):
    one, two = (load_file(folder / "model.safetensors") for folder in (run, other))
    return list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


# The loss


def step(weight, temperature, batch=6, streams=0.5):
    """A training step of fixed random draws: its loss, what the student heard, its logits, and the teachers."""
    teachers = [model(1), model(2, d_model=10, channels=14)]
    options = TrainOptions(batch=batch, teacher_weight=weight, temperature=temperature, stream_share=streams)
    training = KeywordTraining(model(0), options, teachers=Teachers(teachers, temperature))
    training.log = lambda *_, **__: None
    heard, hear = [], training.hear

    def listening(*how):
        heard.append((how, hear(*how)))
        return heard[-1][1]

    training.hear = listening
    torch.manual_seed(5)
    audio = torch.randint(-9000, 9000, (batch, 16000), dtype=torch.int16)
    clips = (audio, torch.arange(batch) % 3, torch.tensor([[2000, 9000]]).repeat(batch, 1))
    loss = training.training_step(clips, 0)
    loss.backward()
    ((audio, rate, how), (logits, _)) = heard[0]
    return loss.detach(), audio, rate, how, logits.detach(), teachers


@pytest.mark.parametrize("streams", [0.0, 1.0])
def test_the_loss_is_what_the_formula_says(streams):
    """(1 - w) cross-entropy + w T² sum_k p_k (log p_k - log q_k), p the teachers' mean on the audio as it was heard."""
    w, temperature = 0.3, 2.5
    loss, audio, rate, how, logits, teachers = step(w, temperature, streams=streams)
    assert how == (ROWS if streams else CLIPS) and len(audio) == (3 if streams else 6)
    p = 0
    for teacher in teachers:
        said, _ = teacher.eval()(audio.unsqueeze(-1), rate=rate)
        p = p + torch.softmax((said if streams else said[:, -1]) / temperature, -1) / 2
    q = torch.softmax(logits / temperature, -1)
    imitation = temperature**2 * (p * (p.log() - q.log())).sum(-1).mean()
    labels, *_ = step(0.0, temperature, streams=streams)
    assert imitation > 0.01 and abs(imitation - labels) > 0.01
    torch.testing.assert_close(loss, (1 - w) * labels + w * imitation, rtol=1e-4, atol=1e-6)


def test_teachers_are_no_part_of_what_is_trained():
    """Though of the student's very shape: not saved, not trained, not switched to training mode, no tensor shared."""
    student, teacher = model(0), model(1)
    training = KeywordTraining(student, OPTIONS, teachers=Teachers([teacher], 2.0)).train()
    assert all(name.startswith("model.") for name in training.state_dict())
    parts = [{tensor.data_ptr() for tensor in m.state_dict().values()} for m in (training, teacher)]
    assert not parts[0] & parts[1]
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    *_, teachers = step(1.0, 2.0)
    assert all(parameter.grad is None for m in teachers for parameter in m.parameters())
    after, before = (list(m.state_dict().values()) for m in (teachers[0], model(1)))
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


# Training


def test_a_student_follows_a_teacher_that_is_certain(toys, tmp_path):
    """Whatever the labels say."""
    certain = model(3)
    with torch.no_grad():
        certain.head.weight.zero_()
        certain.head.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    (tmp_path / "certain").mkdir()
    save_model(tmp_path / "certain", certain, {})
    options = TrainOptions(epochs=8, batch=14, lr=0.02, channel_mask=2, teacher_weight=1.0)
    student = train(toys, tmp_path / "run", options, teachers=[tmp_path / "certain"])
    clips = load_clips(find_clips(toys, "test"), 16000, 1.0, list(LABELS), progress=False)
    with torch.inference_mode():
        logits, _ = student(torch.from_numpy(clips.samples(slice(None))).unsqueeze(-1))
    assert logits[:, -1].softmax(-1)[:, 1].min() > 0.7
    assert set(clips.targets) == {0, 1, 2}


def test_the_run_notes_its_teachers(whole, runs):
    noted = [str(run) for run in runs]
    assert json.loads((whole / "run.json").read_text())["teachers"] == noted
    assert load_model(whole)[1]["teachers"] == noted
    saved = torch.load(whole / "last.ckpt", weights_only=True)["state_dict"]
    assert list(saved) and not any("teacher" in name for name in saved)
    assert sum(tensor.numel() for tensor in saved.values()) < 1.1 * sum(
        tensor.numel() for tensor in load_model(whole)[0].state_dict().values()
    )


def test_teachers_make_a_difference(whole, toys, tmp_path):
    train(toys, tmp_path / "run")
    assert not equal(tmp_path / "run", whole)


def test_a_resumed_run_is_the_uninterrupted_one(whole, toys, runs, tmp_path):
    out, taught = tmp_path / "run", KeywordTraining.training_step

    def stopping(self, *batch):
        if self.global_step == 4:
            raise RuntimeError("power cut")
        return taught(self, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeywordTraining, "training_step", stopping)
        with pytest.raises(RuntimeError, match="power cut"):
            train(toys, out, teachers=runs)
    with pytest.raises(ValueError, match="other options, labels or teachers"):
        train(toys, out, teachers=runs[:1], resume=True)
    train(toys, out, teachers=runs, resume=True)
    assert equal(out, whole)


# What is refused


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"labels": ("high", "low", "yes")}, "other labels than the student: only one of the two has warble, yes"),
        ({"labels": LABELS[::-1]}, "other labels than the student: they are in another order"),
        ({"labels": LABELS, "rate": 8000}, "native rate 8000 Hz, not 16000"),
    ],
)
def test_a_teacher_of_something_else(run, toys, tmp_path, config, message):
    (tmp_path / "other").mkdir()
    save_model(tmp_path / "other", KeywordModel(KeywordConfig(**(SIZE | config))), {})
    result = run(
        "train", "keywords", "--data", toys, "--out", tmp_path / "run", "--teacher", tmp_path / "other", *QUICK
    )
    assert_refused(result, message, str(tmp_path / "other"))
    assert not (tmp_path / "run").exists()


def assert_refused(result, *parts, code=1):
    assert result[0] == code
    (line,) = [line for line in result[2].splitlines() if line.strip()]
    assert line.startswith("audiossm: ") and all(part in line for part in parts), line


def test_a_teacher_that_is_not_there(run, toys, tmp_path):
    result = run("train", "keywords", "--data", toys, "--out", tmp_path / "run", "--teacher", tmp_path / "no", *QUICK)
    assert_refused(result, "no trained model in")


def test_options_of_no_teacher(run, toys, tmp_path):
    for option in (["--teacher-weight", 0.5], ["--temperature", 3]):
        result = run("train", "keywords", "--data", toys, "--out", tmp_path / "run", *option, *QUICK)
        assert_refused(result, "--teacher RUN", code=2)


@pytest.mark.parametrize("wrong", [{"teacher_weight": 1.5}, {"temperature": 0.0}, {"temperature": float("nan")}])
def test_options_without_sense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainOptions(**wrong)


# The command


def test_command(run, toys, runs, tmp_path):
    teachers = ["--teacher", runs[0], "--teacher", runs[1], "--teacher-weight", 0.5, "--temperature", 3]
    code, _, error = run("train", "keywords", "--data", toys, "--out", tmp_path / "run", *teachers, *QUICK)
    assert code == 0, error
    about = load_model(tmp_path / "run")[1]
    assert about["teachers"] == [str(run) for run in runs]
    assert (about["options"]["teacher_weight"], about["options"]["temperature"]) == (0.5, 3.0)

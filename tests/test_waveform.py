"""The literature's classifier on the raw waveform: its frames and rates, its recipe, its file, and a user's way."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
import soundfile
import torch

from audiossm.backbones import Stack
from audiossm.data import find_clips, resample
from audiossm.export import export_keywords
from audiossm.export.frame import StateLayout
from audiossm.streaming import load
from audiossm.tasks import KeywordConfig, KeywordModel, load_model, parameter_count, save_model, waveform
from audiossm.tasks.waveform import WaveformEncoder
from audiossm.training.module import KeywordTraining
from audiossm.training.recipes import load_recipe

LABELS = ("one", "two", "_other_")
TINY = KeywordConfig(LABELS, encoder="waveform", d_model=6, layers=2, d_state=8)
RATES = (4000, 8000, 11025, 16000, 22050, 44100, 48000)


def relative(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def logits(model, audio, rate, state=None):
    """The module's logits at each step (steps, classes) for audio (n,), and its last state."""
    with torch.inference_mode():
        y, state = model(torch.as_tensor(audio, dtype=torch.float32).reshape(1, -1, 1), state, rate=rate)
    return y[0].numpy(), state


def trained(config):
    """A model whose normalisations are as after training, so that every layer says something."""
    torch.manual_seed(0)
    model = KeywordModel(config)
    with torch.no_grad():
        for _ in range(60):
            model(0.1 * torch.randn(4, 1600, 1))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return trained(TINY)


@pytest.fixture(scope="module")
def run_folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    save_model(folder, model, {"clips": 0})
    return folder


@pytest.fixture(scope="module")
def file(run_folder, tmp_path_factory):
    """The model as a file for a rate that is not its own, at which a frame is no whole number of blocks."""
    done = export_keywords(run_folder, tmp_path_factory.mktemp("file") / "raw.onnx", rate=22050)
    assert done.error < 1e-5
    return done.path


# Frames


@pytest.mark.parametrize("rate", (*RATES, 4025))
def test_a_feature_is_the_mean_over_its_frame(rate):
    encoder = WaveformEncoder("s4d", 3, 1, 2, 0.0, 16000, 50).eval()
    encoder.stack = Stack([])  # no layers: the samples themselves
    audio = torch.randn(2, round(0.31 * rate), 1)
    heard = encoder.widen(encoder.norm(audio)).detach().numpy()
    begins = [-(-j * rate // 50) for j in range(audio.shape[1] * 50 // rate + 1)]
    want = np.stack([heard[:, a:b].mean(1) for a, b in pairwise(begins)], axis=1)
    with torch.no_grad():
        got, _ = encoder(audio, rate=rate)
    assert got.shape == want.shape and relative(got.numpy(), want) < 1e-5


@pytest.mark.parametrize("rate", RATES)
def test_its_clock_is_the_filterbanks(model, rate):
    other = KeywordModel(replace(TINY, encoder="filterbank", channels=4)).eval()
    for samples in (rate // 50 - 1, rate // 50, rate // 50 + 1, rate // 25, rate // 7, rate):
        audio = np.zeros(samples)
        assert len(logits(model, audio, rate)[0]) == len(logits(other, audio, rate)[0]) == samples * 50 // rate


def test_long_audio_is_heard_in_pieces(model, monkeypatch):
    audio = np.random.default_rng(0).normal(0, 0.1, 5000)
    whole, last = logits(model, audio, None)
    monkeypatch.setattr(waveform, "AT_ONCE", 701)
    pieces, end = logits(model, audio, None)
    assert relative(pieces, whole) < 1e-5
    assert all(relative(end[name].numpy(), last[name].numpy()) < 1e-4 for name in last if name != "encoder.clock")


# Rates


def test_a_word_is_the_same_at_other_rates(model, make):
    word = make.word("warble", np.random.default_rng(0))
    native, _ = logits(model, word, 16000)
    moved = native.std(0).max()
    for rate in (22050, 32000, 48000):
        heard, _ = logits(model, resample(word, 16000, rate), rate)
        unscaled, _ = logits(model, resample(word, 16000, rate)[: len(word)], 16000)
        assert np.abs(heard - native).max() < 0.25 * moved
        assert np.abs(unscaled - native).max() > np.abs(heard - native).max() * 4  # the step does scale


# The recipe


def test_the_recipe_is_the_papers():
    recipe = load_recipe("paper-s4d")
    model = KeywordModel(replace(recipe.config, labels=tuple(map(str, range(35)))))
    assert parameter_count(model) == 304_679
    mixer = model.encoder.stack.layers[0].mixer
    assert (len(model.encoder.stack.layers), mixer.d_model, mixer.d_state, mixer.native_rate) == (6, 128, 64, 16000)
    assert mixer.log_dt.ssm_lr * recipe.options.lr_factor == pytest.approx(0.001)
    assert recipe.options.lr * recipe.options.lr_factor == pytest.approx(0.01)


def test_a_step_of_the_recipe():
    """On a tenth of a second, since a CPU is slow at this size."""
    recipe = load_recipe("paper-s4d")
    torch.manual_seed(0)
    training = KeywordTraining(KeywordModel(replace(recipe.config, labels=LABELS)), recipe.options)
    training.log = lambda *_, **__: None
    clips = ((3000 * torch.randn(2, 1600)).short(), torch.tensor([0, 1]), torch.tensor([[0, 1600]] * 2))
    loss = training.training_step(clips, 0)
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in training.parameters())


# The file


def test_the_file_is_the_module_at_any_chunking(model, file, make):
    audio = resample(make.word("warble", np.random.default_rng(1), seconds=2.0), 16000, 22050)
    want, state = logits(model, audio, 22050)
    want = np.exp(want) / np.exp(want).sum(1, keepdims=True)
    for cuts in ([7], [160], [4096], [0, 1, 7, 160, 333]):
        stream, begin, got, rng = load(file).stream(), 0, [], np.random.default_rng(0)
        while begin < len(audio):
            size = int(rng.choice(cuts))
            got.append(stream.scores(audio[begin : begin + size]))
            begin += size
        assert relative(np.concatenate(got), want) < 1e-4
        assert relative(stream._states[stream._frames % 2], StateLayout(model).pack(state).numpy()) < 1e-4


def test_the_file_is_plain(file):
    proto, meta = onnx.load(file), load(file).metadata
    kinds = {node.op_type for node in proto.graph.node}
    assert {node.domain for node in proto.graph.node} == {""} and not proto.functions
    assert not kinds & {"Loop", "Scan", "If", "STFT", "DFT", "Constant", "ConstantOfShape", "Identity"}
    assert [value.name for value in proto.graph.input] == ["audio", "state"]
    assert (meta.rate, meta.frame, meta.latency, meta.filterbank) == (22050, 441, 441, None)
    assert [(part.name, part.shape) for part in meta.state] == [
        ("encoder.stack.0.x", (2, 4, 6)),
        ("encoder.stack.1.x", (2, 4, 6)),
        ("pool.sums", (7,)),
    ]
    json.dumps(meta.summary())


def test_the_file_hears_its_own_rate_alone(file):
    with pytest.raises(ValueError, match=r"hears 22050 Hz alone, not 48000 Hz: .* --rate R") as raised:
        load(file).stream(48000)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("rate", "message"), [(11025, "multiple of 50 Hz"), (100, "4000 to 192000")])
def test_rates_that_no_file_can_have(run_folder, tmp_path, rate, message):
    with pytest.raises(ValueError, match=message):
        export_keywords(run_folder, tmp_path / "m.onnx", rate=rate)
    assert list(tmp_path.iterdir()) == []


# Run folders


def test_a_run_of_before_has_a_filterbank(tmp_path):
    save_model(tmp_path, KeywordModel(replace(TINY, encoder="filterbank", channels=4)), {})
    about = json.loads((tmp_path / "model.json").read_text())
    del about["config"]["encoder"]
    (tmp_path / "model.json").write_text(json.dumps(about))
    assert load_model(tmp_path)[0].config.encoder == "filterbank"


def test_an_encoder_of_the_future(run_folder, tmp_path):
    about = json.loads((run_folder / "model.json").read_text())
    about["config"]["encoder"] = "mel"
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="cannot be read: encoder must be 'filterbank' or 'waveform', not 'mel'"):
        load_model(tmp_path)


# The way of a user

SIZE = "--rate 5000 --width 16 --layers 2 --d-state 8 --batch 7 --epochs 12 --no-progress"


def test_train_evaluate_export_listen(run, make, tmp_path):
    toys, out, file = make.toys(tmp_path / "data", ["low", "high"]), tmp_path / "run", tmp_path / "raw.onnx"
    code, said, _ = run("train", "keywords", "--recipe", "paper-s4d", "--data", toys, "--out", out, *SIZE.split())
    assert code == 0 and "done: the model is in" in said
    assert load_model(out)[0].config.encoder == "waveform" and not (out / "filters.png").exists()
    code, said, _ = run("evaluate", out, "--data", toys, "--rates", "5000,11025,16000", "--json")
    rates = json.loads(said)["rates"]
    assert code == 0 and all(row["accuracy"] >= 85 for row in rates.values()), rates
    code, said, _ = run("export", out, "--out", file, "--json")
    assert code == 0 and json.loads(said)["error"] < 1e-4
    code, said, _ = run("evaluate", file, "--data", toys, "--rates", "5000", "--pictures", tmp_path / "seen", "--json")
    assert code == 0 and json.loads(said)["rates"]["5000"]["accuracy"] == rates["5000"]["accuracy"]
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["confusion.png", "rates.png"]
    code, said, _ = run("inspect", file, "--json")
    assert code == 0 and json.loads(said)["filterbank"] is None
    clip = next(clip for clip in find_clips(toys, "test") if clip.label == "low")
    soundfile.write(tmp_path / "low.wav", resample(soundfile.read(clip.path, dtype="float32")[0], 16000, 5000), 5000)
    code, said, _ = run("listen", file, "--input", tmp_path / "low.wav", "--json")
    assert code == 0 and "low" in [json.loads(line)["label"] for line in said.splitlines()]
    code, said, err = run("listen", file, "--input", clip.path)
    assert (code, said) == (1, "") and "hears 5000 Hz alone, not 16000 Hz" in err and len(err.splitlines()) == 1


def test_a_waveform_has_no_filterbank_to_size(run, toys, tmp_path):
    given = ["--recipe", "paper-s4d", "--data", toys, "--out", tmp_path / "run"]
    for option in ("--channels", "--modes"):
        code, _, err = run("train", "keywords", *given, option, 4)
        assert code == 2 and "has no filterbank: leave out" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()

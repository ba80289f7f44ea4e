"""The released models, of every task: each answers its golden vectors, with the facts that its card tells.

No model need be released for the checks to run: they take a folder, and small models are put into folders here.
"""

import copy
import json
import shutil
from functools import partial
from importlib import resources
from math import prod
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch

from audiossm.export import write_golden
from audiossm.export.generation import build_generation
from audiossm.streaming import Generator, load, released_models, task_of
from audiossm.tasks import GenerationConfig, GenerationModel

tiny_model, tiny_enhancer = (
    SimpleNamespace(**run_path(str(Path(__file__).with_name(f"{name}.py")))) for name in ("tiny_model", "tiny_enhancer")
)
TRAINING = {"level": {"rms_db": [-60.0, -20.0, -3.0], "peak": 1.0}}
RATE = 4000  # of what is generated


def generator(file, **sizes):
    """A model of random parameters as files."""
    torch.manual_seed(0)
    model = GenerationModel(GenerationConfig(rate=RATE, d_model=8, layers=1, d_state=4, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    for name, data in build_generation(model, TRAINING, file.name, "none")[0].items():
        file.with_name(name).write_bytes(data)


# Small models by their names: task, and what writes the file.
MADE = {
    "keywords": ("keywords", tiny_model.build),
    "enhancement": ("enhancement", tiny_enhancer.build),
    "tiers": ("generation", partial(generator, pools=(2, 3), classes=("no", "yes"))),
    "plain": ("generation", partial(generator, pools=(), coding="mixture", components=3)),
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A folder of small models of every task, as models/ is one."""
    place = tmp_path_factory.mktemp("models")
    for name, (_, build) in MADE.items():
        folder = place / name
        folder.mkdir()
        build(folder / "model.onnx")
        write_golden(folder / "model.onnx", folder / "golden.json")
        (folder / "card.md").write_text(f"{facts_of(folder)['params']:,} parameters, by `audiossm evaluate`\n")
        (folder / "recipe.yaml").write_text("commands:\n  - audiossm train X --out runs/X\n")
    return place


@pytest.fixture
def folder(request):
    """A model's folder: `of_task` says which."""
    place, name = request.param.split("/")
    return (resources.files("audiossm.models") if place == "released" else request.getfixturevalue("shelf")) / name


def of_task(task=None):
    """Run a test on the folder of each released model, and of each small one."""
    names = [f"released/{name}" for name in released_models(task)]
    names += [f"made/{name}" for name, (of, _) in MADE.items() if task in (None, of)]
    return pytest.mark.parametrize("folder", names, indirect=True)


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of a model's folder, to spoil."""
    return shutil.copytree(folder, tmp_path / "copied")


# As an embedding in another language would: models/FORMAT.md, its files and a runtime


def opened(file):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])


def facts_of(folder):
    return json.loads(opened(folder / "model.onnx").get_modelmeta().custom_metadata_map["audiossm"])


def hear(folder, golden, result):
    """What a model says of each frame, and its states at the end; nothing about the rate."""
    session, rows = opened(folder / "model.onnx"), []
    state = np.zeros((1, session.get_inputs()[1].shape[1]), np.float32)
    for frame in np.array(golden["audio"], np.float32):
        row, state = session.run([result, "state_out"], {"audio": frame[None], "state": state})
        rows.append(row[0])
    return rows, [state[0]]


def generate(folder, golden):
    """The logits of every step, each tier being called when it is due, and the states at the end."""
    tiers = facts_of(folder)["tiers"]
    sessions = [opened(folder / (tier["file"] or "model.onnx")) for tier in tiers]
    states = [np.zeros((1, tier["size"]), np.float32) for tier in tiers]
    pools = [tier["pool"] for tier in tiers[1:]]
    held = [np.zeros((1, p, tier["width"]), np.float32) for p, tier in zip(pools, tiers, strict=False)]
    rows = [np.zeros_like(array) for array in held]
    calls = [0] * len(tiers)

    def run(k, **given):
        place = calls[k] % pools[k] if k < len(pools) else None
        if place is not None:
            given["coarse"] = rows[k][:, place]
        names = [output.name for output in sessions[k].get_outputs()]
        said = dict(zip(names, sessions[k].run(names, given | {"state": states[k]}), strict=True))
        states[k], calls[k] = said["state_out"], calls[k] + 1
        if place is not None:
            held[k][:, place] = said["fine_out" if k else "fine"]
        return said

    asked = {"class": np.array([[golden["class"]]])} if "class" in golden else {}
    logits = []
    for n, code in enumerate(golden["codes"], 1):
        logits.append(run(0, code=np.array([[code]]), **asked)["logits"][0])
        for k in range(1, len(tiers)):
            if n % prod(pools[:k]):
                break
            rows[k - 1] = run(k, fine=held[k - 1])["coarse_out"]
    return [logits[n] for n in golden["steps"]], [state[0] for state in states]


def check_golden(folder):
    golden, task = json.loads((folder / "golden.json").read_text()), facts_of(folder)["task"]
    result = {"keywords": "posteriors", "enhancement": "audio_out", "generation": "logits"}[task]
    got, states = generate(folder, golden) if task == "generation" else hear(folder, golden, result)
    assert_near(got, golden[result])
    for state, want in zip(states, golden["state_out"], strict=True):
        assert_near(state[:: want["stride"]], want["values"])


def assert_near(got, want):
    got, want = np.array(got), np.array(want)
    assert got.shape == want.shape and np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want)


def check_card_and_recipe(folder):
    card, recipe = (folder / "card.md").read_text(), (folder / "recipe.yaml").read_text()
    assert f"{facts_of(folder)['params']:,}" in card and "audiossm evaluate" in card
    assert "audiossm train" in recipe


# Of every task


def test_there_is_a_keyword_model():
    assert "keywords" in released_models("keywords")


@of_task()
def test_golden_vectors(folder):
    check_golden(folder)
    assert (folder / "golden.json").stat().st_size < 100_000


@of_task()
def test_card_and_recipe_are_there(folder):
    check_card_and_recipe(folder)


@of_task()
def test_a_wrong_answer_is_found(copied):
    """In any array of the vectors."""
    golden = json.loads((copied / "golden.json").read_text())
    for what in {"posteriors", "audio_out", "logits", "state_out"} & set(golden):
        wrong = copy.deepcopy(golden)
        row = wrong[what][-1]["values"] if what == "state_out" else wrong[what][-1]
        row[-1] += 0.01 * np.linalg.norm(row)
        (copied / "golden.json").write_text(json.dumps(wrong))
        with pytest.raises(AssertionError):
            check_golden(copied)


@of_task()
def test_a_lost_state_is_found(folder, monkeypatch):
    """An embedding that hands in zeros at every call does not pass."""

    class Forgetful(onnxruntime.InferenceSession):
        def run(self, names, inputs):
            return super().run(names, inputs | {"state": np.zeros_like(inputs["state"])})

    monkeypatch.setattr(onnxruntime, "InferenceSession", Forgetful)
    with pytest.raises(AssertionError):
        check_golden(folder)


@of_task()
def test_a_card_of_another_model_is_found(copied):
    (copied / "card.md").write_text("7 parameters, by `audiossm evaluate`\n")
    with pytest.raises(AssertionError):
        check_card_and_recipe(copied)


# By task


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_silence_and_noise_say_nothing(rate):
    stream = load("keywords").stream(rate)
    noise = np.random.default_rng(0).normal(0, 0.01, 10 * rate).astype(np.float32)
    assert stream.push(np.zeros(10 * rate, np.float32)) == []
    assert stream.push(noise) == []


@pytest.mark.parametrize("rate", [16000, 44100])
@of_task("enhancement")
def test_an_enhancer_gives_back_as_much_and_leaves_silence(folder, rate):
    stream = load(folder / "model.onnx").stream(rate)
    for audio in (np.random.default_rng(0).normal(0, 0.1, 12345), np.zeros(12345)):
        got = np.concatenate([stream.push(audio.astype(np.float32)), stream.flush()])
        assert got.shape == audio.shape and np.isfinite(got).all()
    assert np.abs(got).max() < 1e-4  # what silence became


@of_task("generation")
def test_a_generator_makes_the_same_second_again(folder):
    model = load(folder / "model.onnx")
    label = model.facts.classes[0] if model.facts.classes else None
    first, again, other = (model.sampler(seed, label=label).audio(model.facts.rate) for seed in (3, 3, 4))
    assert first.shape == (1, model.facts.rate) and np.abs(first).max() <= 1
    assert np.array_equal(first, again) and not np.array_equal(first, other)


# By name


def test_names_work_everywhere(shelf, run, tmp_path, monkeypatch):
    """With small models on the shelf in place of the released ones, for every command that takes a name."""
    monkeypatch.setattr("audiossm.streaming.files.shelf", lambda: shelf)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiers").mkdir()  # a folder of that name is no model
    soundfile.write("in.wav", 0.1 * np.random.default_rng(0).standard_normal((9000, 2)), 44100)
    assert released_models() == sorted(MADE) and released_models("generation") == ["plain", "tiers"]
    assert isinstance(load("tiers"), Generator) and task_of("enhancement") == "enhancement"
    for arguments in (
        ("generate", "tiers", "out.wav", "--class", "yes", "--seconds", 0.1, "--engine", "onnxruntime"),
        ("denoise", "enhancement", "in.wav", "out.wav"),
        ("listen", "keywords", "--input", "in.wav"),
        *(("inspect", name) for name in MADE),
        *(("bench", name, "--seconds", 0.1) for name in MADE),
    ):
        code, _, err = run(*arguments)
        assert code == 0, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("listen tiers", "a model for generation, not for keywords: try `audiossm generate tiers out.wav`"),
        ("listen enhancement", "a model for enhancement, not for keywords: try `audiossm denoise enhancement in.wav"),
        ("generate enhancement out.wav", "not for generation: try `audiossm denoise enhancement in.wav out.wav`"),
        ("denoise keywords in.wav out.wav", "not for enhancement: try `audiossm listen keywords`"),
        ("generate nothing out.wav", "(released models for generation: plain, tiers)"),
        ("listen nothing", "(released models for keywords: keywords)"),
        ("denoise nothing in.wav out.wav", "(released models for enhancement: enhancement)"),
        ("bench nothing", "(released models: enhancement, keywords, plain, tiers)"),
    ],
)
def test_a_name_that_does_not_fit_is_one_line(shelf, run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr("audiossm.streaming.files.shelf", lambda: shelf)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments.split())
    assert (code, out, len(err.splitlines())) == (1, "", 1) and message in err

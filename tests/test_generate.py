"""Models that generate, as files: equal to the module, the same whatever runs them, and `audiossm generate`."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import soundfile
import torch

from audiossm.export import export_generation
from audiossm.export.generation import build_generation, opened
from audiossm.export.verify_generation import verify_generation
from audiossm.streaming import load_generator
from audiossm.streaming.constants import read_constants
from audiossm.streaming.generation import draw
from audiossm.streaming.generation.coding import Coding
from audiossm.streaming.generation.facts import Level
from audiossm.streaming.generation.guard import Guard
from audiossm.streaming.generation.measure import measure_runaway, wilson
from audiossm.streaming.generation.native_engine import laid_out
from audiossm.streaming.generation.recording import likeliest, read_prompt, sound_file
from audiossm.streaming.generation.resample import resample
from audiossm.tasks import GenerationConfig, GenerationModel
from audiossm.tasks.checkpoint import save_model
from audiossm.tasks.quantise import CODINGS

RATE = 4000
TRAINING = {"level": {"rms_db": [-60.0, -20.0, -3.0], "peak": 1.0}, "note": "none"}
SIZES = {"rate": RATE, "d_model": 16, "layers": 2, "d_state": 8, "pools": (2, 3), "classes": ("no", "yes")}

pulse = SimpleNamespace(**run_path(str(Path(__file__).with_name("pulse.py"))))


def random_model(**sizes):
    torch.manual_seed(0)
    model = GenerationModel(GenerationConfig(**(SIZES | sizes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def folder(program, model, tmp_path_factory):
    """A run folder and what is exported from it: gen.onnx and its tiers."""
    folder = tmp_path_factory.mktemp("gen")
    save_model(folder, model, TRAINING)
    golden = ["--golden", folder / "golden.json"]
    code, said, _ = program("export", folder, "--out", folder / "gen.onnx", "--data-terms", "CC0", *golden)
    assert code == 0 and f"try: audiossm generate {folder / 'gen.onnx'} out.wav" in said
    return folder


@pytest.fixture(scope="module")
def generator(folder):
    return load_generator(folder / "gen.onnx")


def relative(got, want):
    return float(np.sqrt(np.square(got - want).mean() / np.square(want).mean()))


# The files are the module


def test_files_and_metadata(folder, generator):
    assert sorted(path.name for path in folder.glob("*.onnx")) == ["gen.onnx", "gen.tier1.onnx", "gen.tier2.onnx"]
    golden, facts = json.loads((folder / "golden.json").read_text()), generator.facts
    assert golden["class"] == 1 and golden["steps"] == [0, 1, 2, 3, 5, 6, 7, 65] and len(golden["codes"]) == 66
    assert (facts.rate, facts.classes, facts.periods) == (RATE, ("no", "yes"), (1, 2, 6))
    assert facts.level == Level(-60, -20, -3, 1.0) and facts.data_terms == "CC0" and facts.training == {"note": "none"}
    for k, data in enumerate(generator.files):
        proto = onnx.load_model_from_string(data)
        assert {entry.domain for entry in proto.opset_import} == {""} and proto.opset_import[0].version == 18
        assert not {"Loop", "Scan", "If"} & {node.op_type for node in proto.graph.node}
        names = {entry.name for entry in proto.graph.input} - {"code", "class"}
        assert names == ({"coarse", "state"}, {"fine", "coarse", "state"}, {"fine", "state"})[k]


@pytest.mark.parametrize("engine", ["onnxruntime", "native"])
def test_a_step_is_the_modules_over_thousands_of_samples(model, generator, engine):
    codes = torch.randint(0, 257, (2, 3001), generator=torch.Generator().manual_seed(1))
    label = torch.tensor([1, 0])
    with torch.inference_mode():
        want = model(codes, label=label)[0].numpy()
    stepped = generator.engine(label.numpy(), engine)
    got = np.stack([stepped.step(column).copy() for column in codes.T.numpy()], axis=1)
    assert relative(got, want) < 1e-4


@pytest.mark.parametrize(
    "sizes",
    [
        {"pools": (), "coding": "mixture", "components": 3},
        {"pools": (), "pattern": "gru", "classes": (), "layers": 1},
        {"centre": "gru", "pools": (4,), "coding": "linear", "layers": 1},
    ],
    ids=["plain", "gru", "gru in the centre"],
)
def test_other_models_run_too(sizes):
    """In ONNX Runtime: the compiled step is SaShiMi's of S4D layers."""
    model = random_model(**sizes)
    files = opened(build_generation(model, TRAINING, "x.onnx", "")[0])
    assert verify_generation(files, model) < 1e-4 and files.engines() == ["onnxruntime"]
    sampler = files.sampler(label="no" if model.config.classes else None)
    codes = torch.from_numpy(sampler.codes(50))
    heard = torch.nn.functional.pad(codes[:, :-1], (1, 0), value=model.start)
    with torch.inference_mode():
        outputs, _ = model(heard, label=torch.zeros(1, dtype=torch.int64) if model.config.classes else None)
    assert sampler.bits == pytest.approx(float(model.bits(outputs, codes).sum()), rel=1e-3)


def test_a_file_that_differs_is_refused(model, generator, monkeypatch):
    assert verify_generation(generator, model) < 1e-4
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.backbone.up[1].linear.weight.mul_(1.01)
    with pytest.raises(RuntimeError, match=r"differ from the module by .*: nothing was written"):
        verify_generation(generator, other)
    monkeypatch.setattr("audiossm.export.verify_generation.state_distance", lambda *_: float("nan"))
    with pytest.raises(RuntimeError, match="nothing was written"):
        verify_generation(generator, model)


def test_the_numbers_have_their_names_in_the_file(model, generator):
    """Equal tensors, such as the norms of a model that was never trained, are stored once by torch."""
    plain = GenerationModel(replace(model.config, pools=(2,), layers=2, d_state=2)).eval()
    files = opened(build_generation(plain, TRAINING, "x.onnx", "")[0])
    assert "native" in files.engines()
    named = read_constants(generator.files[1])
    assert np.array_equal(named["down.weight"], model.backbone.down[0].linear.weight.detach().numpy())


def test_what_cannot_be_a_file(tmp_path, model):
    with pytest.raises(ValueError, match="rate and level: train it"):
        build_generation(model, {}, "x.onnx", "")
    with pytest.raises(ValueError, match="needs the future"):
        build_generation(random_model(pattern="bidirectional:s4d"), TRAINING, "x.onnx", "")
    with pytest.raises(FileNotFoundError, match="no folder"):
        export_generation(tmp_path, tmp_path / "none" / "x.onnx")


# Codes and draws


@pytest.mark.parametrize("kind", ["mu-law", "linear", "mixture"])
def test_codings_are_those_of_training(kind):
    coding = CODINGS[kind]
    raw = {"kind": kind, "codes": coding.codes, "start": coding.codes, "components": 2}
    ours = Coding.parse(raw | {"table": coding.values().tolist()})
    every = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16)
    assert np.array_equal(ours.encode(every.numpy() / np.float32(32768)), coding.encode(every).numpy())
    codes = torch.arange(coding.codes)
    assert np.array_equal(ours.decode(codes.numpy()), coding.decode(codes).numpy())


def test_draws_follow_the_distribution():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, 12).astype(np.float32)
    for temperature, top_p in ((1.0, 1.0), (0.7, 1.0), (1.3, 0.8), (1.0, 0.5)):
        p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        order = np.argsort(-p)
        kept = order[: np.searchsorted(np.cumsum(p[order]), top_p) + 1]
        want = np.zeros(12)
        want[kept] = p[kept] / p[kept].sum()
        drawn = [draw.draw_code(logits, u, temperature, top_p) for u in rng.random((6000, 2))]
        assert np.abs(np.bincount(drawn, minlength=12) / 6000 - want).max() < 0.025
        assert set(drawn) <= set(kept)
    assert draw.draw_code(logits, (0.999, 0), 0.0, 1.0) == logits.argmax()
    assert sum(2 ** -draw.code_bits(logits, k) for k in range(12)) == pytest.approx(1)


def test_draws_from_a_mixture_follow_its_distribution():
    outputs = np.array([0.5, -0.5, -0.3, 0.4, np.log(0.02), np.log(0.05)], np.float32)
    codes = [draw.draw_mixture(outputs, u, 1.0, 1.0) for u in np.random.default_rng(0).random((2000, 2))]
    want = CODINGS["mixture"].bits(torch.from_numpy(outputs).expand(200, -1), torch.tensor(codes[:200]))
    assert np.allclose([draw.mixture_bits(outputs, code) for code in codes[:200]], want.numpy(), rtol=1e-3)
    x = (np.array(codes) - 32768) / 32768
    share = np.exp(0.5) / (np.exp(0.5) + np.exp(-0.5))
    assert np.mean(x < 0) == pytest.approx(share, abs=0.03)
    assert np.median(x[x < 0]) == pytest.approx(-0.3, abs=0.005)


# Samplers


@pytest.mark.parametrize("engine", ["onnxruntime", "native"])
def test_a_seed_gives_the_same_audio_in_any_blocks_and_batches(generator, engine):
    options = {"seed": 7, "label": "yes", "engine": engine}
    want = generator.sampler(**options).audio(600)
    assert want.dtype == np.float32 and want.shape == (1, 600) and np.abs(want).max() <= 1
    pieces = list(generator.sampler(**options).blocks(600, block=77))
    assert np.array_equal(np.concatenate(pieces, axis=1), want)
    assert not np.array_equal(generator.sampler(**options | {"seed": 8}).audio(600), want)
    batch = generator.sampler(**options | {"batch": 3}).audio(600)
    assert len(np.unique(batch, axis=0)) == 3
    if engine == "native":  # what a stream gets does not depend on its neighbours
        assert np.array_equal(batch[:1], want)
    mixed = generator.sampler(**options | {"label": ["no", "yes"], "batch": 2}).audio(50)
    assert mixed.shape == (2, 50)


def test_a_prompt_is_heard_and_likelihoods_are_the_modules(model, generator):
    prompt = 0.5 * np.sin(np.arange(101) * 0.1).astype(np.float32)
    sampler = generator.sampler(prompt=prompt, label="no", seed=3)
    codes = sampler.codes(500)
    heard = generator.facts.coding.encode(prompt)
    whole = torch.from_numpy(np.concatenate([[model.start], heard, codes[0]]))[None]
    with torch.inference_mode():
        outputs, _ = model(whole[:, :-1], label=torch.tensor([0]))
    bits = model.bits(outputs, whole[:, 1:])[0, len(heard) :]
    assert sampler.samples == 500 and sampler.bits[0] == pytest.approx(float(bits.sum()), rel=1e-5)
    sampler.begin_anew()
    fresh = generator.sampler(prompt=prompt, label="no", seed=3)
    assert sampler.codes(9).shape == fresh.codes(9).shape


def test_bad_wishes(generator):
    for wish, message in (
        ({"label": "maybe"}, "there is no class 'maybe'; there are no, yes"),
        ({}, "ask for one of no, yes"),
        ({"label": "no", "temperature": -1}, "temperature is 0 or more"),
        ({"label": "no", "top_p": 0}, "top-p in"),
        ({"label": "no", "seed": -1}, "a seed is not below 0"),
        ({"label": ["no"], "batch": 2}, "cannot have 1 classes"),
        ({"label": "no", "engine": "abacus"}, "cannot run in 'abacus'"),
    ):
        with pytest.raises(ValueError, match=message):
            generator.sampler(**wish)


def test_tiers_must_be_there_and_of_one_export(folder, tmp_path, generator):
    for name, data in zip(("gen.onnx", "gen.tier1.onnx", "gen.tier2.onnx"), generator.files, strict=True):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "gen.tier2.onnx").write_bytes(generator.files[1])
    with pytest.raises(ValueError, match=r"gen\.tier2\.onnx beside .* is of another export"):
        load_generator(tmp_path / "gen.onnx")
    (tmp_path / "gen.tier1.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs gen\.tier1\.onnx beside it"):
        load_generator(tmp_path / "gen.onnx")


def test_nothing_of_training_is_imported(folder, tmp_path):
    code = (
        "import sys\nfor name in ('torch', 'onnx', 'scipy', 'librosa'): sys.modules[name] = None\n"
        "from audiossm.cli import main\nmain(sys.argv[1:])"
    )
    for engine in ("onnxruntime", "native"):
        arguments = [str(folder / "gen.onnx"), str(tmp_path / "a.wav"), "--seconds", "0.1", "--class", "no"]
        command = [sys.executable, "-c", code, "generate", *arguments, "--engine", engine]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and engine in done.stdout, done.stderr


def test_without_numba_it_runs_and_says_how_to_be_faster(generator, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert generator.engines() == ["onnxruntime"] and "audiossm[generate]" in generator.hint()


def test_matrices_that_16_bits_cannot_hold_are_left_to_onnxruntime(generator, monkeypatch):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(40, 60)).astype(np.float32)
    floats, whole = laid_out([matrix, matrix[0]])
    assert np.array_equal(floats[40:], matrix[0]) and whole.dtype == np.int16
    assert relative(whole.reshape(40, 60) * floats[:40, None], matrix) < 5e-5
    matrix[:, 0] = 1000
    with pytest.raises(LookupError, match="too unlike in size"):
        laid_out([matrix[1:], np.concatenate([1e3 * matrix, matrix])])
    monkeypatch.setattr("audiossm.streaming.generation.native_engine.COARSEST", 0)
    assert replace(generator).engines() == ["onnxruntime"]


# The guard


def test_the_guard_sees_what_leaves_the_level_for_three_seconds():
    level, rate = Level(-40, -20, -10, 1.0), 100
    loud, right, silent = np.full(rate, 0.5), np.full(rate, 0.1), np.zeros(rate)
    first = [right, loud, loud, right, loud, loud, loud, loud]
    second = [right, silent, silent, silent, right, right, right, right]
    audio = np.stack([np.concatenate(first), np.concatenate(second)])
    for cut in (1, 37, 100, 800):
        guard, left = Guard(level, rate, 2), []
        for begin in range(0, 800, cut):
            left += guard.add(audio[:, begin : begin + cut])
        assert [(each.row, each.time) for each in left] == [(1, 4.0), (0, 7.0)]
        assert left[1].rms == pytest.approx(-6.02, abs=0.01) and left[0].rms == -100


def test_the_share_of_runaways(generator):
    found = measure_runaway(generator, 3, seconds=4)
    assert found["n"] == 3 and 0 <= found["share"] <= 1 and len(found["ci95"]) == 2
    narrow = replace(generator, facts=replace(generator.facts, level=Level(-60, -50, -40, 1.0)))
    assert measure_runaway(narrow, 3, seconds=4)["times"] == [3.0, 3.0, 3.0]
    assert wilson(0.5, 10) == [0.2366, 0.7634] and str(wilson(0.0, 10)) == "[0.0, 0.2775]"


# audiossm generate


def test_generate_writes_the_same_file_again(folder, run, tmp_path):
    arguments = [folder / "gen.onnx", "--seconds", 1, "--class", "no", "--seed", 5]
    for name in ("a.wav", "b.wav"):
        code, out, err = run("generate", arguments[0], tmp_path / name, *arguments[1:])
        assert code == 0 and err == "" and "1.00 s at 4000 Hz, real-time factor" in out
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    audio, rate = soundfile.read(tmp_path / "a.wav")
    assert (len(audio), rate) == (RATE, RATE)
    want = load_generator(folder / "gen.onnx").sampler(5, label="no").audio(RATE)[0]
    assert np.abs(audio - want).max() < 1e-4
    code, out, _ = run(
        "generate", folder / "gen.onnx", tmp_path / "c.flac", "--seconds", 0.1, "--class", "no", "--json"
    )
    facts = json.loads(out)
    assert code == 0 and facts["seconds"] == 0.1 and facts["real_time_factor"] > 0 and facts["engine"] == "native"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav", "c.flac"]


def test_generate_goes_on_from_a_prompt_at_another_rate(folder, run, tmp_path):
    t = np.arange(8000) / 16000
    soundfile.write(tmp_path / "prompt.wav", np.stack([np.sin(2 * np.pi * 200 * t)] * 2, 1) * 0.5, 16000)
    arguments = ["--prompt", tmp_path / "prompt.wav", "--class", "yes"]
    code, _, err = run("generate", folder / "gen.onnx", tmp_path / "a.wav", "--seconds", 0.8, *arguments)
    assert code == 0 and "resampled from 16000 to 4000 Hz" in err
    audio, _ = soundfile.read(tmp_path / "a.wav")
    want = np.sin(2 * np.pi * 200 * np.arange(2000) / 4000) * 0.5
    assert len(audio) == 3200 and np.abs(audio[50:1950] - want[50:1950]).max() < 0.01
    code, _, err = run("generate", folder / "gen.onnx", tmp_path / "a.wav", "--seconds", 0.5, *arguments)
    assert code == 1 and "lasts 0.5 s and 0.5 s are asked for" in err


def test_resampling_keeps_what_both_rates_hold():
    for rate, to in ((44100, 16000), (16000, 48000), (8000, 11025)):
        t, u = np.arange(rate // 4) / rate, np.arange(to // 4) / to
        got = resample(np.sin(2 * np.pi * 1000 * t), rate, to)
        assert len(got) == round(len(t) * to / rate)
        edge = to // 50
        assert np.abs(got[edge:-edge] - np.sin(2 * np.pi * 1000 * u)[edge : len(got) - edge]).max() < 2e-3
    assert np.abs(resample(np.sin(2 * np.pi * 9000 * np.arange(11025) / 44100), 44100, 16000)[400:-400]).max() < 2e-3


def test_best_of_keeps_the_likeliest(folder, generator, run, tmp_path):
    code, _, err = run(
        "generate", folder / "gen.onnx", tmp_path / "a.wav", "--seconds", 0.5, "--class", "no", "--best-of", 4
    )
    assert code == 0 and "kept the best of 4" in err
    sampler = generator.sampler(label="no", batch=4)
    rows = sampler.audio(2000)
    audio, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert np.abs(audio - rows[sampler.bits.argmin()]).max() < 1e-4
    # Ctrl-C keeps the best of what there is. One that left the level is kept only where all did.
    loud = replace(generator, facts=replace(generator.facts, level=Level(-60, -50, -40, 1.0)))
    sampler, said = loud.sampler(label="no", batch=2), []
    list(likeliest(sampler, (sampler.codes(RATE) for _ in range(4)), said.append))
    assert "2 of them outside the level" in said[0]

    def interrupted():
        yield sampler.codes(100)
        raise KeyboardInterrupt

    blocks = likeliest(sampler, interrupted(), said.append)
    assert len(next(blocks)) == 100
    with pytest.raises(KeyboardInterrupt):
        next(blocks)


def test_the_guard_begins_anew_and_says_so(folder, run, tmp_path, monkeypatch):
    monkeypatch.setattr(Guard, "_second", lambda self: [SimpleNamespace(row=0, time=1.0, rms=3.0)])
    code, _, err = run("generate", folder / "gen.onnx", tmp_path / "a.wav", "--seconds", 0.9, "--class", "no")
    assert code == 0 and err == ""
    monkeypatch.undo()
    level = Level(-60, -50, -40, 1.0)
    monkeypatch.setattr("audiossm.streaming.generation.facts.Level", lambda *_: level)
    for option, words in ((), ": begun anew"), (("--no-guard",), "-60 to -40)"):
        code, _, err = run(
            "generate", folder / "gen.onnx", tmp_path / "a.wav", "--seconds", 4, "--class", "no", *option
        )
        assert code == 0 and "at 3 s the level has left its range" in err and err.rstrip().endswith(words)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--seconds", "0"], 2, "--seconds must be a number above 0"),
        (["--seconds", "inf"], 2, "--seconds must be a number above 0"),
        (["--class", "seven"], 1, "there is no class 'seven'; there are no, yes"),
        ([], 1, "ask for one of no, yes"),
        (["--class", "no", "--prompt", "none.wav"], 1, "there is no file none.wav"),
        (["--class", "no", "--temperature", "-1"], 1, "temperature is 0 or more"),
        (["--class", "no", "--play", "--best-of", "2"], 2, "leave out one"),
        (["--class", "no", "--seconds", "10000000"], 1, "a WAV file holds 149.1 hours at 4000 Hz: name it .flac"),
    ],
)
def test_bad_input_is_one_line(folder, run, tmp_path, arguments, code, message):
    got, out, err = run("generate", folder / "gen.onnx", tmp_path / "a.wav", *arguments)
    assert (got, out, len(err.splitlines())) == (code, "", 1) and message in err
    assert not list(tmp_path.iterdir())


def test_bad_files_are_one_line(folder, run, tmp_path):
    for model, out, message in (
        (tmp_path / "none.onnx", "a.wav", "there is no file"),
        ("keywords", "a.wav", "it is a model for keywords, not for generation: try `audiossm listen keywords`"),
        (folder / "gen.onnx", "a.xyz", "does not end in a sound file's format"),
        (folder / "gen.onnx", "no/a.wav", "no folder"),
    ):
        code, _, err = run("generate", model, tmp_path / out, "--class", "no")
        assert (code, len(err.splitlines())) == (1, 1) and message in err
    code, _, err = run("listen", folder / "gen.onnx")
    assert code == 1 and f"not for keywords: try `audiossm generate {folder / 'gen.onnx'} out.wav`" in err
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(ValueError, match="holds no audio"):
        read_prompt(tmp_path / "empty.wav", RATE, 100, print)


def test_a_day_is_begun_at_once_and_a_stopped_one_is_playable(folder, tmp_path):
    command = [sys.executable, "-m", "audiossm", "generate", folder / "gen.onnx", tmp_path / "day.wav"]
    process = subprocess.Popen(
        [*map(str, command), "--seconds", "86400", "--class", "no", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    part = tmp_path / "day.wav.part"
    try:
        for _ in range(600):
            if part.exists() and part.stat().st_size > 40000:
                break
            time.sleep(0.1)
        before = resident(process.pid)
        time.sleep(0.5)
        assert resident(process.pid) < before + 8
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()  # or a failure would leave it running for the day
    facts = json.loads(out)
    assert process.returncode == 130 and facts["stopped"] and "Traceback" not in err
    audio, _ = soundfile.read(tmp_path / "day.wav")
    assert len(audio) == round(facts["seconds"] * RATE) > 20000 and not part.exists()


def resident(pid):
    """MiB of a process."""
    if sys.platform != "linux":
        return 0
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_an_interrupted_file_is_put_in_place_and_an_empty_one_is_not(tmp_path):
    with sound_file(tmp_path / "a.wav", RATE, 10):
        pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError), sound_file(tmp_path / "b.wav", RATE, 10) as file:
        file.write(np.zeros(5))
        raise OSError("disk full")
    assert not list(tmp_path.iterdir())


def test_play(folder, tmp_path):
    """What is made goes to the sound card too, here a null sink, whose monitor hears it."""
    if why := pulse.missing():
        pytest.skip(why)
    server = pulse.Pulse(tmp_path, {"vspk": RATE})
    try:
        heard = tmp_path / "heard.raw"
        record = [
            "parecord",
            "--raw",
            "-d",
            "vspk.monitor",
            "--format=s16le",
            f"--rate={RATE}",
            "--channels=1",
            str(heard),
        ]
        recorder = subprocess.Popen(record, env=server.environment)
        time.sleep(0.5)
        command = [sys.executable, "-m", "audiossm", "generate", str(folder / "gen.onnx"), str(tmp_path / "a.wav")]
        done = subprocess.run(
            [*command, "--seconds", "2", "--class", "no", "--play", "--json"],
            env=server.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        time.sleep(0.5)
        recorder.terminate()
        recorder.wait()
    finally:
        server.stop()
    made, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    played = np.frombuffer(heard.read_bytes(), np.int16)
    # A busy machine may be late with a block, but not with all.
    assert max(likeness(played.astype(float), made[at : at + 1000].astype(float)) for at in range(0, 8000, 1000)) > 0.99


def likeness(played, piece):
    """The largest correlation of a piece with any stretch of what was played."""
    power = np.convolve(np.square(played), np.ones(len(piece)), "valid")
    return (np.correlate(played, piece, "valid") / np.sqrt(np.maximum(power, 1) * np.square(piece).sum())).max()


def test_bench_and_inspect(folder, run):
    code, out, _ = run("bench", folder / "gen.onnx", "--seconds", 0.5, "--json")
    figures = json.loads(out)
    assert code == 0 and figures["engine"] == "native" and set(figures["engines"]) == {"native", "onnxruntime"}
    assert {"real_time_factor", "samples_per_second", "sample_us_p50", "sample_us_p99", "rss_mib"} <= set(figures)
    assert run("bench", folder / "gen.onnx", "--rate", 8000)[0] == 2
    assert run("bench", "keywords", "--batch", 2)[0] == 2
    code, out, _ = run("inspect", folder / "gen.onnx", "--json")
    assert code == 0 and [tier["period"] for tier in json.loads(out)["tiers"]] == [1, 2, 6]


def test_export_of_a_model_that_generates_has_one_rate(folder, run, tmp_path):
    code, _, err = run("export", folder, "--out", tmp_path / "again.onnx", "--rate", 8000)
    assert code == 2 and "leave out --rate" in err

"""An enhancement model as a file: it equals the module on speech, and a mistake in either is found."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import soundfile
import torch

from audiossm.export import enhancement, export_enhancement
from audiossm.streaming import load_enhancer
from audiossm.streaming.constants import read_constants, with_constants
from audiossm.tasks import EnhancementConfig, EnhancementModel
from audiossm.tasks.checkpoint import save_model

CONFIGS = {
    "spectrum": EnhancementConfig(d_model=6, layers=2, d_state=4, bands=16),
    "of two frames": EnhancementConfig(window=0.016, d_model=6, layers=1, d_state=4, bands=16),
    "min-gru": EnhancementConfig(d_model=6, layers=1, mixer="min-gru", bands=16),
    "gru": EnhancementConfig(d_model=6, layers=1, mixer="gru", bands=16),
    "mamba": EnhancementConfig(d_model=6, layers=1, mixer="mamba", d_state=4, bands=16),
    "waveform": EnhancementConfig(encoder="waveform", d_model=4, layers=1, pools=(4,), d_state=4),
}


@pytest.fixture(scope="module", params=CONFIGS)
def made(program, request, tmp_path_factory):
    """A model whose norms and places have moved from where they began, and its file."""
    folder = tmp_path_factory.mktemp("enhancement")
    torch.manual_seed(0)
    model = EnhancementModel(CONFIGS[request.param])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        if request.param == "min-gru":  # the file divides by what a skip is
            model.network.blocks.layers[0].mixer.mixer.d[:2] = torch.tensor([0.0, -0.5])
        model.train()(0.1 * torch.randn(4, 4000, 1))  # running statistics
    model.eval()
    save_model(folder, model, {"hours": 0})
    file, golden = folder / "dn.onnx", folder / "golden.json"
    code, said, err = program("export", folder, "--out", file, "--golden", golden, "--data-terms", "none", "--json")
    assert (code, err) == (0, "")
    return SimpleNamespace(model=model, folder=folder, file=file, golden=golden, said=json.loads(said))


def test_the_file_is_the_module(made):
    """Over an unseen sound, silence included, whatever the chunks: the stream gives the parallel form, aligned."""
    assert made.said["error"] < 1e-4
    rng, model = np.random.default_rng(0), made.model
    audio = rng.normal(0, 0.1, 20 * model.frame * 11).astype(np.float32)
    audio[1500:2900] = 0
    with torch.inference_mode():
        padded = torch.from_numpy(np.pad(audio, (0, model.latency)))
        want = model(padded[None, :, None])[0][0, model.delay :, 0].numpy()[: len(audio)]
    stream = load_enhancer(made.file).stream()
    pieces = np.split(audio, np.sort(rng.integers(0, len(audio), 40)))
    got = np.concatenate([*map(stream.push, pieces), stream.flush()])
    assert np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want)


def test_a_batch_is_its_rows(made):
    session, facts = load_enhancer(made.file).session, load_enhancer(made.file).metadata
    rng = np.random.default_rng(0)
    audio, state = (rng.normal(0, 0.1, (3, size)).astype(np.float32) for size in (facts.frame, facts.state_size))
    together = session.run(None, {"audio": audio, "state": state})
    for i in range(3):
        alone = session.run(None, {"audio": audio[i : i + 1], "state": state[i : i + 1]})
        for rows, row in zip(together, alone, strict=True):
            assert np.linalg.norm(rows[i] - row[0]) < 1e-5 * np.linalg.norm(row[0])


def test_silence_stays_silence(made):
    got = load_enhancer(made.file).stream().push(np.zeros(32000, np.float32))
    assert np.isfinite(got).all()
    if made.model.config.encoder == "spectrum":
        assert not got.any()


def test_what_the_file_says(made, run):
    facts, model = load_enhancer(made.file).metadata, made.model
    assert (facts.rate, facts.frame, facts.delay, facts.latency) == (16000, model.frame, model.delay, model.latency)
    assert facts.encoder == model.config.encoder and facts.data_terms == "none" and facts.training == {"hours": 0}
    assert facts.params == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("made", ["spectrum"], indirect=True)
def test_the_command(made, run, tmp_path):
    assert np.shape(json.loads(made.golden.read_text())["audio_out"])[1] == made.model.frame
    code, _, err = run("export", made.folder, "--out", tmp_path / "y.onnx", "--rate", 8000)
    assert code == 2 and "leave out --rate" in err
    soundfile.write(tmp_path / "in.wav", 0.1 * np.random.default_rng(0).standard_normal((3000, 2)), 44100)
    assert run("denoise", made.file, tmp_path / "in.wav", tmp_path / "out.wav")[0] == 0
    assert soundfile.info(tmp_path / "out.wav").frames == 3000


@pytest.mark.parametrize("made", ["spectrum"], indirect=True)
def test_a_planted_mistake_is_found(made, tmp_path, monkeypatch):
    """One weight that is a thousandth too large, and nothing is written."""
    data = made.file.read_bytes()
    name, largest = max(read_constants(data).items(), key=lambda entry: entry[1].size)
    wrong = with_constants(data, {name: (largest * np.float32(1.001)).astype(np.float32)})
    with pytest.raises(RuntimeError, match="differs from the module"):
        enhancement.verify_enhancement(wrong, made.model)
    monkeypatch.setattr(enhancement, "build_enhancement", lambda *_: onnx.load(made.file))
    monkeypatch.setattr(enhancement, "state_distance", lambda *_: float("nan"))
    with pytest.raises(RuntimeError, match="nothing was written"):
        export_enhancement(made.folder, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())

"""Every mixer is found by its name, said when to take, trained by one command and written as the same kind of file."""

import re
from pathlib import Path

import pytest
import torch

from audiossm import mixers
from audiossm.export.frame import unstreamable
from audiossm.export.keywords import build
from audiossm.export.verify import babble, verify
from audiossm.mixers import S4D, Filterbank, LMUCell
from audiossm.mixers.catalog import build_mixer, find_mixer, known_mixers
from audiossm.streaming.metadata import DetectorSettings
from audiossm.tasks import KeywordConfig, KeywordModel

README = Path(__file__).parents[1] / "README.md"
# S4D's file is that of tests/test_export.py, GRU's is written by the command below.
STREAMED = sorted(set(known_mixers()) - {"bidirectional", "s4d", "gru"})
NODES = {"mamba2": 140, "mamba3": 225}  # most operators of a file


def keyword_model(pattern, layers=2):
    """A keyword model whose layers are of a pattern, and whose norms know the audio that it will be verified on."""
    torch.manual_seed(0)
    sizes = {"channels": 6, "modes": 2, "d_model": 8, "layers": layers, "d_state": None}
    model = KeywordModel(KeywordConfig(("yes", "_"), pattern=pattern, **sizes))
    audio = torch.from_numpy(babble(32000, 16000)).unsqueeze(-1)
    for _ in range(50):  # or what is selective, a product of three inputs, blows up from layer to layer
        model(audio)
    return model.eval()


def test_a_mixer_has_the_name_of_its_file():
    assert find_mixer("s4d") is S4D and find_mixer("lmu-cell") is LMUCell
    assert Filterbank not in known_mixers().values()
    assert {"attention", "gru", "lmu", "lssl", "lstm", "mamba", "mamba2", "s4", "s5", "tcn"} < set(known_mixers())
    with pytest.raises(ValueError, match=r"no mixer 'rnn'; there are attention, .*, s4d, s5, tcn$"):
        find_mixer("rnn")


def test_sizes_that_a_mixer_has_not_are_left_out():
    assert build_mixer("s4d", 8, d_state=6, window=3).d_state == 6
    assert build_mixer("gru", 8, d_state=6).initial_state(1)


@pytest.mark.parametrize("name", STREAMED)
def test_a_keyword_model_of_any_mixer_becomes_a_file(name):
    model = keyword_model(name, layers=1)
    assert not unstreamable(model)
    file = build(model, {}, None, "none", DetectorSettings())
    assert verify(file, model, 16000) < 1e-4
    assert name not in NODES or len(file.graph.node) <= NODES[name]


def test_help_says_of_each_mixer_when_to_take_it(run):
    for arguments in (("train",), ("train", "keywords")):
        _, out, _ = run(*arguments, "--help")
        said = " ".join(out.split())
        for name, mixer in known_mixers().items():
            assert f"{name}: {mixer.when}" in said.replace("• ", "")


@pytest.mark.parametrize("choice", [("--mixer", "gru"), ("--pattern", "s4d+experts attention+mlp")])
def test_train_and_export_with_another_mixer(run, toys, tmp_path, choice):
    """The command writes nothing that is not the module."""
    layers = len(choice[1].split())
    small = ["--width", "8", "--layers", layers, "--channels", "12", "--batch", "14", "--epochs", "1", "--no-progress"]
    code, _, err = run("train", "keywords", "--data", toys, "--out", tmp_path / "run", *small, *choice)
    assert code == 0, err
    assert run("export", tmp_path / "run", "--out", tmp_path / "kw.onnx")[0] == 0


@pytest.mark.parametrize(
    "choice, code, message",
    [
        (["--mixer", "rnn"], 1, "there is no mixer 'rnn'; there are attention"),
        (["--mixer", "gru", "--pattern", "s4d"], 2, "leave out --mixer"),
        (["--pattern", "s4d gru", "--layers", "3"], 1, "do not fit into 3"),
        (["--mixer", "attention", "--width", "7"], 1, "7"),
        (["--recipe", "paper-s4d", "--mixer", "gru"], 1, "cannot change its rate"),
    ],
)
def test_what_cannot_be_built_is_said_in_a_line(run, toys, tmp_path, choice, code, message):
    got, _, err = run("train", "keywords", "--data", toys, "--out", tmp_path / "run", *choice)
    assert got == code and message in " ".join(err.split()) and "Traceback" not in err


def test_readmes_mixer_is_a_file_like_any_other(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "decay.py").write_text(next(block for block in blocks if "class Decay" in block))
    monkeypatch.setattr(mixers, "__path__", [*mixers.__path__, str(tmp_path)])
    known_mixers.cache_clear()
    try:
        model = keyword_model("decay s4d")
        assert verify(build(model, {}, None, "none", DetectorSettings()), model, 16000) < 1e-4
    finally:
        known_mixers.cache_clear()

"""Few-shot: a few recordings teach a trained model a new word or a new voice, and it keeps what it knew."""

import json

import pytest
import torch

from audiossm.tasks import KeywordConfig
from audiossm.training import TrainOptions, load_model, train_keywords
from audiossm.training.evaluate import evaluate_model
from audiossm.training.extend import OWN_SHARE, extended, load_extension

SHORT = TrainOptions(epochs=12, batch=14, lr=0.005, channel_mask=2)
EMPTY = KeywordConfig(())


@pytest.fixture(scope="module")
def two(make, tmp_path_factory):
    """Data of two words."""
    return make.toys(tmp_path_factory.mktemp("two") / "data", ["high", "low"])


@pytest.fixture(scope="module")
def known(two, tmp_path_factory):
    """A run that knows two words."""
    out = tmp_path_factory.mktemp("known") / "run"
    config = KeywordConfig((), channels=24, modes=2, d_model=16, layers=2, d_state=4)
    train_keywords(two, out, config, TrainOptions(epochs=20, batch=14, lr=0.01), progress=False, say=lambda line: None)
    return out


@pytest.fixture(scope="module")
def mine(make, tmp_path_factory):
    """Four recordings of a word that the run does not know."""
    return make.toys(tmp_path_factory.mktemp("mine") / "data", ["warble"], {"train": 4})


def one_line(text):
    assert text and "\n" not in text.strip()
    return text


def test_a_new_word_is_learnt_and_the_old_ones_are_kept(known, two, mine, toys, tmp_path):
    out = tmp_path / "run"
    train_keywords(mine, out, EMPTY, SHORT, progress=False, say=lambda line: None, extend=(known, two))
    model, training = load_model(out)
    assert model.config.labels == ("high", "low", "warble") and model.config.d_model == 16
    assert evaluate_model(out, toys, [16000])["rates"]["16000"]["accuracy"] >= 85  # 21 clips by unheard speakers
    assert json.loads((out / "run.json").read_text())["extends"] == str(known)
    assert training["extends"] == str(known)


def test_the_weights_are_the_runs_and_new_labels_get_new_rows(known):
    model, _ = load_model(known)
    more = extended(model, ["high", "low", "a", "b"]).eval()
    audio = torch.randn(2, 4000, 1)
    torch.testing.assert_close(more(audio)[0][..., :2], model(audio)[0])  # a product of more columns may round elsewise
    assert more.head.out_features == 4


def test_recordings_are_repeated_to_their_share(known, two, mine):
    model, _ = load_model(known)
    clips, val = load_extension(mine, two, model, "label", say=lambda line: None)
    own = [clip.label for clip in clips.clips].count("warble")
    assert own % 4 == 0 and abs(own / len(clips) - OWN_SHARE) < 0.1
    assert list(clips.targets).count(2) == own and len(clips.audio) == len(clips)
    assert len(val) == 6 and val.labels == ["high", "low", "warble"]


def test_known_words_need_no_new_row(known, two, make, tmp_path):
    mine = make.toys(tmp_path / "mine", ["low"], {"train": 2})
    clips, _ = load_extension(mine, two, load_model(known)[0], "label", say=lambda line: None)
    assert clips.labels == ["high", "low"]


def test_base_with_words_that_the_run_never_learnt(known, toys, mine):
    with pytest.raises(ValueError, match="does not know warble") as raised:
        load_extension(mine, toys, load_model(known)[0], "label", say=lambda line: None)
    one_line(str(raised.value))


def test_recordings_without_training_clips(known, two, make, tmp_path):
    mine = make.toys(tmp_path / "mine", ["low"], {"test": 2})
    with pytest.raises(ValueError, match=r"no training clips in .*: its splits are test") as raised:
        load_extension(mine, two, load_model(known)[0], "label", say=lambda line: None)
    one_line(str(raised.value))


# The command


def test_command(run, known, two, mine, tmp_path):
    out = tmp_path / "run"
    options = ["--epochs", 1, "--batch", 14, "--no-progress"]
    code, said, error = run(
        "train", "keywords", "--data", mine, "--out", out, "--extend", known, "--base", two, *options
    )
    assert code == 0, error
    assert "3 classes" in said
    options = json.loads((out / "run.json").read_text())["options"]
    assert (options["lr"], options["epochs"]) == (0.001, 1)


@pytest.mark.parametrize(
    "clash, message",
    [
        (["--extend", "RUN"], "--base"),
        (["--base", "DATA"], "--extend"),
        (["--extend", "RUN", "--base", "DATA", "--width", 16], "--width is that of the model"),
        (["--extend", "RUN", "--base", "DATA", "--rate", 8000], "--rate is that of the model"),
    ],
)
def test_clashing_options(run, known, two, mine, tmp_path, clash, message):
    clash = [{"RUN": known, "DATA": two}.get(word, word) for word in clash]
    code, said, error = run("train", "keywords", "--data", mine, "--out", tmp_path / "run", *clash)
    assert (code, said) == (2, "") and message in one_line(error)
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_not_there(run, two, mine, tmp_path):
    code, _, error = run(
        "train", "keywords", "--data", mine, "--out", tmp_path / "run", "--extend", tmp_path / "x", "--base", two
    )
    assert code == 1 and "no trained model in" in one_line(error)
    assert not (tmp_path / "run").exists()

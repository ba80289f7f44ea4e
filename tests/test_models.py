"""The released models: each answers its golden vectors, at the cost and with the facts that its card tells."""

import base64
import json
from importlib import resources

import numpy as np
import pytest

from audiossm.streaming import FrameClock, load, released_models

MODELS = released_models()


def decode(text):
    return np.frombuffer(base64.b64decode(text), "<f4")[None]


def test_there_is_a_keyword_model():
    assert "keywords" in MODELS


@pytest.mark.parametrize("name", MODELS)
def test_golden_vectors(name):
    """As an embedding in another language would: two inputs, nothing about the rate."""
    golden = json.loads((resources.files("audiossm.models") / name / "golden.json").read_text())
    session, state, got = load(name).sessions(FrameClock(16000))[0], decode(golden["state"]), []
    assert np.abs(state).max() > 0
    for frame in np.array(golden["audio"], np.float32):
        posteriors, state = session.run(["posteriors", "state_out"], {"audio": frame[None], "state": state})
        got.append(posteriors[0])
    np.testing.assert_allclose(got, golden["posteriors"], atol=1e-5)
    want = decode(golden["state_out"])
    assert np.linalg.norm(state - want) < 1e-4 * np.linalg.norm(want)


@pytest.mark.parametrize("name", MODELS)
def test_card_and_recipe_are_there(name):
    folder = resources.files("audiossm.models") / name
    card, meta = (folder / "card.md").read_text(), load(name).metadata
    assert f"{meta.params:,}" in card and "audiossm evaluate" in card
    assert "audiossm train" in (folder / "recipe.yaml").read_text()


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_silence_and_noise_say_nothing(rate):
    stream = load("keywords").stream(rate)
    noise = np.random.default_rng(0).normal(0, 0.01, 10 * rate).astype(np.float32)
    assert stream.push(np.zeros(10 * rate, np.float32)) == []
    assert stream.push(noise) == []

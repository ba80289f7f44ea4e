"""Enhancement on a GPU: the model is what it is on a CPU in float64, a recorded step is the step, and it trains."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from audiossm.tasks import EnhancementModel
from audiossm.training import train_enhancement
from audiossm.training.enhancement import EnhancementTraining
from audiossm.training.graphed import record
from audiossm.training.recipes import load_recipe
from audiossm.training.scenes import Scenes

from .kernel_checks import DEVICE, error, noise, on_a_gpu


def training_of(model, options):
    scenes = Scenes((3000 * torch.randn(32000)).to(torch.int16), model.config.rate, options)
    return EnhancementTraining(model, scenes, scenes, options)


def sounds(batch=3, samples=8192):
    clean = 0.05 * noise(batch, samples).detach()
    return clean + 0.03 * noise(batch, samples, seed=1).detach(), clean


@on_a_gpu
@pytest.mark.parametrize("name", ("small", "base"))
def test_distances_and_gradients(name):
    recipe = load_recipe(name, "enhancement")
    torch.manual_seed(0)
    exact = EnhancementModel(recipe.config)
    model = deepcopy(exact).to(DEVICE)
    exact.double()
    heard = sounds()
    found = training_of(model, recipe.options).hear(*(audio.to(DEVICE) for audio in heard))
    wanted = training_of(exact, recipe.options).hear(*(audio.double().cpu() for audio in heard))
    assert error(found.cpu(), wanted) < 1e-4
    found.sum().backward()
    wanted.sum().backward()
    for (part, ours), theirs in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert error(ours.grad.cpu(), theirs.grad) < 3e-3, part


@on_a_gpu
def test_a_recorded_step_is_the_step():
    recipe = load_recipe("small", "enhancement")
    model = EnhancementModel(recipe.config).to(DEVICE)
    hear = training_of(model, recipe.options).hear
    heard = [audio.to(DEVICE) for audio in sounds()]
    recorded = record(model, hear, [((), tuple(map(torch.zeros_like, heard)))])[()]
    results = []
    for step in (hear, recorded, recorded):
        model.zero_grad()
        found = step(*heard)
        found.sum().backward()
        results.append([found.detach().clone(), *(p.grad.clone() for p in model.parameters())])
    for again in results[1:]:
        assert all(error(ours, theirs) < 1e-4 for ours, theirs in zip(again, results[0], strict=True))


@on_a_gpu
def test_training(tmp_path):
    draw = np.random.default_rng(0)
    for folder, seconds in {"clean": 2, "val": 2, "noise": 20}.items():
        (tmp_path / folder).mkdir()
        for i in range(9 if folder == "clean" else 1):
            soundfile.write(tmp_path / folder / f"{i}.wav", 0.1 * draw.normal(size=16000 * seconds), 16000)
    recipe = load_recipe("small", "enhancement")
    options = replace(recipe.options, epochs=2, batch=4, window=1.0)
    train_enhancement(
        *(tmp_path / "run", recipe.config, options, tmp_path / "clean", [tmp_path / "noise"]),
        val_clean=tmp_path / "val",
        devices="1",
        progress=False,
    )
    training = json.loads((tmp_path / "run" / "model.json").read_text())["training"]
    assert training["steps"] == 4 and np.isfinite(training["val_gain"])
    assert all(weights.isfinite().all() for weights in load_file(tmp_path / "run" / "model.safetensors").values())

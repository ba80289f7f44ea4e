"""Are the files of a generation model the module? Both hear the same codes, from the same state that is not zero."""

import math

import numpy as np
import torch

from audiossm.backbones import SaShiMi
from audiossm.export.tiers import tiers_of
from audiossm.export.verify import TOLERANCE, babble, distance
from audiossm.mixers.base import State, part
from audiossm.streaming.generation.model import Generator
from audiossm.streaming.generation.onnx_engine import OnnxEngine
from audiossm.tasks import GenerationModel

STEPS = 2048  # that are compared, after as many that only make the state


def verify_generation(files: Generator, model: GenerationModel) -> float:
    """Return the largest difference of logits and states over their RMS; raise RuntimeError if it is too large.

    The codes are those of babble. The module hears them twice in parallel form; the second time the files hear them
    too, sample by sample, from the state that the module has then.
    """
    period = math.prod(model.config.pools)
    steps = -(-STEPS // period) * period
    audio = torch.from_numpy(babble(steps, model.config.rate or 16000)[0] * 2**15).clamp(-(2**15), 2**15 - 1)
    codes = model.coding.encode(audio.round().to(torch.int16)).unsqueeze(0)
    label = torch.tensor([len(model.config.classes) - 1]) if model.config.classes else None
    engine = OnnxEngine(files.facts, files.sessions, np.zeros(1, np.int64) if label is None else label.numpy())
    with torch.inference_mode():
        _, state = model(codes, label=label)
        give_state(engine, model, state)
        logits, last = model(codes, state, label=label)
    got = np.concatenate([engine.step(code).copy() for code in codes.T.numpy()])
    errors = [distance(got, logits[0].numpy()), state_distance(engine, model, last)]
    error = float(np.max(errors))  # keeps NaN
    if not error <= TOLERANCE:
        raise RuntimeError(
            f"the exported files differ from the module by {error:.1e} of the RMS, more than {TOLERANCE:.0e}: "
            "nothing was written; please report this"
        )
    return error


def states_of(model: GenerationModel, state: State) -> list[np.ndarray]:
    """Return a model's state as each tier packs it, (B, S_k); the phase is that of a whole period."""
    pooled = isinstance(model.backbone, SaShiMi)
    parts = [part(state, f"tiers.{k}") if pooled else state for k in range(len(tiers_of(model)))]
    return [tier.layers.pack(mine).numpy() for tier, mine in zip(tiers_of(model), parts, strict=True)]


def give_state(engine: OnnxEngine, model: GenerationModel, state: State) -> None:
    """Make an engine go on from a model's state after whole periods."""
    for buffer, mine in zip(engine.states, states_of(model, state), strict=True):
        buffer[:] = mine
    for k, rows in enumerate(engine.rows):
        rows[:] = state[f"up.{k}.group"].numpy()


def state_distance(engine: OnnxEngine, model: GenerationModel, state: State) -> float:
    """Return the largest distance of the tiers' states, and of the rows that they have said."""
    pairs = [
        (buffer[engine.turn(k)], mine)
        for k, (buffer, mine) in enumerate(zip(engine.states, states_of(model, state), strict=True))
    ]
    pairs += [(rows, state[f"up.{k}.group"].numpy()) for k, rows in enumerate(engine.rows)]
    return float(np.max([distance(got, want) for got, want in pairs]))

"""Golden vectors: what a model's files answer to a known input, for those who embed them in another language.

models/FORMAT.md says what is in them. Everything begins from zeros, as a stream does: the first frames or steps make
the state that the later ones are heard from.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from audiossm.export.verify import babble
from audiossm.streaming import Enhancer, Generator, Model, load
from audiossm.streaming.files import new_session, read_file
from audiossm.streaming.generation.onnx_engine import OnnxEngine
from audiossm.tasks.checkpoint import write_beside

FRAMES = 20
STEPS = 64  # at least, and at least three of the slowest tier
KEPT = 500  # floats of a state, or a few more: a whole one can be half a megabyte
RESULTS = {"keywords": "posteriors", "enhancement": "audio_out"}


def write_golden(model: str | Path, out: str | Path) -> None:
    """Run a model file, and those of its tiers, over a known input, and write inputs and outputs as JSON."""
    loaded = load(model)
    vectors = of_steps(loaded) if isinstance(loaded, Generator) else of_frames(loaded)
    write_beside(Path(out), (json.dumps(vectors) + "\n").encode())


def of_frames(model: Model | Enhancer) -> dict[str, Any]:
    """Return what a model that hears says of babble, frame by frame at its own rate."""
    meta = model.metadata
    session, result = new_session(read_file(model.name)), RESULTS[meta.task]
    audio = speech(FRAMES * meta.frame, meta.rate).round(5).reshape(FRAMES, 1, meta.frame)
    state, rows = np.zeros((1, meta.state_size), np.float32), []
    for frame in audio:
        row, state = session.run([result, "state_out"], {"audio": frame, "state": state})
        rows.append(row)
    return {
        "audio": numbers(audio[:, 0]),
        result: numbers(np.concatenate(rows)),
        "state_out": [sampled(state[0])],
    }


def of_steps(model: Generator) -> dict[str, Any]:
    """Return what a model that generates says after codes that are given to it, those of babble.

    The logits are those around the steps at which a tier is heard for the first time, and the last.
    """
    facts, period = model.facts, model.facts.periods[-1]
    count = period * max(3, -(-STEPS // period))
    codes = [facts.coding.start, *map(int, facts.coding.encode(speech(count - 1, facts.rate)))]
    steps = sorted({count - 1}.union(*({p - 1, p, p + 1} for p in facts.periods)))
    place = max(0, len(facts.classes) - 1)
    engine = OnnxEngine(facts, model.sessions, np.array([place]))
    logits = np.concatenate([engine.step(np.array([code])).copy() for code in codes])
    return {
        "codes": codes,
        **({"class": place} if facts.classes else {}),
        "steps": steps,
        "logits": numbers(logits[steps]),
        "state_out": [sampled(states[engine.turn(k), 0]) for k, states in enumerate(engine.states)],
    }


def speech(samples: int, rate: int) -> np.ndarray:
    """Return babble (samples,) that ends where a syllable is loudest: a sixteenth of a second into a quarter."""
    whole = -(-4 * samples // rate) / 4 + 1 / 16
    return babble(round(whole * rate), rate)[0, -samples:]


def sampled(state: np.ndarray) -> dict[str, Any]:
    """Return every n-th float of a state (S,). n is odd: it passes over no channel where their number is even."""
    stride = len(state) // KEPT | 1
    return {"stride": stride, "values": numbers(state[::stride])}


def numbers(values: np.ndarray) -> list[Any]:
    """Return nested lists of numbers with the seven digits of a float32."""
    if values.ndim > 1:
        return [numbers(row) for row in values]
    return [float(f"{x:.7g}") for x in values.tolist()]

"""Golden vectors: what a model file answers to known audio, for those who embed it in another language."""

import base64
import json
from pathlib import Path

import numpy as np

from audiossm.export.verify import babble
from audiossm.streaming import FrameClock, load_keywords
from audiossm.tasks.checkpoint import write_beside

FRAMES = 10


def write_golden(model: str | Path, out: str | Path) -> None:
    """Run a model file over a few frames from a state that is not zero, and write inputs and outputs as JSON.

    Keys: `audio` (frames, samples) and `posteriors` (frames, classes), numbers; `state` (S,) before the first frame and
    `state_out` (S,) after the last, base64 of little-endian float32. The rate is the native one.
    """
    loaded = load_keywords(model)
    meta = loaded.metadata
    session = loaded.sessions(FrameClock(meta.rate))[0]
    audio = babble(2 * FRAMES * meta.frame, meta.rate).round(5).reshape(2 * FRAMES, 1, meta.frame)
    state = np.zeros((1, meta.state_size), np.float32)
    rows, before = [], state
    for i, frame in enumerate(audio):
        before = state if i == FRAMES else before
        posteriors, state = session.run(["posteriors", "state_out"], {"audio": frame, "state": state})
        rows.append(posteriors[0])
    vectors = {
        "audio": [[round(float(x), 5) for x in frame[0]] for frame in audio[FRAMES:]],
        "state": encode(before),
        "posteriors": [[float(f"{x:.7g}") for x in row] for row in rows[FRAMES:]],
        "state_out": encode(state),
    }
    write_beside(Path(out), (json.dumps(vectors) + "\n").encode())


def encode(state: np.ndarray) -> str:
    """Return little-endian float32 as base64."""
    return base64.b64encode(state.astype("<f4").tobytes()).decode()

"""How fast models denoise on one thread of this CPU, by turns: ours, and any other ONNX file that goes frame by frame.

    python demos/denoise_speed.py                                      # the released ones
    python demos/denoise_speed.py dn.onnx denoise gtcrn_simple.onnx:16 # a peer, and the milliseconds of its frame

Ours are streams, with all that is done in Python. Of a peer it is the graph alone: its first input and output are the
frame, of one shape, the others its states in one order. Prints CPU time a frame and over the frame's length.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from audiossm.streaming import load_enhancer
from audiossm.streaming.files import bind, new_session, released_models

FRAMES = 20  # of a round
ROUNDS = 200


def ours(name: str) -> tuple[Callable[[], object], float]:
    """Return what runs a frame of one of our models, and the frame's seconds."""
    model = load_enhancer(name)
    stream, noise = model.stream(), make_noise((model.metadata.frame,))
    return lambda: stream.push(noise), model.metadata.frame_seconds


def peer(path: str, ms: float) -> tuple[Callable[[], object], float]:
    """Return what runs a frame of a file, with its states handed on, and the frame's seconds."""
    data = Path(path).read_bytes()
    try:
        session = new_session(data)
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        raise ValueError(f"{path} is not an ONNX file that ONNX Runtime can run") from error
    sides = session.get_inputs(), session.get_outputs()
    shapes = [[size if isinstance(size, int) else 1 for size in entry.shape] for entry in sides[0]]
    heard, states = make_noise(tuple(shapes[0])), [[np.zeros(shape, np.float32) for shape in shapes[1:]] for _ in "ab"]
    enhanced = np.zeros_like(heard)
    calls = []
    for before, after in (states, states[::-1]):
        arrays = [heard, *before, enhanced, *after]
        known = {entry.name: array for entry, array in zip((*sides[0], *sides[1]), arrays, strict=True)}
        calls.append((bind(session, known), known))  # the binding knows the arrays' addresses alone

    def run() -> None:
        session.run_with_iobinding(calls[0][0])
        calls.reverse()

    return run, ms / 1000


def make_noise(shape: tuple[int, ...]) -> np.ndarray:
    """Return what all models hear."""
    return np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)


def main(names: list[str]) -> None:
    """Run all models by turns and print a row for each."""
    runs = {}
    for name in names or released_models("enhancement"):
        path, _, ms = name.rpartition(":")
        runs[name] = peer(path, float(ms)) if path and ms.replace(".", "").isdigit() else ours(name)
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS + 1):
        for name, (run, _) in runs.items():
            begun = time.process_time()
            for _ in range(FRAMES):
                run()
            took[name].append(1e6 * (time.process_time() - begun) / FRAMES)
    for name, (_, seconds) in runs.items():
        us = took[name][1:]  # the first calls allocate
        figures = [(figure, 1e-6 * figure / seconds) for figure in (min(us), float(np.median(us)))]
        fastest, median = ("{:7.1f} us a frame, real-time factor {:.4f}".format(*pair) for pair in figures)
        print(f"{name}: fastest {fastest}; median {median}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None

"""A small real enhancement model that obeys models/FORMAT.md, written with onnx.helper, and its definition in NumPy.

Frames of 160 samples at 16 kHz, which come out 80 samples late through a one-pole smoother: the state holds both.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RATE, FRAME, DELAY = 16000, 160, 80
KEEP = 0.2  # of the smoother


def metadata() -> dict:
    return {
        "format": 2,
        "task": "enhancement",
        "rate": RATE,
        "frame": FRAME,
        "delay": DELAY,
        "latency": FRAME + DELAY,
        "encoder": "spectrum",
        "state": [{"name": "past", "shape": [DELAY], "offset": 0}, {"name": "y", "shape": [1], "offset": DELAY}],
        "params": 1,
        "training": {"data": "none"},
        "data_terms": "none",
    }


def build(path: Path, changes: dict | None = None) -> Path:
    """Write the model; `changes` replace metadata (None removes a key)."""
    powers = KEEP ** np.arange(FRAME + 1)
    lower = np.array([[powers[n - m] if n >= m else 0 for n in range(FRAME)] for m in range(FRAME)])
    constants = {"smooth": (1 - KEEP) * lower, "fade": powers[None, 1:]}
    n = helper.make_node
    nodes = [
        n("Split", ["state", "parts"], ["past", "y"], axis=1),
        n("Concat", ["past", "audio"], ["held"], axis=1),
        n("Split", ["held", "halves"], ["late", "past_out"], axis=1),
        n("MatMul", ["late", "smooth"], ["new"]),
        n("MatMul", ["y", "fade"], ["old"]),
        n("Add", ["new", "old"], ["audio_out"]),
        n("Split", ["audio_out", "last"], ["before", "y_out"], axis=1),
        n("Concat", ["past_out", "y_out"], ["state_out"], axis=1),
    ]
    integers = {"parts": [DELAY, 1], "halves": [FRAME, DELAY], "last": [FRAME - 1, 1]}
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    initializers += [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in integers.items()]

    def values(*names):
        sizes = {"audio": FRAME, "audio_out": FRAME, "state": DELAY + 1, "state_out": DELAY + 1}
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", sizes[name]]) for name in names]

    graph = helper.make_graph(nodes, "tiny", values("audio", "state"), values("audio_out", "state_out"), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    facts = {name: fact for name, fact in (metadata() | (changes or {})).items() if fact is not None}
    helper.set_model_props(model, {"audiossm": json.dumps(facts)})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def reference(audio: np.ndarray) -> np.ndarray:
    """The same model from its definition, without its delay: (n, ...) at 16 kHz to the same shape."""
    y, rows = np.zeros(audio.shape[1:]), []
    for u in audio:
        y = KEEP * y + (1 - KEEP) * u
        rows.append(y)
    return np.array(rows).reshape(audio.shape)

"""A small real model that obeys models/FORMAT.md, written with onnx.helper, and its definition in NumPy.

Three channels of two modes listen at 500, 1500 and 3000 Hz. After each frame the mean log power of a channel
goes through a leaky memory, and a softmax tells `low`, `high`, `_noise_` and `_silence_`.
"""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from audiossm.streaming import Filterbank, FrameClock, rate_constants

C, M, R = 3, 2, 2
TICK = 0.005
LABELS = ["low", "high", "_noise_", "_silence_"]
KEEP = 0.8  # of the leaky memory, a frame
FLOOR = 1e-6
MIX = np.array([[1.0, -0.4, -0.4, -1], [-0.4, 1.0, -0.4, -1], [-0.4, -0.4, 1.0, -1]], np.float32)
BIAS = np.array([0, 0, 0, -21], np.float32)

_hz, _width = np.array([[500.0], [1500], [3000]]), np.array([[250.0, 400]])
POLES = -_width - 0.05 * _hz + 2j * np.pi * _hz * np.array([[1.0, 1.02]])
WEIGHTS = -POLES.real * np.exp(1j * np.array([[0.0, 0.3]]))
BANK = Filterbank(POLES, WEIGHTS, R)


def metadata() -> dict:
    return {
        "format": 2,
        "task": "keywords",
        "rate": 16000,
        "frame": 320,
        "tick": TICK,
        "frame_ticks": 4,
        "latency": 320,
        "state": [
            {"name": "modes", "shape": [2, M, C], "offset": 0},
            {"name": "memory", "shape": [C], "offset": C * M * 2},
        ],
        "labels": LABELS,
        "detector": {"smoothing": 0.1, "threshold": 0.6, "refractory": 0.3},
        "filterbank": {"poles": pairs(POLES), "weights": pairs(WEIGHTS), "readouts": R},
        "params": 42,
        "training": {"data": "none"},
        "data_terms": "none [written by hand]",
    }


def pairs(values: np.ndarray) -> list:
    return np.stack([values.real, values.imag], -1).tolist()


def rotation(values: np.ndarray) -> np.ndarray:
    """The real 2 x 2 matrix, for row vectors [re, im], of multiplying by each complex value: (..., 2, 2)."""
    re, im = values.real, values.imag
    return np.stack([np.stack([re, im], -1), np.stack([-im, re], -1)], -2)


def build(path: Path, changes: dict | None = None, key: str = "audiossm") -> Path:
    """Write the model; `changes` replace metadata (None removes a key)."""
    modes = 2 * M * C
    decay, read = np.zeros((2, M, C, 2, M, C)), np.zeros((2, M, C, R, 2, C))
    for c in range(C):
        for m in range(M):
            decay[:, m, c, :, m, c] = rotation(np.exp(POLES[c, m] * TICK))
            for r in range(R):
                read[:, m, c, r, :, c] = rotation(WEIGHTS[c, m] * np.exp(POLES[c, m] * TICK * (r + 1) / R))
    clock = FrameClock(16000)
    constants = {
        **rate_constants(BANK, clock),
        "decay": decay.reshape(modes, modes),
        "read": read.reshape(modes, -1),
        "mix": MIX,
        "bias": BIAS,
        "keep": np.array(KEEP),
        "gain": np.array((1 - KEEP) / 4),
        "floor": np.array(FLOOR),
    }
    integers = {
        "one": [1],
        "two": [2],
        "rows": [0, -1, modes + R * 2 * C],  # 0 keeps the batch
        "parts": [modes, C],
        "columns": [modes, R * 2 * C],
        "complex": [0, R, 2, C],
    }
    n = helper.make_node
    nodes = [
        n("Gather", ["audio", "windows"], ["cut"], axis=1),  # (B, 4, W)
        n("MatMul", ["cut", "taps"], ["in_all_phases"]),  # (B, 4, P K)
        n("Reshape", ["in_all_phases", "rows"], ["by_phase"]),  # (B, 4 P, K)
        n("Gather", ["by_phase", "picked"], ["driven"], axis=1),  # (B, 4, K)
        n("Split", ["state", "parts"], ["x0", "memory"], axis=1),
    ]
    for i in range(4):
        nodes += [
            n("Gather", ["driven", f"index{i}"], [f"tick{i}"], axis=1),  # (B, K)
            n("Split", [f"tick{i}", "columns"], [f"in{i}", f"out{i}"], axis=1),
            n("MatMul", [f"x{i}", "read"], [f"free{i}"]),
            n("Add", [f"free{i}", f"out{i}"], [f"y{i}"]),
            n("Mul", [f"y{i}", f"y{i}"], [f"square{i}"]),
            n("Reshape", [f"square{i}", "complex"], [f"pair{i}"]),
            n("ReduceSum", [f"pair{i}", "two"], [f"power{i}"], keepdims=0),  # (B, R, C)
            n("Add", [f"power{i}", "floor"], [f"above{i}"]),
            n("Log", [f"above{i}"], [f"log{i}"]),
            n("MatMul", [f"x{i}", "decay"], [f"left{i}"]),
            n("Add", [f"left{i}", f"in{i}"], [f"x{i + 1}"]),
        ]
        constants[f"index{i}"] = np.array(i)
    nodes += [
        n("Sum", [f"log{i}" for i in range(4)], ["sum"]),
        n("ReduceMean", ["sum", "one"], ["level"], keepdims=0),  # (B, C)
        n("Mul", ["memory", "keep"], ["kept"]),
        n("Mul", ["level", "gain"], ["new"]),
        n("Add", ["kept", "new"], ["memory_out"]),
        n("MatMul", ["memory_out", "mix"], ["mixed"]),
        n("Add", ["mixed", "bias"], ["logits"]),
        n("Softmax", ["logits"], ["posteriors"], axis=1),
        n("Concat", ["x4", "memory_out"], ["state_out"], axis=1),
    ]
    initializers = [
        numpy_helper.from_array(value if value.dtype.kind == "i" else np.asarray(value, np.float32), name)
        for name, value in constants.items()
    ] + [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in integers.items()]
    value = helper.make_tensor_value_info
    size = modes + C
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            value("audio", TensorProto.FLOAT, ["batch", "samples"]),
            value("state", TensorProto.FLOAT, ["batch", size]),
        ],
        [
            value("posteriors", TensorProto.FLOAT, ["batch", len(LABELS)]),
            value("state_out", TensorProto.FLOAT, ["batch", size]),
        ],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    facts = {name: fact for name, fact in (metadata() | (changes or {})).items() if fact is not None}
    helper.set_model_props(model, {key: json.dumps(facts)})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def reference(audio: np.ndarray, rate: int) -> np.ndarray:
    """The same model from its definition: the held signal through x' = p x + u in float64, exactly.

    audio: (n,), rate: a multiple of 25 Hz -> posteriors (whole frames, classes).
    """
    centre = POLES.imag.mean(1) / (2 * np.pi)
    gain = np.where(centre < rate / 2, 1 / np.sinc(np.minimum(centre / rate, 0.5)), 0)[:, None]
    frames = len(audio) * 50 // rate
    reads = [Fraction(i + 1, 200 * R) for i in range(frames * 4 * R)]
    samples = [Fraction(i, rate) for i in range(1, len(audio))]
    x, now, sample, seen = np.zeros((C, M), complex), Fraction(0), 0, set(reads)
    y = []
    for then in sorted(seen.union(samples)):
        if len(y) == len(reads):
            break
        decay = np.exp(POLES * float(then - now))
        x = decay * x + (decay - 1) / POLES * gain * audio[sample]
        now = then
        if then in seen:
            y.append((x * WEIGHTS).sum(1))
        sample = int(then * rate)
    power = np.log(np.abs(np.array(y)) ** 2 + FLOOR)  # (frames 4 R, C)
    memory, result = np.zeros(C), []
    for level in power.reshape(frames, 4 * R, C).mean(1):
        memory = KEEP * memory + (1 - KEEP) * level
        logits = memory @ MIX + BIAS
        result.append(np.exp(logits - logits.max()))
        result[-1] /= result[-1].sum()
    return np.array(result)

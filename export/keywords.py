"""A trained keyword model -> one ONNX file that hears every rate (models/FORMAT.md)."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from audiossm.export.frame import KeywordFrame, unstreamable
from audiossm.export.graph import to_onnx
from audiossm.export.verify import verify
from audiossm.mixers.filterbank import TICK, TICKS_PER_SECOND
from audiossm.streaming.metadata import FORMAT, KEY, DetectorSettings, Metadata
from audiossm.streaming.taps import FRAME_TICKS, FrameClock, taps, windows
from audiossm.tasks import KeywordModel
from audiossm.tasks.checkpoint import load_model, parameter_count, write_beside

DETECTOR = DetectorSettings(smoothing=0.25, threshold=0.6, refractory=0.6)


@dataclass(frozen=True)
class Exported:
    """What was written: the file, its nodes, and how far it is from the module, relative to the RMS."""

    path: Path
    bytes: int
    nodes: int
    error: float


def export_keywords(
    run: str | Path,
    out: str | Path,
    rate: int | None = None,
    data_terms: str = "not stated",
    detector: DetectorSettings = DETECTOR,
) -> Exported:
    """Write the model of a run folder as an ONNX file, once it is shown to equal the module.

    Args:
        run: folder that `audiossm train` left.
        out: file to write; it appears only if the verification passes.
        rate: bake in another sampling rate in Hz, for engines that cannot feed `taps`; None keeps the native one.
        data_terms: what the licence of the training data permits, kept in the file.
        detector: how probabilities become events.

    Raises:
        FileNotFoundError, ValueError: the run or the rate is not as it should be.
        RuntimeError: the file computes something else than the module.
    """
    out = Path(out)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"no folder {out.parent} to write {out.name} into")
    model, training = load_model(run)
    proto = build(model, training, rate, data_terms, detector)
    error = verify(proto, model, model.config.rate if rate is None else rate)
    data = proto.SerializeToString()
    write_beside(out, data)
    return Exported(out, len(data), len(proto.graph.node), error)


def build(
    model: KeywordModel,
    training: dict[str, Any],
    rate: int | None,
    data_terms: str,
    detector: DetectorSettings,
) -> onnx.ModelProto:
    """Return the ONNX model: taps in front of the frame, and everything a runtime needs in the metadata."""
    missing = unstreamable(model)
    if missing:
        raise ValueError(f"this model cannot be streamed: {', '.join(missing)} needs the future")
    rate = model.config.rate if rate is None else rate
    frame = KeywordFrame(model)
    facts = metadata(model, frame, training, rate, data_terms, detector)
    bank = Metadata.parse(json.dumps(facts)).filterbank
    clock = FrameClock(rate)
    at_rate = taps(bank, clock)
    sample = (torch.randn(2, FRAME_TICKS, at_rate.shape[-1]), torch.randn(2, frame.layout.size))
    proto = to_onnx(frame, sample, ["seen", "state"], ["posteriors", "state_out"])
    add_taps(proto, at_rate, windows(clock))
    proto.producer_name = "audiossm"
    proto.producer_version = proto.doc_string = ""
    helper.set_model_props(proto, {KEY: json.dumps(facts)})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def metadata(
    model: KeywordModel,
    frame: KeywordFrame,
    training: dict[str, Any],
    rate: int,
    data_terms: str,
    detector: DetectorSettings,
) -> dict[str, Any]:
    """Return the JSON object of models/FORMAT.md."""
    samples, rest = divmod(rate * FRAME_TICKS, TICKS_PER_SECOND)
    if rest:
        raise ValueError(
            f"a frame of {1000 * FRAME_TICKS * TICK:g} ms is not a whole number of samples at {rate} Hz, so that rate "
            "cannot be baked in; export without --rate: audiossm's runtime hears every rate"
        )
    encoder = model.encoder
    return {
        "format": FORMAT,
        "task": "keywords",
        "rate": rate,
        "frame": samples,
        "tick": TICK,
        "frame_ticks": FRAME_TICKS,
        "latency": samples,
        "state": [{"name": n, "shape": list(s), "offset": o} for n, s, o in frame.layout.parts],
        "labels": list(model.config.labels),
        "detector": asdict(detector),
        "filterbank": {
            "poles": encoder.poles().detach().double().tolist(),
            "weights": encoder.weights().detach().double().tolist(),
            "readouts": encoder.readouts,
        },
        "params": parameter_count(model),
        "training": training,
        "data_terms": data_terms,
    }


def add_taps(proto: onnx.ModelProto, values: np.ndarray, indices: np.ndarray) -> None:
    """Put the filterbank's taps before the graph's input `seen` (B, 4, K), which makes `audio` its input.

    `taps` (P, W, K) and `windows` (P, Q, W) are inputs with a default. Tick q P + p of a frame is row q of phase p.
    """
    graph = proto.graph
    seen = next(i for i, entry in enumerate(graph.input) if entry.name == "seen")
    del graph.input[seen]
    shape = numpy_helper.from_array(np.array([0, FRAME_TICKS, values.shape[-1]]), "seen_shape")
    before = [
        helper.make_node("Gather", ["audio", "windows"], ["cut"], axis=1),  # (B, P, Q, W)
        helper.make_node("MatMul", ["cut", "taps"], ["by_phase"]),  # (B, P, Q, K)
        helper.make_node("Transpose", ["by_phase"], ["in_time"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["in_time", "seen_shape"], ["seen"]),
    ]
    after = list(graph.node)
    del graph.node[:]
    graph.node.extend([*before, *after])
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    graph.input.insert(0, helper.make_tensor_value_info("audio", TensorProto.FLOAT, [batch, "samples"]))
    kinds = {
        "taps": (TensorProto.FLOAT, ["P", "W", values.shape[-1]]),
        "windows": (TensorProto.INT64, ["P", "Q", "W"]),
    }
    graph.input.extend(helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items())
    graph.initializer.extend(
        [shape, numpy_helper.from_array(values, "taps"), numpy_helper.from_array(indices, "windows")]
    )

"""A trained keyword model -> one ONNX file that hears every rate (models/FORMAT.md)."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from audiossm.export.frame import KeywordFrame, StateLayout, WaveformFrame, unstreamable
from audiossm.export.graph import to_onnx
from audiossm.export.verify import verify
from audiossm.mixers import Filterbank, Mixer
from audiossm.mixers.filterbank import TICK, TICKS_PER_SECOND
from audiossm.streaming.metadata import FORMAT, KEY, DetectorSettings, Metadata
from audiossm.streaming.taps import FRAME_TICKS, FrameClock, rate_constants
from audiossm.tasks import KeywordModel
from audiossm.tasks.checkpoint import load_model, parameter_count, write_beside


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
    detector: DetectorSettings | None = None,
) -> Exported:
    """Write the model of a run folder as an ONNX file, once it is shown to equal the module.

    Args:
        run: folder that `audiossm train` left.
        out: file to write; it appears only if the verification passes.
        rate: bake in another sampling rate in Hz: for engines that cannot exchange constants, and for a model on
            the raw waveform, whose file hears one rate alone; None keeps the native one.
        data_terms: what the licence of the training data permits, kept in the file.
        detector: how probabilities become events; None takes the defaults, for `audiossm tune` to better.

    Raises:
        FileNotFoundError, ValueError: the run or the rate is not as it should be.
        RuntimeError: the file computes something else than the module.
    """
    out = Path(out)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"no folder {out.parent} to write {out.name} into")
    model, training = load_model(run)
    proto = build(model, training, rate, data_terms, detector or DetectorSettings())
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
    """Return the ONNX model: a filterbank's taps, the frame, and everything a runtime needs in the metadata."""
    missing = unstreamable(model)
    if missing:
        raise ValueError(f"this model cannot be streamed: {', '.join(missing)} needs the future")
    clock = FrameClock(model.config.rate if rate is None else rate)
    layout = StateLayout(model)
    facts = metadata(model, layout, training, clock, data_terms, detector)
    bank = Metadata.parse(json.dumps(facts)).filterbank
    state, outputs = torch.randn(2, layout.size), ["posteriors", "state_out"]
    if bank is None:
        audio = torch.randn(2, clock.samples)
        proto = to_onnx(WaveformFrame(model, clock.rate), (audio, state), ["audio", "state"], outputs)
    else:
        channels, modes = bank.poles.shape
        seen = torch.randn(2, FRAME_TICKS, 2 * channels * (modes + bank.readouts))
        proto = to_onnx(KeywordFrame(model), (seen, state), ["seen", "state"], outputs)
        add_taps(proto, rate_constants(bank, clock))
    proto.producer_name = "audiossm"
    proto.producer_version = proto.doc_string = ""
    helper.set_model_props(proto, {KEY: json.dumps(facts)})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def metadata(
    model: KeywordModel,
    layout: StateLayout,
    training: dict[str, Any],
    clock: FrameClock,
    data_terms: str,
    detector: DetectorSettings,
) -> dict[str, Any]:
    """Return the JSON object of models/FORMAT.md."""
    if clock.rate * FRAME_TICKS % TICKS_PER_SECOND:
        raise ValueError(
            f"a frame of {1000 * FRAME_TICKS * TICK:g} ms is not a whole number of samples at {clock.rate} Hz, so that "
            "rate cannot be baked in: give a multiple of 50 Hz, or leave out --rate for the model's own"
        )
    return {
        "format": FORMAT,
        "task": "keywords",
        "rate": clock.rate,
        "frame": clock.samples,
        "tick": TICK,
        "frame_ticks": FRAME_TICKS,
        "latency": clock.samples,
        "state": layout.described(),
        "labels": list(model.config.labels),
        "detector": asdict(detector),
        "filterbank": filters(model.encoder),
        "params": parameter_count(model),
        "training": training,
        "data_terms": data_terms,
    }


def filters(encoder: Mixer) -> dict[str, Any] | None:
    """Return a filterbank as a file tells it; None for an encoder that hears the rate of the file alone."""
    if not isinstance(encoder, Filterbank):
        return None
    poles, weights = (pair.detach().double().tolist() for pair in (encoder.poles(), encoder.weights()))
    return {"poles": poles, "weights": weights, "readouts": encoder.readouts}


def add_taps(proto: onnx.ModelProto, at_rate: dict[str, np.ndarray]) -> None:
    """Put the filterbank's taps before the graph's input `seen` (B, 4, K), which makes `audio` its input.

    `windows`, `taps` and `picked` are the constants that another rate exchanges.
    """
    graph = proto.graph
    seen = next(i for i, entry in enumerate(graph.input) if entry.name == "seen")
    columns = graph.input[seen].type.tensor_type.shape.dim[2].dim_value
    del graph.input[seen]
    before = [
        helper.make_node("Gather", ["audio", "windows"], ["cut"], axis=1),  # (B, 4, W)
        helper.make_node("MatMul", ["cut", "taps"], ["in_all_phases"]),  # (B, 4, P K)
        helper.make_node("Reshape", ["in_all_phases", "rows"], ["by_phase"]),  # (B, 4 P, K)
        helper.make_node("Gather", ["by_phase", "picked"], ["seen"], axis=1),
    ]
    after = list(graph.node)
    del graph.node[:]
    graph.node.extend([*before, *after])
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    graph.input.insert(0, helper.make_tensor_value_info("audio", TensorProto.FLOAT, [batch, "samples"]))
    rows = np.array([0, -1, columns])  # 0 keeps the batch
    graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in {"rows": rows, **at_rate}.items()
    )

"""A trained enhancement model -> one ONNX file, verified against the module (models/FORMAT.md)."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from audiossm.export.enhancement_frame import frame_of
from audiossm.export.frame import unstreamable
from audiossm.export.generation import stamp
from audiossm.export.graph import to_onnx
from audiossm.export.keywords import Exported
from audiossm.export.packing import Packing
from audiossm.export.verify import babble, checked, distance, state_distance
from audiossm.streaming.files import new_session
from audiossm.streaming.metadata import FORMAT
from audiossm.tasks.checkpoint import load_model, parameter_count, write_beside
from audiossm.tasks.enhancement import EnhancementModel

SECONDS = 4.06  # of audio that are compared, after as many that only make the state; it ends within a syllable


def export_enhancement(run: str | Path, out: str | Path, data_terms: str = "not stated") -> Exported:
    """Write the model of a run folder as an ONNX file, once it is shown to equal the module.

    Args:
        run: folder that `audiossm train enhance` left.
        out: file to write; it appears only if the verification passes.
        data_terms: what the licence of the training data permits, kept in the file.

    Raises:
        FileNotFoundError, ValueError: the run is not as it should be, or its model cannot be a file.
        RuntimeError: the file computes something else than the module.
    """
    out = Path(out)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"no folder {out.parent} to write {out.name} into")
    model, training = load_model(run, EnhancementModel)
    proto = build_enhancement(model, training, data_terms)
    data = proto.SerializeToString()
    error = verify_enhancement(data, model)
    write_beside(out, data)
    return Exported(out, len(data), len(proto.graph.node), error)


def build_enhancement(model: EnhancementModel, training: dict[str, Any], data_terms: str) -> onnx.ModelProto:
    """Return the ONNX model, with everything a runtime needs in the metadata."""
    missing = unstreamable(model)
    if missing:
        raise ValueError(f"this model cannot be streamed: {', '.join(missing)} needs the future")
    frame = frame_of(model)
    sample = torch.randn(2, model.frame), torch.randn(2, frame.packing.size)
    proto = to_onnx(frame, sample, ["audio", "state"], ["audio_out", "state_out"])
    stamp(proto, metadata(model, frame.packing, training, data_terms))
    return proto


def metadata(model: EnhancementModel, packing: Packing, training: dict[str, Any], data_terms: str) -> dict[str, Any]:
    """Return the JSON object of models/FORMAT.md."""
    return {
        "format": FORMAT,
        "task": model.task,
        "rate": model.config.rate,
        "frame": model.frame,
        "delay": model.delay,
        "latency": model.latency,
        "encoder": model.config.encoder,
        "state": packing.described(),
        "params": parameter_count(model),
        "training": training,
        "data_terms": data_terms,
    }


def verify_enhancement(data: bytes, model: EnhancementModel) -> float:
    """Return the largest difference of audio and states over their RMS; raise RuntimeError if it is too large.

    Both hear the same babble, the module twice in parallel form; the second time the file hears it too, frame by frame,
    from the state that the module has then.
    """
    session, frame = new_session(data), frame_of(model)
    count = round(SECONDS * model.config.rate / model.frame)
    audio = babble(count * model.frame, model.config.rate)
    with torch.inference_mode():
        u = torch.from_numpy(audio).unsqueeze(-1)
        _, state = model(u)
        packed = frame.pack(state).numpy()
        y, last = model(u, state)
    got = []
    for piece in np.split(audio, count, axis=1):
        enhanced, packed = session.run(["audio_out", "state_out"], {"audio": piece, "state": packed})
        got.append(enhanced)
    states = state_distance(frame.packing, packed, frame.pack(last).numpy())
    return checked(distance(np.concatenate(got, axis=1), y.squeeze(-1).numpy()), states)

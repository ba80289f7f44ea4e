"""Is the file the module? Both hear the same audio, frame by frame, from the same state that is not zero."""

import json

import numpy as np
import onnx
import onnxruntime
import torch

from audiossm.export.frame import StateLayout
from audiossm.export.packing import Packing
from audiossm.streaming.metadata import KEY
from audiossm.tasks import KeywordModel

SECONDS = 4.0
TOLERANCE = 1e-4


def verify(proto: onnx.ModelProto, model: KeywordModel, rate: int) -> float:
    """Return the largest difference of posteriors and states over their RMS; raise RuntimeError if it is too large.

    The audio is babble made from a fixed seed: bursts with speech's spectrum and rhythm, with pauses. It is heard
    twice, so that the comparison begins from a state that is not zero.
    """
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
    )
    facts = json.loads({p.key: p.value for p in proto.metadata_props}[KEY])
    layout = StateLayout(model)
    audio = babble(round(SECONDS * rate), rate)
    with torch.inference_mode():
        _, state = model(torch.from_numpy(audio).unsqueeze(-1), rate=rate)
        packed = layout.pack(state).numpy()
        logits, last = model(torch.from_numpy(audio).unsqueeze(-1), state, rate=rate)
    want = logits.softmax(-1)[0].numpy()
    got = []
    for frame in audio.reshape(1, -1, facts["frame"]).swapaxes(0, 1):
        posteriors, packed = session.run(["posteriors", "state_out"], {"audio": frame, "state": packed})
        got.append(posteriors)
    states = state_distance(layout, packed, layout.pack(last).numpy())
    return checked(distance(np.concatenate(got), want), states)


def checked(*errors: float) -> float:
    """Return the largest error; RuntimeError where it is more than a file may have."""
    error = float(np.max(errors))  # keeps NaN
    if not error <= TOLERANCE:
        raise RuntimeError(
            f"the exported file differs from the module by {error:.1e} of the RMS, more than {TOLERANCE:.0e}: "
            "nothing was written; please report this"
        )
    return error


def state_distance(packing: Packing, got: np.ndarray, want: np.ndarray) -> float:
    """Return the largest distance of a packed state's parts: their scales differ."""
    ends = [offset for _, _, offset in packing.parts][1:]
    return float(np.max([distance(a, b) for a, b in zip(np.split(got, ends, 1), np.split(want, ends, 1), strict=True)]))


def distance(got: np.ndarray, want: np.ndarray) -> float:
    """Return the RMS of the difference over the RMS of what is wanted."""
    return float(np.sqrt(np.square(got - want).mean() / np.square(want).mean()))


def babble(samples: int, rate: int) -> np.ndarray:
    """Return (1, samples) float32: noise with speech's slope (-6 dB an octave), in syllables of a quarter second."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    hertz = np.fft.rfftfreq(samples, 1 / rate)
    noise = np.fft.irfft(spectrum / (1 + hertz / 500), samples)
    rhythm = np.clip(np.sin(2 * np.pi * 4 * np.arange(samples) / rate), 0, None)
    return (0.1 * noise / noise.std() * rhythm).astype(np.float32)[None]


def session_options() -> onnxruntime.SessionOptions:
    """One thread and no warnings."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return options

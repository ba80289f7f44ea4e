"""Load a model file. What it returns is shared and read-only: open any number of streams on it."""

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
import onnxruntime

from audiossm.streaming.constants import constant_names, with_constants
from audiossm.streaming.metadata import KEY, Metadata
from audiossm.streaming.stream import KeywordStream
from audiossm.streaming.taps import FrameClock, rate_constants

INPUTS = {"audio", "state"}
OUTPUTS = {"posteriors", "state_out"}
RATE_CONSTANTS = {"windows", "taps", "picked"}  # what another rate exchanges, in a file with a filterbank


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model. `name` is what was asked for, `metadata` what the file says about itself."""

    name: str
    metadata: Metadata
    data: bytes = field(repr=False)
    _sessions: dict[int, list[onnxruntime.InferenceSession]] = field(default_factory=dict, repr=False)

    def sessions(self, clock: FrameClock) -> list[onnxruntime.InferenceSession]:
        """Return what runs a frame at a rate, made when it is first asked for: one session for each kind of frame.

        A file holds the taps of its own rate; at another the same graph gets others. A file without a filterbank hears
        its own rate alone: ValueError.
        """
        if clock.grid not in self._sessions:
            bank = self.metadata.filterbank
            if bank is None:
                raise ValueError(
                    f"{self.name} hears {self.metadata.rate} Hz alone, not {clock.rate} Hz: `audiossm export RUN "
                    "--rate R` makes a file for another rate, a multiple of 50 Hz"
                )
            self._sessions[clock.grid] = [
                _session(with_constants(self.data, rate_constants(bank, clock, frame))) for frame in range(clock.period)
            ]
        return self._sessions[clock.grid]

    def stream(self, rate: int | None = None) -> KeywordStream:
        """Open a stream for audio at `rate` Hz (whole, 4000 to 192000); None is the model's own rate."""
        return KeywordStream(self, rate)


def load(path_or_name: str | Path) -> Model:
    """Load a model from a path, or a released model by its name."""
    name = str(path_or_name)
    data = _read(name)
    try:
        session = _session(data)
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        raise ValueError(
            f"{name} is not an ONNX file that ONNX Runtime {onnxruntime.__version__} can run: {_first_line(error)}"
        ) from error
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise ValueError(
            f"{name} is not an audiossm model: it has no metadata {KEY!r}; make one with `audiossm export`"
        )
    try:
        metadata = Metadata.parse(text)
        _check_graph(session, constant_names(data), metadata)
    except ValueError as error:
        raise ValueError(f"cannot use {name}: {error}") from None
    return Model(name, metadata, data, {metadata.rate: [session]})


def released_models() -> list[str]:
    """Names of the models that came with the package."""
    return sorted(
        entry.name for entry in resources.files("audiossm.models").iterdir() if (entry / "model.onnx").is_file()
    )


def _read(name: str) -> bytes:
    path = Path(name)
    if path.is_file():
        return path.read_bytes()
    released = released_models()
    if name in released:
        return (resources.files("audiossm.models") / name / "model.onnx").read_bytes()
    known = ", ".join(released) or "none in this installation"
    problem = f"{name} is a folder" if path.is_dir() else f"there is no file {name}"
    raise FileNotFoundError(f"{problem}, and no released model has that name (released models: {known})")


def _session(data: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(data, _options(), providers=["CPUExecutionProvider"])


def _options() -> onnxruntime.SessionOptions:
    """One thread that does not spin, and no denormals: in silence a decaying state would crawl in them.

    ONNX Runtime turns denormals off in the thread that makes the process's first session, and so in those
    that this thread starts later. NumPy warns when it first looks at the limits of a type there, so it looks
    before.
    """
    np.finfo(np.float32), np.finfo(np.float64)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.log_severity_level = 4  # what goes wrong is raised; a second report on stderr only confuses
    return options


def _check_graph(session: onnxruntime.InferenceSession, constants: set[str], metadata: Metadata) -> None:
    """Compare the graph's inputs, outputs and constants with what is promised, before binding to them."""
    inputs = {tensor.name: tensor.shape for tensor in session.get_inputs()}
    outputs = {tensor.name: tensor.shape for tensor in session.get_outputs()}
    exchanged = RATE_CONSTANTS if metadata.filterbank is not None else set()
    missing = (INPUTS - inputs.keys()) | (OUTPUTS - outputs.keys()) | (exchanged - constants)
    if missing:
        raise ValueError(f"its graph lacks {', '.join(sorted(missing))}; export the model again")
    promised = {
        "state": metadata.state_size,
        "state_out": metadata.state_size,
        "posteriors": len(metadata.labels),
    }
    for name, size in promised.items():
        shape = (inputs | outputs)[name]
        if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != size):
            raise ValueError(f"its {name} has shape {shape} where the metadata says (batch, {size})")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

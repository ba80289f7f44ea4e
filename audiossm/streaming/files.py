"""Model files: where they are, how ONNX Runtime opens them, and what they say they are."""

import json
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
import onnxruntime

from audiossm.streaming.constants import metadata_text
from audiossm.streaming.metadata import KEY


def shelf() -> Traversable:
    """Where the models are that came with the package, a folder each."""
    return resources.files("audiossm.models")


def released_models(task: str | None = None) -> list[str]:
    """Names of the models that came with the package; of those for a task, where one is given."""
    names = sorted(entry.name for entry in shelf().iterdir() if (entry / "model.onnx").is_file())
    return [name for name in names if task is None or task_of(name) == task]


def read_file(name: str, file: str = "model.onnx", task: str | None = None) -> bytes:
    """Return the bytes of a model: of the file at a path, or of a released model of that name.

    file: which of a released model's files. task: whose released models a FileNotFoundError names; None: of all.
    """
    path = Path(name)
    if path.is_file():
        return path.read_bytes()
    if name in released_models():
        return (shelf() / name / file).read_bytes()
    known = ", ".join(released_models(task)) or "none in this installation"
    kind = f"released models for {task}" if task else "released models"
    problem = f"{name} is a folder" if path.is_dir() else f"there is no file {name}"
    raise FileNotFoundError(f"{problem}, and no released model has that name ({kind}: {known})")


def task_of(name: str) -> str:
    """Return the task that a model file says it is for, "" where it says none; FileNotFoundError if there is none."""
    try:
        facts = json.loads(metadata_text(read_file(name), KEY) or "{}")
    except (ValueError, IndexError, KeyError):  # no ONNX file at all: loading it says so
        return ""
    return str(facts.get("task", "")) if isinstance(facts, dict) else ""


def new_session(data: bytes) -> onnxruntime.InferenceSession:
    """Open a model in ONNX Runtime."""
    return onnxruntime.InferenceSession(data, session_options(), providers=["CPUExecutionProvider"])


def session_options() -> onnxruntime.SessionOptions:
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


def open_file(name: str, data: bytes) -> tuple[onnxruntime.InferenceSession, str]:
    """Return a session on a file's bytes, and its metadata text; ValueError where it is no file of ours."""
    try:
        session = new_session(data)
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        raise ValueError(
            f"{name} is not an ONNX file that ONNX Runtime {onnxruntime.__version__} can run: {_first_line(error)}"
        ) from error
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise ValueError(
            f"{name} is not an audiossm model: it has no metadata {KEY!r}; make one with `audiossm export`"
        )
    return session, text


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def bind(session: onnxruntime.InferenceSession, known: dict[str, np.ndarray]) -> onnxruntime.IOBinding:
    """Bind a graph's inputs and outputs to arrays by their addresses, so that a call allocates nothing."""
    binding = session.io_binding()
    for entries, bound in ((session.get_inputs(), binding.bind_input), (session.get_outputs(), binding.bind_output)):
        for entry in entries:
            array = known[entry.name]
            bound(entry.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    return binding

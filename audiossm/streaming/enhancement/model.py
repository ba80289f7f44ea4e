"""Load an enhancement model. What it returns is shared and read-only: open any number of streams on it."""

from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime

from audiossm.streaming.enhancement.facts import EnhancementFacts
from audiossm.streaming.enhancement.stream import EnhancementStream
from audiossm.streaming.files import open_file, read_file


@dataclass(frozen=True, eq=False)
class Enhancer:
    """A loaded model. `name` is what was asked for, `metadata` what the file says about itself."""

    name: str
    metadata: EnhancementFacts
    session: onnxruntime.InferenceSession = field(repr=False)

    def stream(self, rate: int | None = None, strength: float = 1.0) -> EnhancementStream:
        """Open a stream; the arguments are those of `EnhancementStream`."""
        return EnhancementStream(self, rate, strength)


def load_enhancer(path_or_name: str | Path) -> Enhancer:
    """Load an enhancement model from a path, or a released one by its name."""
    name = str(path_or_name)
    session, text = open_file(name, read_file(name, task="enhancement"))
    try:
        facts = EnhancementFacts.parse(text, name)
        _check_graph(session, facts)
    except ValueError as error:
        raise ValueError(f"cannot use {name}: {error}") from None
    return Enhancer(name, facts, session)


def _check_graph(session: onnxruntime.InferenceSession, facts: EnhancementFacts) -> None:
    """Compare the graph's inputs and outputs with what is promised, before binding to them."""
    samples, state = facts.frame, facts.state_size
    promised = {"audio": samples, "state": state, "audio_out": samples, "state_out": state}
    shapes = {tensor.name: tensor.shape for tensor in (*session.get_inputs(), *session.get_outputs())}
    if shapes.keys() != promised.keys():
        raise ValueError(f"its graph has {', '.join(shapes)} where it needs {', '.join(promised)}; export it again")
    for name, size in promised.items():
        shape = shapes[name]
        if len(shape) != 2 or isinstance(shape[0], int) or shape[1] != size:
            raise ValueError(f"its {name} has shape {shape} where the metadata says (batch, {size})")

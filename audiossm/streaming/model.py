"""Load a model file. What it returns is shared and read-only: open any number of streams on it."""

from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime

from audiossm.streaming.constants import constant_names, with_constants
from audiossm.streaming.files import new_session, open_file, read_file
from audiossm.streaming.metadata import Metadata
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
                new_session(with_constants(self.data, rate_constants(bank, clock, frame)))
                for frame in range(clock.period)
            ]
        return self._sessions[clock.grid]

    def stream(self, rate: int | None = None) -> KeywordStream:
        """Open a stream for audio at `rate` Hz (whole, 4000 to 192000); None is the model's own rate."""
        return KeywordStream(self, rate)


def load_keywords(path_or_name: str | Path) -> Model:
    """Load a keyword model from a path, or a released one by its name."""
    name = str(path_or_name)
    data = read_file(name, task="keywords")
    session, text = open_file(name, data)
    try:
        metadata = Metadata.parse(text, name)
        _check_graph(session, constant_names(data), metadata)
    except ValueError as error:
        raise ValueError(f"cannot use {name}: {error}") from None
    return Model(name, metadata, data, {metadata.rate: [session]})


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

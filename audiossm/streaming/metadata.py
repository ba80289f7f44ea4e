"""What a model file says about itself: the JSON under the metadata key `audiossm`, checked and typed.

`models/FORMAT.md` is the description; this is its reader.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite, prod
from typing import Any

import numpy as np

KEY = "audiossm"
FORMAT = 2
COMMANDS = {  # what runs a model, by its task
    "keywords": "audiossm listen {}",
    "generation": "audiossm generate {} out.wav",
    "enhancement": "audiossm denoise {} in.wav out.wav",
}


@dataclass(frozen=True)
class StatePart:
    """One named tensor inside the packed state, without the batch axis; `offset` counts floats."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of floats."""
        return prod(self.shape)


@dataclass(frozen=True)
class DetectorSettings:
    """How probabilities become events: `smoothing` and `refractory` in seconds, `threshold` a probability.

    The defaults are those of a file that `audiossm tune` has not seen yet.
    """

    smoothing: float = 0.25
    threshold: float = 0.45
    refractory: float = 0.6


@dataclass(frozen=True, eq=False)
class Filterbank:
    """The continuous-time filterbank: C channels, each the weighted sum of M modes x' = p x + u.

    poles: (C, M) complex128, rad/s. weights: (C, M) complex128. readouts: equally spaced times in a tick, the
    last at its end, at which the channels are read.
    """

    poles: np.ndarray
    weights: np.ndarray
    readouts: int


@dataclass(frozen=True, eq=False)
class Metadata:
    """Everything the file says about itself, with the keys of `models/FORMAT.md`.

    rate: Hz. frame, latency: samples at that rate. tick: seconds. frame_ticks: ticks in a frame. filterbank: None in
    a file that hears its own rate alone.
    """

    format: int
    task: str
    rate: int
    frame: int
    tick: float
    frame_ticks: int
    latency: int
    state: tuple[StatePart, ...]
    labels: tuple[str, ...]
    detector: DetectorSettings
    filterbank: Filterbank | None
    params: int
    training: Any
    data_terms: Any

    @property
    def state_size(self) -> int:
        """Number of floats of the packed state, for one stream."""
        return sum(part.size for part in self.state)

    @property
    def frame_seconds(self) -> float:
        """Seconds of audio that one call of the graph reads."""
        return self.tick * self.frame_ticks

    def summary(self) -> dict[str, Any]:
        """Everything as plain values for people and programs; the filterbank by its sizes only."""
        facts = asdict(self)
        facts["state"] = [asdict(part) | {"shape": list(part.shape)} for part in self.state]
        facts["labels"] = list(self.labels)
        if self.filterbank is not None:
            channels, modes = self.filterbank.poles.shape
            facts["filterbank"] = {"channels": channels, "modes": modes, "readouts": self.filterbank.readouts}
        return facts | {"latency_ms": 1000 * self.latency / self.rate, "state_bytes": 4 * self.state_size}

    @classmethod
    def parse(cls, text: str, name: str = "MODEL") -> "Metadata":
        """Read the JSON text. A ValueError says in one line what this runtime cannot use."""
        raw = header(text, "keywords", name)
        with unlacking():
            read = _typed(raw)
        read._check()
        return read

    def _check(self) -> None:
        """Refuse values that later arithmetic would turn into nonsense."""
        bank, settings = self.filterbank, self.detector
        wrong = {
            "rate": self.rate <= 0,
            "tick": self.tick != 0.005 or self.frame_ticks != 4,  # this format knows only this clock
            "frame": self.frame * 50 != self.rate,
            "labels": not self.labels or len(set(self.labels)) != len(self.labels),
            "filterbank": bank is not None and (bank.poles.shape != bank.weights.shape or bank.readouts < 1),
            "detector": not all(map(isfinite, (settings.smoothing, settings.threshold, settings.refractory))),
        }
        if any(wrong.values()):
            names = ", ".join(name for name, bad in wrong.items() if bad)
            raise ValueError(f"its metadata holds values that format {FORMAT} does not allow: {names}")


def header(text: str, task: str, name: str) -> dict[str, Any]:
    """Read the JSON text of a model for a task. A ValueError says in one line what this runtime cannot use.

    name: what the model was asked for by, for the command that does run it.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise ValueError(f"its metadata is no JSON ({error}); export the model again") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("format"), int):
        raise ValueError("its metadata has no format number; export the model again")
    if raw["format"] > FORMAT:
        raise ValueError(
            f"it is written in format {raw['format']} and this audiossm reads up to {FORMAT}: "
            "pip install --upgrade audiossm"
        )
    if raw["format"] < FORMAT:
        raise ValueError(
            f"it is written in format {raw['format']}, which this audiossm no longer reads; export it again"
        )
    if raw.get("task") not in COMMANDS:
        raise ValueError(f"its task {raw.get('task')!r} is unknown here (known: {', '.join(COMMANDS)})")
    if raw["task"] != task:
        command = COMMANDS[raw["task"]].format(name)
        raise ValueError(f"it is a model for {raw['task']}, not for {task}: try `{command}`")
    return raw


@contextmanager
def unlacking() -> Iterator[None]:
    """Say in one line what metadata lacks, or what is wrong with it, where reading it fails."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"its metadata lacks {error}; export the model again") from None
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"its metadata is malformed ({error}); export the model again") from None


def state_layout(raw: list[dict[str, Any]]) -> tuple[StatePart, ...]:
    """Read how a state is packed: its parts lie one behind the other."""
    parts = tuple(StatePart(str(part["name"]), tuple(map(int, part["shape"])), int(part["offset"])) for part in raw)
    offset = 0
    for part in parts:
        if part.offset != offset:
            raise ValueError(f"its state layout has a gap or an overlap at {part.name!r}")
        offset += part.size
    return parts


def _typed(raw: dict[str, Any]) -> Metadata:
    detector = raw["detector"]
    return Metadata(
        format=raw["format"],
        task=raw["task"],
        rate=int(raw["rate"]),
        frame=int(raw["frame"]),
        tick=float(raw["tick"]),
        frame_ticks=int(raw["frame_ticks"]),
        latency=int(raw["latency"]),
        state=state_layout(raw["state"]),
        labels=tuple(str(label) for label in raw["labels"]),
        detector=DetectorSettings(*(float(detector[name]) for name in ("smoothing", "threshold", "refractory"))),
        filterbank=None if raw["filterbank"] is None else _filterbank(raw["filterbank"]),
        params=int(raw["params"]),
        training=raw["training"],
        data_terms=raw["data_terms"],
    )


def _filterbank(bank: dict[str, Any]) -> Filterbank:
    return Filterbank(_complex(bank["poles"], "poles"), _complex(bank["weights"], "weights"), int(bank["readouts"]))


def _complex(pairs: Any, name: str) -> np.ndarray:
    """Nested lists (C, M, [re, im]) -> (C, M) complex128."""
    array = np.asarray(pairs, dtype=np.float64)
    if array.ndim != 3 or array.shape[2] != 2 or not np.isfinite(array).all():
        raise ValueError(f"filterbank.{name} is not an array (channels, modes, [re, im]) of finite numbers")
    result = array[..., 0] + 1j * array[..., 1]
    if name == "poles" and not (result.real < 0).all():
        raise ValueError("filterbank.poles must have negative real parts")
    return result

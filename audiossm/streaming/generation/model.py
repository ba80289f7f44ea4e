"""Load a generation model: a file for each tier, and the engine that runs them here."""

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime

from audiossm.streaming.files import new_session, open_file, read_file
from audiossm.streaming.generation.facts import GenerationFacts
from audiossm.streaming.generation.native_engine import Native, NativeEngine
from audiossm.streaming.generation.onnx_engine import OnnxEngine
from audiossm.streaming.generation.sampler import Sampler

ENGINES = ("native", "onnxruntime")
SLOWER = "pip install 'audiossm[generate]' makes this four to five times as fast"


@dataclass(frozen=True, eq=False)
class Generator:
    """A loaded model, shared and read-only: open any number of samplers on it.

    name: what was asked for. facts: what the file says about itself.
    """

    name: str
    facts: GenerationFacts
    files: list[bytes] = field(repr=False)

    @cached_property
    def sessions(self) -> list[onnxruntime.InferenceSession]:
        """What runs each tier in ONNX Runtime."""
        return [new_session(data) for data in self.files]

    @cached_property
    def native(self) -> Native | None:
        """The numbers of the compiled step; None where the file is not made of what it knows."""
        try:
            return Native(self.facts, self.files)
        except LookupError:
            return None

    def engines(self) -> list[str]:
        """Name the engines that can run this file here, the fastest first."""
        return list(ENGINES) if numba_is_there() and self.native else ["onnxruntime"]

    def hint(self) -> str | None:
        """Say how generation could be faster here, None where nothing is to be gained."""
        return SLOWER if not numba_is_there() and self.native else None

    def engine(self, labels: np.ndarray, name: str | None = None) -> OnnxEngine | NativeEngine:
        """Return an engine for streams of the classes `labels` (B,), the fastest if none is named."""
        able = self.engines()
        name = name or able[0]
        if name not in able:
            why = self.hint() or "there is no such engine, or it does not know this model's layers"
            raise ValueError(f"{self.name} cannot run in {name!r} here, but in {', '.join(able)}: {why}")
        if name == "native" and self.native is not None:
            return NativeEngine(self.facts, self.native, labels)
        return OnnxEngine(self.facts, self.sessions, labels)

    def sampler(
        self,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        label: str | Sequence[str] | None = None,
        prompt: np.ndarray | None = None,
        batch: int = 1,
        engine: str | None = None,
    ) -> Sampler:
        """Begin to generate; the arguments are those of `Sampler`."""
        return Sampler(self, seed, temperature, top_p, label, prompt, batch, engine)


def numba_is_there() -> bool:
    """Say whether the step can be compiled; asked without importing what takes a second."""
    return importlib.util.find_spec("numba") is not None


def load_generator(path_or_name: str | Path) -> Generator:
    """Load a generation model from a path, or a released one by its name."""
    name = str(path_or_name)
    data = read_file(name, task="generation")
    _, text = open_file(name, data)
    try:
        facts = GenerationFacts.parse(text, name)
    except ValueError as error:
        raise ValueError(f"cannot use {name}: {error}") from None
    return assemble(name, facts, data, lambda file: read_beside(name, file))


def assemble(name: str, facts: GenerationFacts, data: bytes, read: Callable[[str], bytes]) -> Generator:
    """Return the model of a first file, whose other tiers' files are read by their names."""
    files = [data]
    for tier in facts.tiers[1:]:
        assert tier.file is not None
        files.append(read(tier.file))
        if tier.sha256 != hashlib.sha256(files[-1]).hexdigest():
            raise ValueError(f"{tier.file} beside {name} is of another export: export the model again")
    return Generator(name, facts, files)


def read_beside(name: str, file: str) -> bytes:
    """Return the bytes of a file that lies beside a model's first one."""
    folder = Path(name).parent if Path(name).is_file() else None
    try:
        return read_file(name, file) if folder is None else (folder / file).read_bytes()
    except OSError:
        raise FileNotFoundError(f"{name} needs {file} beside it") from None

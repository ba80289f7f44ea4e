"""Make audio: draw one sample after another, in blocks, on constant memory."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from audiossm.streaming.generation.model import Generator

BLOCK = 1024  # samples made at once


class Sampler:
    """The changing half of a generation model: open it with `model.sampler(...)`.

    The same seed gives the same audio on the same machine and engine, however it is cut into blocks. Row b of a batch
    draws from NumPy's default generator, PCG64, seeded with [seed, b]: two numbers in [0, 1) a sample, the first of
    which picks the code by inversion of the cumulated weights (`draw`). So the first row is what a batch of one gives.

    Args:
        model: of `load_generator`.
        seed: not below 0.
        temperature: above 1 unlikelier samples are drawn more often, below 1 more rarely, at 0 the likeliest alone.
        top_p: draw only from the likeliest codes that together have this share; 1: from all. For 8-bit codings.
        label: what is to be heard, one of the model's classes, where it has any; or a list of them, for each row.
        prompt: audio (n,) in [-1, 1] at the model's rate to go on from.
        batch: streams at once, each with its own randomness.
        engine: "native" or "onnxruntime"; None: the fastest there is.

    Attributes:
        engine: the name of what runs it.
        samples: made so far, the prompt not counted.
        bits: (batch,) what the model would need for those: their -log2 likelihood.
    """

    def __init__(
        self,
        model: "Generator",
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        label: str | Sequence[str] | None = None,
        prompt: np.ndarray | None = None,
        batch: int = 1,
        engine: str | None = None,
    ):
        coding, classes = model.facts.coding, model.facts.classes
        if seed < 0 or batch < 1:
            raise ValueError(f"a seed is not below 0 and a batch not below 1, not {seed} and {batch}")
        if not 0 <= temperature < float("inf") or not 0 < top_p <= 1:
            raise ValueError(f"temperature is 0 or more and top-p in (0, 1], not {temperature} and {top_p}")
        if top_p < 1 and coding.kind == "mixture":
            raise ValueError("top-p is for models of 8-bit codes; this one's are 16 bits: leave it out")
        labels = [label] * batch if label is None or isinstance(label, str) else list(label)
        if len(labels) != batch:
            raise ValueError(f"a batch of {batch} cannot have {len(labels)} classes: give one for each, or one for all")
        self.model, self.batch = model, batch
        self._temperature, self._top_p = float(temperature), float(top_p)
        self._random = [np.random.default_rng([seed, row]) for row in range(batch)]
        self.engine = engine or model.engines()[0]
        self._engine = model.engine(np.array([place_of(each, classes) for each in labels]), engine)
        self._prompt = None if prompt is None else coding.encode(prompt)
        self.samples, self.bits = 0, np.zeros(batch)
        self._hear_prompt()

    def _hear_prompt(self) -> None:
        if self._prompt is None:
            return
        for begin in range(0, len(self._prompt), BLOCK):
            given = np.repeat(self._prompt[begin : begin + BLOCK, None], self.batch, axis=1)
            self._engine.run(given, np.zeros((*given.shape, 2)), 1.0, 1.0)

    def begin_anew(self) -> None:
        """Forget what was made and go on from the prompt, or from nothing; the randomness goes on too."""
        self._engine.reset()
        self._hear_prompt()

    def codes(self, samples: int) -> np.ndarray:
        """Make the next samples; return their codes, (batch, samples)."""
        made = []
        for begin in range(0, samples, BLOCK):
            count = min(BLOCK, samples - begin)
            uniforms = np.stack([random.random((count, 2)) for random in self._random], axis=1)
            codes, bits = self._engine.run(np.full((count, self.batch), -1), uniforms, self._temperature, self._top_p)
            self.samples += count
            self.bits += bits.sum(0)
            made.append(codes.T)
        return np.concatenate(made, axis=1) if made else np.zeros((self.batch, 0), np.int64)

    def audio(self, samples: int) -> np.ndarray:
        """Make the next samples; return them in [-1, 1], (batch, samples) float32."""
        return self.model.facts.coding.decode(self.codes(samples))

    def blocks(self, samples: int, block: int = BLOCK) -> Iterator[np.ndarray]:
        """Make `samples` samples, however many, and yield them in blocks (batch, n)."""
        for begin in range(0, samples, block):
            yield self.audio(min(block, samples - begin))


def place_of(label: str | None, classes: tuple[str, ...]) -> int:
    """Return the place of a label in the classes; ValueError with those that there are where it is none of them."""
    if not classes:
        if label is not None:
            raise ValueError(f"this model has no classes, so it cannot be asked for {label!r}: leave out the class")
        return 0
    if label is None:
        raise ValueError(f"this model is told what to say: ask for one of {', '.join(classes)}")
    if label not in classes:
        raise ValueError(f"there is no class {label!r}; there are {', '.join(classes)}")
    return classes.index(label)

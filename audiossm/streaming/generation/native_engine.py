"""Generation by our own compiled step (`native`), where Numba is installed and the tiers are SaShiMi's with S4D.

Why not ONNX Runtime alone: it takes four times as long. Its time goes into 600 nodes, each about a microsecond, and
into a call a tier from Python; the compiled step's goes into reading the weights. README.md has the figures.
"""

from typing import Any

import numpy as np

from audiossm.streaming.constants import read_constants
from audiossm.streaming.generation.facts import GenerationFacts

WHOLE = 32767  # the largest of 16 bits
COARSEST = 5e-5  # of a matrix's norm: what its rounding to 16 bits may be
SYSTEM, LAYER = "layers.step.system.", "layers.step.layers.{}."


class Native:
    """A model's numbers, laid out for the step; shared by all streams.

    Raises LookupError where the file is not made of what the step knows.
    """

    def __init__(self, facts: GenerationFacts, files: list[bytes]):
        if facts.coding.kind == "mixture":
            raise LookupError("the compiled step draws from 8-bit codes only")
        if len(files) == 1:
            raise LookupError("the compiled step is SaShiMi's")
        tensors = [read_constants(data) for data in files]
        self.embedding = np.array(tensors[0]["embedding.weight"])
        self.classes = tensors[0]["class_embedding.weight"] if facts.classes else np.zeros((1, self.embedding.shape[1]))
        self.pools = tuple(tier.pool for tier in facts.tiers[1:])
        parts: list[list[np.ndarray]] = []
        self.sizes = []  # of each tier: layers, modes, channels of a feed-forward block
        for k, (named, facts_of_tier) in enumerate(zip(tensors, facts.tiers, strict=True)):
            layers, size = tier_weights(named, facts_of_tier.width)
            self.sizes.append(size)
            if k == 0:
                parts.append([*layers, *pair(named, "norm"), *matrix(named, "head")])
            else:
                parts.append([*matrix(named, "down"), *layers, *matrix(named, "up")])
        rows = [laid_out(row) for row in parts]
        self.weights, self.matrices = tuple(floats for floats, _ in rows), tuple(shorts for _, shorts in rows)


def laid_out(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return a tier's numbers as the step reads them, float32 and int16: matrices go to the second, by rows."""
    floats, shorts = [], []
    for part in parts:
        if part.ndim == 2:
            worth = np.maximum(np.abs(part).max(axis=1, keepdims=True), 1e-30) / WHOLE
            whole = np.rint(part / worth)
            if np.linalg.norm(whole * worth - part) > COARSEST * np.linalg.norm(part):
                raise LookupError("a matrix has numbers too unlike in size for 16 bits")
            floats.append(worth)
            shorts.append(whole.astype(np.int16).ravel())
        else:
            floats.append(part)
    return np.concatenate([part.ravel() for part in floats]).astype(np.float32), np.concatenate(shorts)


def tier_weights(named: dict[str, np.ndarray], channels: int) -> tuple[list[np.ndarray], tuple[int, int, int]]:
    """Return a tier's numbers in the order of its step, and how many layers, modes and channels inside there are."""
    gain, re, im, reads = (named[SYSTEM + name] for name in ("gain", "re", "im", "reads"))
    layers, modes = len(gain) // channels, len(re) // len(gain)
    re, im, of_re, of_im = (x.reshape(modes, layers, channels) for x in (re, im, *np.split(reads, 2)))
    parts, inside = [], 0
    for i in range(layers):
        at = LAYER.format(i)
        halves = [named[f"{at}{half}.weight"].T for half in ("value", "gate")]
        system = np.stack([re[:, i], im[:, i], of_re[:, i], of_im[:, i]], 1)  # (N, 4, H)
        parts += [*pair(named, at + "norm"), gain.reshape(layers, channels)[i], system, np.concatenate(halves, 1)]
        parts += [named[f"{at}{half}.bias"] for half in ("value", "gate")]
        if at + "ff_in.weight" in named:
            parts += [*pair(named, at + "ff_norm"), *matrix(named, at + "ff_in"), *matrix(named, at + "ff_out")]
            inside = len(named[at + "ff_in.bias"])
    return parts, (layers, modes, inside)


def pair(named: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    """Return a norm's scale and shift."""
    return [named[name + ".weight"], named[name + ".bias"]]


def matrix(named: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    """Return a linear layer's matrix (in, out) and its bias."""
    return [named[name + ".weight"].T, named[name + ".bias"]]


class NativeEngine:
    """The methods of `OnnxEngine`, by the compiled step.

    labels: (B,) the class of each stream.
    """

    def __init__(self, facts: GenerationFacts, native: Native, labels: np.ndarray):
        self._facts, batch = facts, len(labels)
        widths = [tier.width for tier in facts.tiers]

        def zeros(size: int) -> np.ndarray:
            return np.zeros((batch, size), np.float32)

        between = [p * width for p, width in zip(native.pools, widths, strict=False)]
        self._states = tuple(
            np.zeros((layers, modes, 2, batch, width), np.float32)
            for (layers, modes, _), width in zip(native.sizes, widths, strict=True)
        )
        self._held, self._rows = (tuple(map(zeros, between)) for _ in range(2))
        skips, us, vs, ys = (tuple(map(zeros, widths)) for _ in range(4))
        pairs = tuple(zeros(2 * width) for width in widths)
        ff = tuple(inside for _, _, inside in native.sizes)
        wides = tuple(map(zeros, ff))
        extra = native.classes[labels].astype(np.float32)
        self._numbers: tuple[Any, ...] = (native.embedding, extra, native.pools, self._held, self._rows)
        self._numbers += (ff, native.weights, native.matrices, self._states, skips, us, vs, ys, pairs, wides)
        self._logits = zeros(facts.coding.outputs)
        self.reset()
        self.run(np.zeros((0, batch), np.int64), np.zeros((0, batch, 2)), 1.0, 1.0)  # compiles, or loads what was

    def reset(self) -> None:
        """Begin anew."""
        for array in (*self._held, *self._rows, *self._states):
            array[:] = 0
        self._last = np.full(len(self._logits), self._facts.coding.start)
        self._heard = 0

    def step(self, codes: np.ndarray) -> np.ndarray:
        """Hear a code (B,) of each stream; return what is known of the next, (B, K), until the next call."""
        from audiossm.streaming.generation.native import step

        step(codes, self._heard, self._numbers, self._logits)
        self._heard += 1
        return self._logits

    def run(
        self, given: np.ndarray, uniforms: np.ndarray, temperature: float, top_p: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Go on by n samples: those given (n, B), where not below zero, else drawn with uniforms (n, B, 2).

        Returns codes (n, B), and the bits that the model would need for each.
        """
        from audiossm.streaming.generation.native import run

        codes, bits = given.copy(), np.zeros(given.shape)
        run(codes, uniforms, temperature, top_p, self._last, self._heard, self._numbers, self._logits, bits)
        self._heard += len(codes)
        return codes, bits

"""Samples as codes and back: the runtime's few lines of `audiossm.tasks.quantise`."""

from dataclasses import dataclass
from typing import Any

import numpy as np

MU = 255
FULL_SCALE = 32768


@dataclass(frozen=True, eq=False)
class Coding:
    """How a sample becomes a code.

    kind: "mu-law", "linear" or "mixture". codes: how many there are. start: the code before the first sample.
    components: logistics of a mixture, else 0. table: the sample in [-1, 1] of each code, (codes,) float32.
    """

    kind: str
    codes: int
    start: int
    components: int
    table: np.ndarray

    @property
    def outputs(self) -> int:
        """How many numbers a model gives for a sample."""
        return 3 * self.components if self.kind == "mixture" else self.codes

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Return the codes, int64, of audio (n,) in [-1, 1]: rounded to 16 bits first, as recordings are."""
        whole = np.clip(np.floor(audio.astype(np.float64) * FULL_SCALE + 0.5), -FULL_SCALE, FULL_SCALE - 1)
        if self.kind == "mixture":
            return whole.astype(np.int64) + FULL_SCALE
        if self.kind == "linear":
            return np.minimum(np.floor((whole + 128) / 256) + 128, 255).astype(np.int64)
        x = whole / FULL_SCALE
        y = np.sign(x) * np.log1p(MU * np.abs(x)) / np.log1p(MU)
        return np.floor((y + 1) / 2 * MU + 0.5).astype(np.int64)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return float32 samples of codes of any shape."""
        return self.table[codes]

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> "Coding":
        """Read it from metadata; raise ValueError, KeyError or TypeError for what this runtime does not know."""
        kind, codes = raw["kind"], int(raw["codes"])
        if kind not in ("mu-law", "linear", "mixture"):
            raise ValueError(f"coding {kind!r} is unknown here")
        if kind == "mixture":
            table = (np.arange(codes, dtype=np.float64) - FULL_SCALE) / FULL_SCALE
        else:
            table = np.array(raw["table"], np.float64)
        if table.shape != (codes,) or codes != (2 * FULL_SCALE if kind == "mixture" else 256):
            raise ValueError(f"coding {kind!r} has {codes} codes and {len(table)} values")
        return cls(kind, codes, int(raw["start"]), int(raw.get("components") or 0), table.astype(np.float32))

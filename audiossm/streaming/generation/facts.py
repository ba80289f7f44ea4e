"""What a generation model's file says about itself, checked and typed (`models/FORMAT.md`)."""

from dataclasses import dataclass
from itertools import accumulate
from math import isfinite
from operator import mul
from typing import Any

from audiossm.streaming.generation.coding import Coding
from audiossm.streaming.metadata import FORMAT, header, unlacking


@dataclass(frozen=True)
class Tier:
    """A graph: its file beside the first one's (None: the first itself), with a digest of it.

    pool: steps of the tier before that one of its steps takes. width: its channels. size: floats of its state.
    """

    file: str | None
    sha256: str | None
    pool: int
    width: int
    size: int


@dataclass(frozen=True)
class Level:
    """What seconds of the training data reach: the 0.1, 50 and 99.9 percentiles of their RMS in dBFS, and the peak."""

    low: float
    median: float
    high: float
    peak: float


@dataclass(frozen=True, eq=False)
class GenerationFacts:
    """Everything the file says about itself. rate: Hz. classes: what it can be asked for, empty if nothing."""

    format: int
    task: str
    rate: int
    coding: Coding
    classes: tuple[str, ...]
    tiers: tuple[Tier, ...]
    level: Level
    params: int
    training: Any
    data_terms: Any

    @property
    def periods(self) -> tuple[int, ...]:
        """Samples that a step of each tier takes."""
        return tuple(accumulate((tier.pool for tier in self.tiers), mul))

    @property
    def state_size(self) -> int:
        """Floats that a stream remembers, the rows between tiers apart."""
        return sum(tier.size for tier in self.tiers)

    def summary(self) -> dict[str, Any]:
        """Everything as plain values for people and programs."""
        coding = {"kind": self.coding.kind, "codes": self.coding.codes, "components": self.coding.components}
        level = {"rms_db": [self.level.low, self.level.median, self.level.high], "peak": self.level.peak}
        tiers = [
            {"period": period, "width": tier.width, "state": tier.size, "file": tier.file or "this one"}
            for tier, period in zip(self.tiers, self.periods, strict=True)
        ]
        known = {"format": self.format, "task": self.task, "rate": self.rate, "coding": coding}
        known |= {"classes": list(self.classes), "tiers": tiers, "level": level, "params": self.params}
        return known | {
            "training": self.training,
            "data_terms": self.data_terms,
            "state_bytes": 4 * self.state_size,
        }

    @classmethod
    def parse(cls, text: str, name: str = "MODEL") -> "GenerationFacts":
        """Read the JSON text. A ValueError says in one line what this runtime cannot use."""
        raw = header(text, "generation", name)
        with unlacking():
            low, median, high = map(float, raw["level"]["rms_db"])
            facts = cls(
                format=raw["format"],
                task=raw["task"],
                rate=int(raw["rate"]),
                coding=Coding.parse(raw["coding"]),
                classes=tuple(str(name) for name in raw["classes"]),
                tiers=tuple(
                    Tier(tier["file"], tier["sha256"], int(tier["pool"]), int(tier["width"]), int(tier["size"]))
                    for tier in raw["tiers"]
                ),
                level=Level(low, median, high, float(raw["level"]["peak"])),
                params=int(raw["params"]),
                training=raw["training"],
                data_terms=raw["data_terms"],
            )
        facts._check()
        return facts

    def _check(self) -> None:
        """Refuse values that later arithmetic would turn into nonsense."""
        slow = self.tiers[1:]
        wrong = {
            "rate": self.rate <= 0,
            "classes": len(set(self.classes)) != len(self.classes),
            "tiers": not self.tiers
            or self.tiers[0].pool != 1
            or any(not tier.file or "/" in tier.file or "\\" in tier.file for tier in slow)
            or any(tier.pool < 2 or tier.width < 1 for tier in slow),
            "level": not all(map(isfinite, (self.level.low, self.level.median, self.level.high))),
        }
        if any(wrong.values()):
            names = ", ".join(name for name, bad in wrong.items() if bad)
            raise ValueError(f"its metadata holds values that format {FORMAT} does not allow: {names}")

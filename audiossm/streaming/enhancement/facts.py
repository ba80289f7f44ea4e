"""What an enhancement model's file says about itself, checked and typed (`models/FORMAT.md`)."""

from dataclasses import asdict, dataclass
from typing import Any

from audiossm.streaming.metadata import FORMAT, StatePart, header, state_layout, unlacking


@dataclass(frozen=True)
class EnhancementFacts:
    """Everything the file says about itself.

    rate: Hz. frame: samples that a call reads and writes. delay: samples by which the graph's output lags its input.
    latency: samples at most from a sound to its enhanced sound, frame + delay. encoder: what the model hears with.
    """

    format: int
    task: str
    rate: int
    frame: int
    delay: int
    latency: int
    encoder: str
    state: tuple[StatePart, ...]
    params: int
    training: Any
    data_terms: Any

    @property
    def state_size(self) -> int:
        """Number of floats of the packed state, for one channel."""
        return sum(part.size for part in self.state)

    @property
    def frame_seconds(self) -> float:
        """Seconds of audio that one call of the graph reads."""
        return self.frame / self.rate

    def summary(self) -> dict[str, Any]:
        """Everything as plain values for people and programs."""
        state = [asdict(part) | {"shape": list(part.shape)} for part in self.state]
        latency = 1000 * self.latency / self.rate
        return asdict(self) | {"state": state, "latency_ms": latency, "state_bytes": 4 * self.state_size}

    @classmethod
    def parse(cls, text: str, name: str = "MODEL") -> "EnhancementFacts":
        """Read the JSON text. A ValueError says in one line what this runtime cannot use."""
        raw = header(text, "enhancement", name)
        with unlacking():
            facts = cls(
                format=raw["format"],
                task=raw["task"],
                rate=int(raw["rate"]),
                frame=int(raw["frame"]),
                delay=int(raw["delay"]),
                latency=int(raw["latency"]),
                encoder=str(raw["encoder"]),
                state=state_layout(raw["state"]),
                params=int(raw["params"]),
                training=raw["training"],
                data_terms=raw["data_terms"],
            )
        wrong = {
            "rate": facts.rate <= 0,
            "frame": not 0 < facts.frame <= facts.rate,
            "delay": not 0 <= facts.delay <= facts.rate,
            "latency": facts.latency != facts.frame + facts.delay,
        }
        if any(wrong.values()):
            names = ", ".join(name for name, bad in wrong.items() if bad)
            raise ValueError(f"its metadata holds values that format {FORMAT} does not allow: {names}")
        return facts

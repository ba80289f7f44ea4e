"""How well a keyword model listens: words missed against false alarms an hour, its state never reset in a stream.

The model hears every stream once and its posteriors are kept, 14 MB an hour for 19 labels; thresholds are tried on
them.

What counts: a word is missed if there is no event of its label from its start to 0.75 s after its end (its window).
Any event outside all windows is a false alarm, be it in a stream without words or between the words of another; hours
are those outside windows. Any further event inside a window (another label, or the same once more) is counted as
`wrong`, apart: how often that happens depends on how often somebody speaks, not on hours.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2

from audiossm.data.streams import GRACE, Stream, Word, make_streams
from audiossm.streaming import FrameClock, Model, load_keywords
from audiossm.streaming.metadata import DetectorSettings
from audiossm.tasks import KeywordModel
from audiossm.tasks.checkpoint import load_model
from audiossm.training.detections import averages, detections
from audiossm.training.pictures import draw_heard, draw_misses
from audiossm.training.statistics import wilson

THRESHOLDS = (0.998, 0.995, *(percent / 100 for percent in range(99, 9, -1)))
PICTURED = 20  # seconds of a stream
FALSE_ALARMS = 0.5  # an hour: the operating point that is reported

Listener = Callable[[Iterable[np.ndarray], int], np.ndarray]  # pieces (n,) at a rate in Hz -> posteriors (T, K)


@dataclass(frozen=True, eq=False)
class Heard:
    """A stream and what a model made of it.

    posteriors: (T, K) float32, the probability of each label after each frame. frame: seconds.
    """

    name: str
    certain: bool
    posteriors: np.ndarray
    frame: float
    words: list[Word]
    seconds: float

    @property
    def hours(self) -> float:
        """Hours outside the words' windows."""
        return (self.seconds - sum(word.end - word.start + GRACE for word in self.words)) / 3600


@dataclass(frozen=True)
class Count:
    """What a detector did on one stream or on several: see the head of this file."""

    words: int
    misses: int
    wrong: int
    false_alarms: int
    hours: float

    def __add__(self, other: "Count") -> "Count":
        return Count(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    @property
    def per_hour(self) -> float:
        """False alarms an hour."""
        return self.false_alarms / self.hours if self.hours else 0.0

    def report(self) -> dict[str, Any]:
        """As plain values, the miss rate in percent; 95 % intervals by Wilson and exact for a Poisson count."""
        facts: dict[str, Any] = asdict(self) | {"hours": round(self.hours, 4)}
        if self.words:
            facts["miss_rate"] = round(100 * self.misses / self.words, 3)
            facts["miss_rate_ci95"] = wilson(self.misses, self.words)
        if self.hours:
            facts["false_alarms_per_hour"] = round(self.per_hour, 3)
            bounds = poisson_interval(self.false_alarms)
            facts["false_alarms_per_hour_ci95"] = [round(bound / self.hours, 3) for bound in bounds]
        return facts


def evaluate_streams(
    model: str | Path,
    data: str | Path,
    rates: Sequence[int],
    split: str = "test",
    noise: Sequence[str | Path] = (),
    speech: Sequence[str | Path] = (),
    label_column: str = "label",
    pictures: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Let a run folder, an ONNX file or a released model hear the streams of a split (`audiossm.data.streams`).

    `pictures` is a folder to draw the curve and the first seconds of a stream into. `say` gets a line for each stream
    as it is heard.

    Returns:
        {"task", "detector", "rates": {"16000": row}}. A row holds "stored" (with the file's threshold), "at"
        (the point of the curve with the fewest misses that keeps to 0.5 false alarms an hour, None if none does),
        "at_certain" (the same, counting only streams that are sure to hold no other keyword) and "curve"; each point is
        a `Count` with its threshold, and but for the curve's also the counts of each stream.

    Raises FileNotFoundError or ValueError where the model or the data is not as it should be.
    """
    for rate in rates:
        FrameClock(rate)  # raises for what is no rate
    listener, labels, settings = open_listener(model)
    report: dict[str, Any] = {"task": "keywords", "detector": asdict(settings), "rates": {}}
    for rate in rates:
        streams = make_streams(data, split, rate, noise, speech, label_column=label_column)
        heard = hear(listener, labels, streams, say)
        report["rates"][str(rate)] = measure(heard, labels, settings)
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            draw_misses(pictures / f"misses-{rate}.png", report["rates"][str(rate)])
            audio = beginning(streams[0], PICTURED * rate)
            frames = heard[0].posteriors[: round(len(audio) / rate / heard[0].frame)]
            draw_heard(pictures / f"stream-{rate}.png", audio, rate, frames, labels)
    return report


def open_listener(model: str | Path) -> tuple[Listener, tuple[str, ...], DetectorSettings]:
    """Load a run folder or a model file: what hears with it, its labels and its detector."""
    if Path(model).is_dir():
        module, _ = load_model(model)
        return module_listener(module), module.config.labels, DetectorSettings()
    file = load_keywords(model)
    return file_listener(file), file.metadata.labels, file.metadata.detector


def file_listener(model: Model) -> Listener:
    """Return what hears with an exported file, frame by frame."""

    def listen(pieces: Iterable[np.ndarray], rate: int) -> np.ndarray:
        stream = model.stream(rate)
        return np.concatenate([stream.scores(piece) for piece in pieces])

    return listen


def module_listener(model: KeywordModel, device: str | None = None) -> Listener:
    """Return what hears with a module: long calls, with the state handed on."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()

    @torch.inference_mode()
    def listen(pieces: Iterable[np.ndarray], rate: int) -> np.ndarray:
        state, rows = None, []
        for piece in pieces:
            logits, state = model(torch.from_numpy(piece).to(device)[None, :, None], state, rate=rate)
            rows.append(logits[0].softmax(-1).cpu().numpy())
        return np.concatenate(rows)

    return listen


def hear(
    listener: Listener, labels: Sequence[str], streams: Sequence[Stream], say: Callable[[str], None]
) -> list[Heard]:
    """Let a model hear each stream from its beginning to its end; `say` gets a line for each."""
    heard = []
    for stream in streams:
        words: list[Word] = []
        lengths: list[int] = []
        posteriors = listener(noted(stream, words, lengths), stream.rate)
        unknown = sorted({word.label for word in words} - set(labels))
        if unknown:
            raise ValueError(f"the data holds the words {', '.join(unknown)}, but the model knows {', '.join(labels)}")
        seconds, frame = sum(lengths) / stream.rate, FrameClock(stream.rate).seconds(1)
        heard.append(Heard(stream.name, stream.certain, posteriors, frame, words, seconds))
        what = f" with {len(words)} words" if words else ""
        say(f"heard {stream.name}: {seconds / 60:.1f} min{what} at {stream.rate} Hz")
    return heard


def beginning(stream: Stream, samples: int) -> np.ndarray:
    """Return a stream's first samples, or all where it has fewer."""
    pieces: list[np.ndarray] = []
    for piece, _ in stream.pieces():
        pieces.append(piece)
        if sum(map(len, pieces)) >= samples:
            break
    return np.concatenate(pieces)[:samples]


def noted(stream: Stream, words: list[Word], lengths: list[int]) -> Iterable[np.ndarray]:
    """Yield a stream's audio, and note what words and how many samples the pieces held."""
    for piece, said in stream.pieces():
        words += said
        lengths.append(len(piece))
        yield piece


def measure(heard: Sequence[Heard], labels: Sequence[str], settings: DetectorSettings) -> dict[str, Any]:
    """Sweep the threshold with the other settings as they are; see `evaluate_streams` for what is returned."""
    smooth = smoothed(heard, labels, settings.smoothing)
    curve = {threshold: counts(smooth, threshold, settings.refractory) for threshold in THRESHOLDS}

    def point(threshold: float, by_stream: dict[str, Count]) -> dict[str, Any]:
        whole = {"threshold": threshold} | sum_of(by_stream.values()).report()
        return whole | {"streams": {name: count.report() for name, count in by_stream.items()}}

    def best(names: Collection[str]) -> dict[str, Any] | None:
        kept = {t: {name: by_stream[name] for name in names} for t, by_stream in curve.items()}
        found = operating_point(((t, sum_of(by_stream.values())) for t, by_stream in kept.items()), FALSE_ALARMS)
        return found and point(found[0], kept[found[0]])

    return {
        "stored": point(settings.threshold, counts(smooth, settings.threshold, settings.refractory)),
        "at": best([stream.name for stream in heard]),
        "at_certain": best([stream.name for stream in heard if stream.certain]),
        "curve": [{"threshold": t} | sum_of(by_stream.values()).report() for t, by_stream in curve.items()],
    }


@dataclass(frozen=True, eq=False)
class Smoothed:
    """A stream with the averages (T, K) of the labels (K,) that may be reported."""

    stream: Heard
    average: np.ndarray
    labels: np.ndarray


def smoothed(heard: Sequence[Heard], labels: Sequence[str], smoothing: float) -> list[Smoothed]:
    """Average each stream's posteriors over `smoothing` seconds."""
    speaks = [i for i, label in enumerate(labels) if not label.startswith("_")]
    names = np.array([labels[i] for i in speaks])
    return [
        Smoothed(stream, averages(stream.posteriors[:, speaks], max(1, round(smoothing / stream.frame))), names)
        for stream in heard
    ]


def counts(smooth: Sequence[Smoothed], threshold: float, refractory: float) -> dict[str, Count]:
    """Count what the detector does on each stream, by its name."""
    result = {}
    for each in smooth:
        frames, found = detections(each.average, threshold, round(refractory / each.stream.frame))
        result[each.stream.name] = count(each.stream, (frames + 1) * each.stream.frame, each.labels[found])
    return result


def count(stream: Heard, times: np.ndarray, labels: np.ndarray) -> Count:
    """Count a stream's events, given by their times in seconds and their labels. Windows do not overlap."""
    start = np.array([word.start for word in stream.words])
    end = np.array([word.end for word in stream.words]) + GRACE
    said = np.array([word.label for word in stream.words])
    word = np.searchsorted(start, times, side="right") - 1  # the latest that has begun, -1 before the first
    inside = word >= 0
    inside[inside] = times[inside] <= end[word[inside]]
    found = np.unique(word[inside][labels[inside] == said[word[inside]]]).size
    within = int(inside.sum())
    return Count(len(start), len(start) - found, within - found, len(times) - within, stream.hours)


def sum_of(counts: Iterable[Count]) -> Count:
    """Add up the counts of several streams."""
    return sum(counts, Count(0, 0, 0, 0, 0.0))


def operating_point(curve: Iterable[tuple[float, Count]], per_hour: float) -> tuple[float, Count] | None:
    """Find the threshold with the fewest misses, the highest of equal ones, that keeps to so many false alarms an hour.

    curve: by falling threshold; it is read only as far as needed. Every higher threshold must keep to it too: where the
    false alarms grow again above, the lower one was luck.
    """
    kept = takewhile(lambda point: point[1].per_hour <= per_hour, curve)
    return min(kept, key=lambda point: point[1].misses, default=None)


def poisson_interval(number: int) -> tuple[float, float]:
    """Return the exact 95 % interval of the mean of a Poisson count."""
    low = float(chi2.ppf(0.025, 2 * number)) / 2 if number else 0.0
    return low, float(chi2.ppf(0.975, 2 * number + 2)) / 2

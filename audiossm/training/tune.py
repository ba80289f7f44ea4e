"""Choose a model file's detector on the validation split, and store it in the file."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from audiossm.data.streams import make_streams
from audiossm.streaming import load_keywords
from audiossm.streaming.constants import metadata_text, with_metadata
from audiossm.streaming.metadata import KEY, DetectorSettings
from audiossm.tasks.checkpoint import write_beside
from audiossm.training.stream_evaluation import (
    THRESHOLDS,
    Count,
    Heard,
    counts,
    file_listener,
    hear,
    operating_point,
    smoothed,
    sum_of,
)

SMOOTHING = (0.1, 0.16, 0.24, 0.32, 0.4, 0.5, 0.6)  # seconds
REFRACTORY = (0.4, 0.6)  # seconds: the streams leave a second between words, people less
DELAY_COST = 0.15  # share of the words that may be missed for an average that is a second shorter: it answers sooner


def tune(
    model: str | Path,
    data: str | Path,
    split: str = "val",
    noise: Sequence[str | Path] = (),
    speech: Sequence[str | Path] = (),
    false_alarms: float = 0.5,
    label_column: str = "label",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Choose smoothing, threshold and refractory time of an ONNX file and write them into its metadata.

    The settings miss few words and answer soon (`choose`), among those that keep to so many false alarms an hour on the
    split's streams (`audiossm.data.streams`) at the model's rate. All else in the file keeps its bytes.

    Returns {"detector", "before", "split"} and the `Count` of the settings chosen.

    Raises FileNotFoundError or ValueError where the model or the data is not as it should be, or where no settings
    keep to it.
    """
    path = Path(model)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: tune changes a file, so export the model first")
    if not false_alarms > 0:
        raise ValueError(f"the false alarms an hour to allow must be more than 0, not {false_alarms:g}")
    file = load_keywords(path)
    labels = file.metadata.labels
    streams = make_streams(data, split, file.metadata.rate, noise, speech, label_column=label_column)
    settings, result = choose(hear(file_listener(file), labels, streams, say), labels, false_alarms)
    if result.hours * false_alarms < 1:
        say(
            f"{result.hours:.2f} h without words cannot show {false_alarms:g} false alarms an hour: the settings were "
            f"chosen to give none there; give more --noise and --speech, {1 / false_alarms:g} h or more"
        )
    text = json.loads(str(metadata_text(file.data, KEY))) | {"detector": asdict(settings)}
    write_beside(path, with_metadata(file.data, KEY, json.dumps(text)))
    before = asdict(file.metadata.detector)
    return {"detector": asdict(settings), "before": before, "split": split} | result.report()


def choose(heard: Sequence[Heard], labels: Sequence[str], false_alarms: float) -> tuple[DetectorSettings, Count]:
    """Find the detector with the fewest misses and the shortest average, weighed by DELAY_COST.

    Of equal ones it is the first, with the highest threshold.
    One threshold serves all labels: one a label fits the validation recordings better, but gave more misses at equal
    false alarms on recordings not heard before.
    """
    found: list[tuple[DetectorSettings, Count]] = []
    for smoothing in SMOOTHING:
        smooth = smoothed(heard, labels, smoothing)
        for refractory in REFRACTORY:
            curve = ((t, sum_of(counts(smooth, t, refractory).values())) for t in THRESHOLDS)
            best = operating_point(curve, false_alarms)
            if best:
                found.append((DetectorSettings(smoothing, best[0], refractory), best[1]))
    if not found:
        raise ValueError(
            f"no detector keeps to {false_alarms:g} false alarms an hour with this model: allow more with "
            "--false-alarms, or train on clips of what it reports (audiossm mine)"
        )
    return min(found, key=lambda each: each[1].misses + DELAY_COST * each[0].smoothing * each[1].words)

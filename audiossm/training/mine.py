"""Hard negatives: what a model takes for keywords in recordings that hold none."""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from audiossm.data.audio import sound_files, to_int16
from audiossm.data.folder import OTHER
from audiossm.streaming import AudioFile, Event, FrameClock, Model, load_keywords
from audiossm.tasks.checkpoint import write_beside
from audiossm.training.options import CLIP_SECONDS

REST = 1.0  # seconds after a clip until the next one may be taken: they share no sound


@dataclass(frozen=True)
class Mined:
    """What was found: `labels` counts the clips that were taken for each label, `seconds` is how much was heard."""

    folder: Path
    clips: int
    labels: Counter[str]
    seconds: float


def mine(
    model: str | Path,
    recordings: str | Path,
    out: str | Path,
    score: float = 0.3,
    heard: Callable[[float, float], None] = lambda seconds, of: None,
) -> Mined:
    """Cut a clip of a second wherever a label's smoothed probability reaches `score`, for training as `_other_`.

    A clip ends where the label was detected, as training judges a clip at its end. Clips keep the recording's rate
    and lie in `out`/_other_/<recording>_nohash_<n>.wav, so that one recording is one speaker of Speech Commands'
    layout and falls in one split. Recordings are read block by block, in constant memory, their channels' mean.

    Args:
        model: an ONNX file or a released model's name; its own smoothing is used.
        recordings: folder of recordings in which no keyword is said.
        out: data folder to write to; clips that are there already are never replaced.
        score: average probability from which on a label counts as heard.
        heard: gets the seconds heard so far and those to hear altogether.

    Raises FileNotFoundError or ValueError in one line where something is not as it should be.
    """
    if not 0 < score < 1:
        raise ValueError(f"the score must lie between 0 and 1, not be {score:g}")
    file = load_keywords(model)
    detector = replace(file.metadata.detector, threshold=score, refractory=REST)
    keen = replace(file, metadata=replace(file.metadata, detector=detector))
    paths = sound_files(recordings)
    named: dict[str, Path] = {}
    for path in paths:
        name = "-".join(path.relative_to(recordings).with_suffix("").parts).replace("_nohash_", "_")
        while name in named:  # x.wav beside x.mp3
            name += "_"
        named[name] = path
    folder = Path(out) / OTHER
    there = [name for name in named if (folder / f"{name}_nohash_0.wav").exists()]
    if there:
        raise ValueError(f"{folder} already holds clips of {there[0]}: remove them or choose another --out")
    total = sum(seconds_of(path) for path in paths)
    folder.mkdir(parents=True, exist_ok=True)
    labels: Counter[str] = Counter()
    before = 0.0
    for name, path in named.items():
        number = 0
        with AudioFile(path) as audio:
            for event, clip, seconds in clips_of(keen, audio):
                if event:
                    write_beside(folder / f"{name}_nohash_{number}.wav", wav(clip, audio.rate))
                    labels[event.label] += 1
                    number += 1
                heard(before + seconds, total)
        before += seconds_of(path)
    return Mined(folder, labels.total(), labels, before)


def clips_of(model: Model, audio: AudioFile) -> Iterator[tuple[Event | None, np.ndarray, float]]:
    """Hear a recording; yield the second (n,) before each event, and before each block's end where there is none.

    The last value is the seconds heard so far. Before the recording there was silence.
    """
    stream = model.stream(audio.rate)
    size = round(CLIP_SECONDS * audio.rate)
    recent = np.zeros(size, np.float32)
    for block in audio.blocks():
        recent = np.concatenate([recent[-size:], np.nan_to_num(block.mean(axis=1), nan=0, posinf=0, neginf=0)])
        for event in stream.push(block):
            end = len(recent) - round((stream.seconds - event.time) * audio.rate)
            yield event, recent[end - size : end], event.time
        yield None, recent[-size:], stream.seconds


def seconds_of(path: Path) -> float:
    """Return the length of a recording, and refuse what cannot be heard before anything is written."""
    with AudioFile(path) as audio:
        try:
            FrameClock(audio.rate)
        except ValueError as error:
            raise ValueError(f"{path} cannot be heard: {error}") from None
        return audio.seconds


def wav(clip: np.ndarray, rate: int) -> bytes:
    """Return a clip as a WAV file of 16 bits."""
    file = io.BytesIO()
    soundfile.write(file, to_int16(clip), rate, format="WAV", subtype="PCM_16")
    return file.getvalue()

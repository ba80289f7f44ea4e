"""A data folder -> the clips to train on and those to watch, once it is said what is odd about them."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from audiossm.data import Clip, ClipArray, find_clips, load_clips
from audiossm.data.folder import MANIFEST
from audiossm.training.options import CLIP_SECONDS


def load_splits(
    data: Path, rate: int, label_column: str, say: Callable[[str], None], progress: bool
) -> tuple[ClipArray, ClipArray | None]:
    """Read the training clips and, where the data has them, the validation clips with the same labels."""
    clips = find_clips(data, label_column=label_column)
    chosen = for_training(clips, data)
    labels = check_classes(data, chosen, clips, say)
    train = load_clips(chosen, rate, CLIP_SECONDS, labels, progress)
    held_out = [clip for clip in clips if clip.split == "val"]
    val = load_clips(held_out, rate, CLIP_SECONDS, labels, progress) if held_out else None
    for line in train.report.lines():
        say(line)
    for line in val.report.lines() if val else []:
        say(f"validation: {line}")
    return train, val


def for_training(clips: list[Clip], data: Path) -> list[Clip]:
    """Return the clips of a folder to train on: those of "train", or all where it has no splits; raise if none."""
    chosen = [clip for clip in clips if clip.split in ("train", "")]
    if not chosen:
        splits = sorted({clip.split for clip in clips})
        raise ValueError(f"no training clips in {data}: its splits are {', '.join(splits)}")
    return chosen


def check_classes(data: Path, train: list[Clip], clips: list[Clip], say: Callable[[str], None]) -> list[str]:
    """Return the labels of the training clips, sorted. Raise where training could not learn a class of the data."""
    counts = Counter(clip.label for clip in train)
    if len(counts) < 2:
        raise ValueError(f"{data} holds only the class {train[0].label!r}: a keyword model needs at least two")
    unheard = {clip.label for clip in clips} - set(counts)
    if unheard:
        raise ValueError(
            f"no training clips of {names(unheard)} in {data}, only clips of other splits: add some, or take these away"
        )
    empty = [] if (data / MANIFEST).is_file() else empty_folders(data)
    if empty:
        say(f"no clips in the folders {names(empty)} of {data}: they are no classes")
    single = {label for label, count in counts.items() if count == 1}
    if single:
        say(f"only one training clip of {names(single)}: too few to learn a word from")
    return sorted(counts)


def empty_folders(data: Path) -> list[str]:
    """List the folders of a folder per word that hold nothing at all: a word was meant."""
    return [folder.name for folder in data.iterdir() if folder.is_dir() and not any(folder.iterdir())]


def names(labels: Iterable[str], most: int = 8) -> str:
    """Write labels as a list that fits a line."""
    shown = sorted(labels)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more

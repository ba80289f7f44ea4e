"""A folder of recordings -> the list of its clips: who says what, in which file, for which split.

Three layouts are read:

- a `manifest.csv` with at least the columns path, label, speaker, split;
- tar files in WebDataset's layout (`audiossm.data.shards`);
- Speech Commands' layout, a folder per word with files `<speaker>_nohash_<n>.wav`.
"""

import csv
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from audiossm.data.shards import AUDIO_SUFFIXES, find_shards, read_shards, refuse

MANIFEST = "manifest.csv"
SILENCE, OTHER = "_silence_", "_other_"  # the background classes: nobody speaks, or says another word
NOISE_FOLDER = "_background_noise_"  # long recordings of noise beside Speech Commands' words: not a class

# Speech Commands' own names of the splits, as ours.
SPLIT_NAMES = {"training": "train", "validation": "val", "testing": "test"}


@dataclass(frozen=True)
class Clip:
    """One recording."""

    path: Path
    label: str  # the word in it; '' for a file that lies in no word's folder
    speaker: str  # '' where nobody says who
    split: str  # train, val or test; '' in a folder without splits


def find_clips(
    root: str | os.PathLike,
    split: str | None = None,
    label_column: str = "label",
    where: Mapping[str, str] | None = None,
) -> list[Clip]:
    """List the clips of a data folder, in an order that does not depend on the file system.

    root: the folder, with a manifest.csv, tar files or a folder per word.
    split: keep only this split (train, val or test); None keeps all. A folder without splits is used whole.
    label_column: the manifest's column that holds the labels; a folder per word has only 'label'.
    where: keep only the manifest's rows, or the shards' samples, that have these values, by column.

    Raises FileNotFoundError or ValueError with one line that says what is wrong.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no data folder at {root}")
    if (root / MANIFEST).is_file():
        clips = _from_manifest(root, label_column, where or {})
    elif shards := find_shards(root):
        clips = _from_shards(root, shards, label_column, where or {})
    elif label_column != "label" or where:
        column = next(iter(where or {}), label_column)
        raise ValueError(f"{root} has no {MANIFEST}, so there is no column {column!r}")
    else:
        clips = _from_folders(root)
    clips = _pick_split(clips, split, root)
    missing = [clip.path for clip in clips if not clip.path.is_file()] if (root / MANIFEST).is_file() else []
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(clips)} files that {root / MANIFEST} names are missing; "
            f"the first: {missing[0]}"
        )
    return clips


def which_split(name: str) -> str:
    """Give the split of a file by its name, exactly as Speech Commands' `which_set` does.

    A tenth of the speakers are for val, a tenth for test. All that follows `_nohash_` is ignored, so that
    one speaker's files fall in one split, on every machine.
    """
    speaker = re.sub(r"_nohash_.*$", "", Path(name).name)
    largest = 2**27 - 1
    percent = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (largest + 1) * (100.0 / largest)
    return "val" if percent < 10 else "test" if percent < 20 else "train"


def _from_manifest(root: Path, label_column: str, where: Mapping[str, str]) -> list[Clip]:
    """Read manifest.csv; the files it names are looked for later, once the split is picked."""
    manifest = root / MANIFEST
    clips = []
    found: dict[str, set[str]] = {column: set() for column in where}  # the values that there are
    try:
        with open(manifest, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a mark first
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            wanted = dict.fromkeys(("path", label_column, "speaker", "split", *where))
            lacking = [column for column in wanted if column not in columns]
            if lacking:
                raise ValueError(f"{manifest} lacks the column {', '.join(lacking)}; it has {', '.join(columns)}")
            for row in reader:
                path, label, speaker, split = (
                    (row[c] or "").strip() for c in ("path", label_column, "speaker", "split")
                )
                if not path or not label:
                    raise ValueError(f"{manifest}, line {reader.line_num}: no {'label' if path else 'path'}")
                values = {column: (row[column] or "").strip() for column in where}
                for column, value in values.items():
                    found[column].add(value)
                if values == dict(where):
                    clips.append(Clip(root / path, label, speaker, SPLIT_NAMES.get(split, split)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{manifest} is not a CSV file in UTF-8: {error}") from None
    if not clips and any(found.values()):
        there = "; ".join(f"{column} is {', '.join(sorted(values)[:8])}" for column, values in found.items())
        asked = " and ".join(f"{column} {value!r}" for column, value in where.items())
        raise ValueError(f"no clips in {manifest} have {asked}: there {there}")
    if not clips:
        raise ValueError(f"no clips in {manifest}: it has no rows")
    return sorted(clips, key=lambda clip: clip.path)


def _from_shards(root: Path, shards: Sequence[Path], label_column: str, where: Mapping[str, str]) -> list[Clip]:
    """Look into tar files."""
    clips = [Clip(*found) for found in read_shards(shards, label_column, where)]
    if not clips:
        asked = " with " + " and ".join(f"{column} {value!r}" for column, value in where.items()) if where else ""
        raise ValueError(f"no clips{asked} in the {len(shards)} tar files of {root}")
    return clips


def _from_folders(root: Path) -> list[Clip]:
    """Walk a folder per word; files deeper down belong to the outermost folder, files in `root` to none."""
    found = []
    for folder, inner, names in os.walk(root, onerror=refuse, followlinks=True):
        inner[:] = [name for name in inner if name != NOISE_FOLDER and not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                found.append(Path(folder, name).relative_to(root))
    if not found:
        raise ValueError(
            f"no clips in {root}: expected {MANIFEST}, or a folder per word with wav, flac, ogg or opus files"
        )
    found.sort()
    clips = []
    for path in found:
        label = path.parts[0] if len(path.parts) > 1 else ""
        speaker = path.name.split("_nohash_")[0] if "_nohash_" in path.name else ""
        clips.append(Clip(root / path, label, speaker, ""))
    return _split_by_folder(clips, root) or _split_by_list(clips, root) or _split_by_speaker(clips)


def _split_by_folder(clips: list[Clip], root: Path) -> list[Clip]:
    """Read root/train/yes/x.wav as it is meant; else the classes would be train, val and test."""
    splits = {name: SPLIT_NAMES.get(name, name) for name in {clip.label for clip in clips}}
    if not set(splits.values()) <= {"train", "val", "test"}:
        return []
    inside = [clip.path.relative_to(root).parts[1:] for clip in clips]
    return [
        replace(clip, label=parts[0] if len(parts) > 1 else "", split=splits[clip.label])
        for clip, parts in zip(clips, inside, strict=True)
    ]


def _split_by_list(clips: list[Clip], root: Path) -> list[Clip]:
    """Use the lists that Speech Commands ships; what they do not name is for training."""
    split_of: dict[Path, str] = {}
    for split, name in (("val", "validation_list.txt"), ("test", "testing_list.txt")):
        if (root / name).is_file():
            lines = (root / name).read_text(encoding="utf-8").split("\n")
            # Without the suffix: the lists say .wav even where the clips were repacked as FLAC or Opus.
            split_of |= {Path(line.strip()).with_suffix(""): split for line in lines if line.strip()}
    if not split_of:
        return []
    return [replace(clip, split=split_of.get(clip.path.relative_to(root).with_suffix(""), "train")) for clip in clips]


def _split_by_speaker(clips: list[Clip]) -> list[Clip]:
    """Split by the hash of the speaker; where no name carries a speaker, leave the clips without splits."""
    if not any(clip.speaker for clip in clips):
        return clips
    return [replace(clip, split=which_split(clip.path.name)) for clip in clips]


def _pick_split(clips: list[Clip], split: str | None, root: Path) -> list[Clip]:
    """Keep the clips of one split, or all where none is asked for or the folder has none."""
    there = sorted({clip.split for clip in clips} - {""})
    if split is None or not there:
        return clips
    split = SPLIT_NAMES.get(split, split)
    if split not in there:
        raise ValueError(f"{root} has no split {split!r}; it has {', '.join(there)}")
    return [clip for clip in clips if clip.split == split]

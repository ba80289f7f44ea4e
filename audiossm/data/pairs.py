"""Noisy recordings and the clean speech in them, file by file, in the layouts of the field's test sets."""

import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from audiossm.data.audio import sound_files
from audiossm.data.folder import MANIFEST, SPLIT_NAMES

FILE_ID = re.compile(r"fileid_(\d+)")  # DNS challenge: noisy and clean files share a number
SNR = re.compile(r"snr_?(-?\d+)", re.IGNORECASE)  # and noisy ones tell the ratio


@dataclass(frozen=True)
class Pair:
    """A noisy file and its clean one; `snr` is their ratio in dB where somebody says so."""

    noisy: Path
    clean: Path
    snr: float | None

    @property
    def name(self) -> str:
        """What files made of it are called, without a suffix."""
        return self.noisy.stem


def find_pairs(root: str | os.PathLike, split: str = "test") -> list[Pair]:
    """List the pairs of a folder, sorted by name.

    root: holds a folder of noisy files and one of clean files, of equal names (VoiceBank-DEMAND) or numbers (DNS); or a
        manifest.csv whose column `clean_path` names the clean file of each noisy one.
    split: which rows of a manifest, or which folders where there are several; a folder without splits is used whole.

    Raises FileNotFoundError or ValueError with one line that says what is wrong.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no data folder at {root}")
    rows = manifest_rows(root)
    pairs = named_in(root, rows, split) if rows else side_by_side(root, split)
    missing = [path for pair in pairs for path in (pair.noisy, pair.clean) if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} files of the {len(pairs)} pairs in {root} are missing: {missing[0]}")
    return sorted(pairs, key=lambda pair: pair.name)


def manifest_rows(root: Path) -> list[dict[str, str]]:
    """Return the rows of a folder's manifest that name a clean file; none where there is no manifest, or no such row.

    Raises ValueError where it cannot be read.
    """
    path = root / MANIFEST
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from None
    return [row for row in rows if row.get("path") and row.get("clean_path")]


def named_in(root: Path, rows: list[dict[str, str]], split: str) -> list[Pair]:
    """Return the pairs of a split that a manifest names."""
    splits = {SPLIT_NAMES.get(row.get("split") or "", row.get("split") or "") for row in rows} - {""}
    if splits and split not in splits:
        raise ValueError(f"{root} has no pairs of split {split!r}; it has {', '.join(sorted(splits))}")
    chosen = [row for row in rows if not splits or SPLIT_NAMES.get(row["split"], row["split"]) == split]
    return [Pair(root / row["path"], root / row["clean_path"], ratio(row)) for row in chosen]


def ratio(row: Mapping[str, str]) -> float | None:
    """Return what a row says of its ratio of speech to noise, in dB."""
    try:
        return float(row.get("snr_db") or "")
    except ValueError:
        return None


def side_by_side(root: Path, split: str) -> list[Pair]:
    """Return the pairs of two folders, of equal names or numbers."""
    noisy, clean = (only_folder(root, word, split) for word in ("noisy", "clean"))
    of_key = {key(path): path for path in sound_files(clean)}
    paths = sound_files(noisy)
    alone = [path for path in paths if key(path) not in of_key]
    if alone:
        raise ValueError(
            f"{len(alone)} of {len(paths)} files in {noisy} have none of their name in {clean}: {alone[0]}"
        )
    above = {root.parent / row["path"]: ratio(row) for row in manifest_rows(root.parent)}
    return [Pair(path, of_key[key(path)], above.get(path, told_by_name(path))) for path in paths]


def only_folder(root: Path, word: str, split: str) -> Path:
    """Return the folder in `root` whose name holds a word, and the split's where several do."""
    found = sorted(path for path in root.iterdir() if path.is_dir() and word in path.name.lower())
    if len(found) > 1:
        found = [path for path in found if split in path.name.lower()]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"{root} should hold one folder of {word} files for the split {split!r}; it has {names}")
    return found[0]


def key(path: Path) -> str:
    """Return what a noisy file and its clean one have in common."""
    number = FILE_ID.search(path.stem)
    return number[1] if number else path.stem


def told_by_name(path: Path) -> float | None:
    """Return the ratio of speech to noise that a file's name tells, in dB."""
    told = SNR.search(path.stem)
    return float(told[1]) if told else None

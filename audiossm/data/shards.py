"""Clips in tar files, in WebDataset's layout, read where they lie: nothing is unpacked.

Files of one name up to its first dot are one sample: `0001.flac` with, if you like, `0001.cls` or `0001.txt` (its
label) or `0001.json` (label, speaker, split and whatever else `where` may ask for). A tar file holds its members as
they are, so that any piece of any of them can be read at once: an epoch's order is free, a stopped training goes on
where it was, and each of many machines reads only what it trains on. (WebDataset's own reader goes through shards from
end to end, which is for shards behind a network protocol.)

A clip's path is that of the tar file with the member's name behind it: `train-000.tar/0001.flac`.
"""

import io
import json
import os
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

AUDIO_SUFFIXES = frozenset(  # what soundfile (libsndfile) opens, by the end of the name
    [".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"]
)
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Member(io.RawIOBase):
    """A piece of a file as a file of its own.

    Args:
        path: the whole.
        offset, size: of the piece, in bytes.
    """

    def __init__(self, path: str | os.PathLike, offset: int, size: int):
        self.whole, self.offset, self.size, self.at = open(path, "rb", buffering=0), offset, size, 0  # noqa: SIM115

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return the place in the piece."""
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the piece."""
        self.at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence])
        return self.at

    def readinto(self, buffer: Any) -> int:
        """Read on, no further than the piece goes."""
        count = max(0, min(len(buffer), self.size - self.at))
        self.whole.seek(self.offset + self.at)
        read = self.whole.readinto(memoryview(buffer)[:count])
        self.at += read
        return read

    def close(self) -> None:
        """Close the whole too."""
        self.whole.close()
        super().close()


@cache
def members(shard: Path) -> dict[str, tuple[int, int]]:
    """Return offset and size of every file in a tar file, by name; raise ValueError where it cannot be read."""
    try:
        with tarfile.open(shard, "r:") as tar:
            return {entry.name.removeprefix("./"): (entry.offset_data, entry.size) for entry in tar if entry.isreg()}
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{shard} cannot be read as a tar file without compression: {error}") from None


def open_member(path: str | os.PathLike) -> Member | None:
    """Open the clip behind a path into a tar file; None where the path is none."""
    path = Path(path)
    for shard in path.parents:
        if shard.suffix == ".tar" and shard.is_file():
            name = path.relative_to(shard).as_posix()
            if name not in members(shard):
                raise FileNotFoundError(f"no {name} in {shard}")
            return Member(shard, *members(shard)[name])
    return None


def refuse(error: OSError) -> None:
    """Raise what keeps os.walk from reading a folder, which it would pass over."""
    raise error


def files_in(folder: Path) -> Iterator[Path]:
    """Give every file in or under a folder; OSError where one of its folders cannot be read."""
    for root, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(root, name) for name in names)


def find_shards(root: Path) -> list[Path]:
    """List the tar files in or under a folder, sorted; none where audio lies there unpacked."""
    shards = sorted(path for path in files_in(root) if path.suffix == ".tar")
    loose = bool(shards) and any(path.suffix.lower() in AUDIO_SUFFIXES for path in files_in(root))
    return [] if loose else shards


def read_shards(
    shards: Sequence[Path], label_column: str, where: Mapping[str, str]
) -> list[tuple[Path, str, str, str]]:
    """List (path, label, speaker, split) of the clips in tar files that have the values asked for.

    A split that no JSON names is that of the shard's own name or folder: train-000.tar, val/000.tar.
    """
    found = []
    for shard in shards:
        samples: dict[str, dict[str, str]] = defaultdict(dict)  # what each sample is made of, by suffix
        for name in members(shard):
            folder, _, base = name.rpartition("/")
            key, _, suffix = base.partition(".")
            samples[f"{folder}/{key}"][suffix.lower()] = name
        for sample in samples.values():
            audio = [name for suffix, name in sample.items() if f".{suffix}" in AUDIO_SUFFIXES]
            if not audio:
                continue
            facts = {"split": split_of(shard), "speaker": "", label_column: ""} | described(shard, sample, label_column)
            if all(str(facts.get(column, "")) == value for column, value in where.items()):
                label, speaker, split = (str(facts[name]) for name in (label_column, "speaker", "split"))
                found.append((shard / audio[0], label, speaker, split))
    return found


def described(shard: Path, sample: Mapping[str, str], label_column: str) -> dict[str, Any]:
    """Return what a sample's text members say of it."""
    for suffix in ("json", "cls", "txt"):
        if suffix in sample:
            offset, size = members(shard)[sample[suffix]]
            with open(shard, "rb") as file:
                file.seek(offset)
                text = file.read(size)
            try:
                said = json.loads(text) if suffix == "json" else {label_column: text.decode().strip()}
            except ValueError as error:
                raise ValueError(f"{sample[suffix]} in {shard} cannot be read: {error}") from None
            if not isinstance(said, dict):
                raise ValueError(f"{sample[suffix]} in {shard} is no JSON object: write names and values")
            return said
    return {}


def split_of(shard: Path) -> str:
    """Return the split that a shard's name begins with, or its folder's; '' where neither says."""
    for name in (shard.stem, shard.parent.name):
        word = name.replace("_", "-").split("-")[0].lower()
        if word in SPLITS:
            return SPLITS[word]
    return ""

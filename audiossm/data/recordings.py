"""Recordings of any length, read from anywhere in them: kept in memory where they fit, else left on disk."""

import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rich.console import Console
from rich.progress import track

from audiossm.data.audio import opened, resample, to_int16
from audiossm.data.folder import Clip

MEMORY = 8.0  # GB of audio that one process keeps; 16 kHz are 70 hours
READERS = 8  # threads that read from disk
MARGIN = 0.05  # seconds read on both sides of a piece that is resampled: longer than soxr's filter


@dataclass(frozen=True)
class Recordings:
    """Recordings at one rate.

    Attributes:
        clips: where they lie and what is in them.
        lengths: samples of each at `rate`.
        rate: Hz.
        file_rates: Hz, of each file; what differs from `rate` is resampled as it is read.
        memory: GB that may be kept.
        progress: show a bar where they are read into memory.
    """

    clips: Sequence[Clip]
    lengths: Sequence[int]
    rate: int
    file_rates: Sequence[int]
    memory: float = MEMORY
    progress: bool = False

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def seconds(self) -> float:
        """Length of all together."""
        return sum(self.lengths) / self.rate

    @property
    def fits(self) -> bool:
        """Whether they are kept in memory, from the first reading on."""
        return 2 * sum(self.lengths) <= self.memory * 1e9

    @cached_property
    def kept(self) -> list[np.ndarray]:
        """All recordings, int16 (length,) each. Threads are enough: libsndfile and soxr work outside Python's lock."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            read = pool.map(lambda i: self.from_disk(i, 0, self.lengths[i]), range(len(self)))
            try:
                return list(bar(read, len(self), self.progress))
            except BaseException:
                pool.shutdown(cancel_futures=True)  # one bad file: do not read all the others first
                raise

    def read(self, i: int, begin: int, end: int) -> np.ndarray:
        """Return samples begin to end of recording i, int16; zeros stand before its beginning and after its end."""
        first, last = max(begin, 0), min(end, self.lengths[i])
        if first >= last:
            return np.zeros(end - begin, np.int16)
        piece = self.kept[i][first:last] if self.fits else self.from_disk(i, first, last)
        return np.pad(piece, (first - begin, end - last)) if len(piece) < end - begin else piece

    def read_all(self, pieces: Sequence[tuple[int, int, int]]) -> list[np.ndarray]:
        """Read several (i, begin, end); from disk, where a GPU would wait for them, in threads."""
        if self.fits:
            return [self.read(*piece) for piece in pieces]
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(lambda piece: self.read(*piece), pieces))

    def from_disk(self, i: int, begin: int, end: int) -> np.ndarray:
        """Read a piece that lies within recording i, with what its resampling needs around it."""
        rate = self.file_rates[i]
        margin = 0 if rate == self.rate else round(MARGIN * rate)
        together = rate // math.gcd(rate, self.rate)  # samples of the file after which one of both rates coincide
        first = max(0, begin * rate // self.rate - margin) // together * together
        with opened(self.clips[i].path) as file:
            file.seek(first)
            channels = file.read(-(-end * rate // self.rate) + margin - first, dtype="float32", always_2d=True)
        if not np.isfinite(channels).all():
            raise ValueError(f"{self.clips[i].path} holds NaN or infinite samples")
        samples = resample(channels.mean(axis=1), rate, self.rate)
        ahead = begin - first * self.rate // rate
        piece = to_int16(samples[ahead : ahead + end - begin])
        return np.pad(piece, (0, end - begin - len(piece)))


def open_recordings(
    clips: Sequence[Clip], rate: int | None, memory: float = MEMORY, progress: bool = False
) -> tuple[Recordings, list[str]]:
    """Look into the headers of clips: the recordings at `rate` Hz (None: their own), and lines on what is odd in them.

    Raises ValueError where a file is no audio, where all are empty, or where they have several rates and none is given.
    """

    def look(clip: Clip) -> tuple[int, int, int]:
        with opened(clip.path) as file:
            return file.frames, file.samplerate, file.channels

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(look, clips))
    empty = sum(not frames for frames, _, _ in found)
    full = [(clip, *facts) for clip, facts in zip(clips, found, strict=True) if facts[0]]
    if not full:
        raise ValueError(f"the recordings are empty: {clips[0].path} and all others hold no samples")
    rates = sorted({rate for _, _, rate, _ in full})
    if rate is None and len(rates) > 1:
        raise ValueError(
            f"the recordings have several rates ({', '.join(map(str, rates))} Hz): --rate {rates[-1]} resamples all to "
            "one, or --where picks rows of a manifest"
        )
    rate = rate or rates[0]
    lengths = [max(1, frames * rate // own) for _, frames, own, _ in full]
    odd = {
        "holding no samples: left out": empty,
        f"at another sampling rate: resampled to {rate} Hz": sum(own != rate for _, _, own, _ in full),
        "with several channels: the channels' mean taken": sum(channels > 1 for *_, channels in full),
    }
    said = [f"{count} of {len(clips)} recordings {what}" for what, count in odd.items() if count]
    own_rates = [own for _, _, own, _ in full]
    recordings = Recordings([clip for clip, *_ in full], lengths, rate, own_rates, memory, progress)
    if not recordings.fits:
        hours, size = recordings.seconds / 3600, 2 * sum(lengths) / 1e9
        said.append(f"{hours:.0f} hours are {size:.0f} GB, more than {memory:g}: they are read from disk as needed")
    return recordings, said


def bar(work: Iterable[np.ndarray], total: int, shown: bool) -> Iterable[np.ndarray]:
    """Show a bar on stderr, where that is a terminal."""
    console = Console(stderr=True)
    return track(work, "reading recordings", total=total, console=console, transient=True, disable=not shown)

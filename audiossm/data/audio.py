"""Audio files -> NumPy arrays: one file, or all clips of a data set at one rate and length in one array."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Console
from rich.progress import track

from audiossm.data.folder import Clip
from audiossm.data.shards import AUDIO_SUFFIXES, files_in, open_member

FLAT = 3  # samples in a row at full scale: a peak that only just reaches it has one or two
FULL_SCALE = 32768.0  # int16 of a full-scale sample; soundfile divides by the same, so 16-bit files stay exact


@dataclass(frozen=True)
class LoadReport:
    """What had to be done to the clips to bring them into one array: each field counts clips."""

    clips: int
    padded: int  # shorter than asked: zeros at the end
    cropped: int  # longer than asked: the middle is kept
    resampled: int  # another sampling rate
    downmixed: int  # several channels: their mean
    clipped: int  # peaks beyond full scale, limited to it
    flattened: int  # peaks cut off at full scale by whoever recorded them, kept so
    silent: int  # nothing but zeros, kept so

    def lines(self) -> list[str]:
        """Say it in words, one line for each thing that was done to any clip."""
        done = {
            "shorter than asked: padded with zeros at the end": self.padded,
            "longer than asked: cropped to the middle": self.cropped,
            "at another sampling rate: resampled": self.resampled,
            "with several channels: the channels' mean taken": self.downmixed,
            "with peaks beyond full scale: limited": self.clipped,
            "clipped when recorded, with peaks cut off at full scale: kept so": self.flattened,
            "silent, all zeros: kept so": self.silent,
        }
        return [f"{count} of {self.clips} clips {what}" for what, count in done.items() if count]


@dataclass(frozen=True)
class ClipArray:
    """Clips in memory, n of them, all at one rate and of one length."""

    audio: np.ndarray  # (n, samples) int16: 105,000 one-second clips at 16 kHz are 3.4 GB
    targets: np.ndarray  # (n,) int64: the place of each clip's label in `labels`
    labels: list[str]
    rate: int  # Hz
    clips: list[Clip]
    report: LoadReport

    def __len__(self) -> int:
        return len(self.audio)

    def samples(self, rows: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Give some clips as float32 (rows, samples) in [-1, 1]."""
        return self.audio[rows].astype(np.float32) / np.float32(FULL_SCALE)


def read_audio(path: str | os.PathLike, rate: int | None = None) -> tuple[np.ndarray, int]:
    """Read a file as float32 (n,), full scale 1, with its rate in Hz; several channels give their mean.

    rate: resample to this rate in Hz if the file's own differs (band-limited); None keeps the file's.

    Raises FileNotFoundError, or ValueError where the file is not audio, is empty or holds NaN or infinity.
    """
    samples, file_rate = _read_channels(path)
    mono = samples.mean(axis=1)
    if rate is None or rate == file_rate:
        return mono, file_rate
    return resample(mono, file_rate, rate), rate


def resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resample float32 (n,) from `rate` to `new_rate` Hz, band-limited and without delay (soxr)."""
    if rate == new_rate:
        return samples
    import soxr

    return soxr.resample(samples, rate, new_rate)


def read_blocks(path: str | os.PathLike, rate: int, seconds: float = 10.0) -> Iterator[np.ndarray]:
    """Read a file of any length at `rate` Hz as `read_audio` does, in blocks of about `seconds`: float32 (n,)."""
    with opened(path) as file:
        if not file.frames:
            raise ValueError(f"{path} is empty: it holds no samples")
        resampler = None
        if file.samplerate != rate:
            import soxr

            resampler = soxr.ResampleStream(file.samplerate, rate, 1)
        for channels in file.blocks(round(seconds * file.samplerate), dtype="float32", always_2d=True):
            block = channels.mean(axis=1)
            if not np.isfinite(block).all():
                raise ValueError(f"{path} holds NaN or infinite samples")
            yield resampler.resample_chunk(block) if resampler else block
        if resampler:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def sound_files(folder: str | os.PathLike) -> list[Path]:
    """List every sound file in or under a folder, sorted; FileNotFoundError where there is none."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    paths = sorted(p for p in files_in(Path(folder)) if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
    if not paths:
        raise FileNotFoundError(f"no sound files in {folder}")
    return paths


def load_recordings(folders: Sequence[str | os.PathLike], rate: int, seconds: float) -> np.ndarray:
    """Read every sound file in or under some folders at `rate` Hz, one after another: int16 (n,).

    Raises FileNotFoundError where there is none, ValueError where they are no longer than `seconds` together.
    """
    paths = [path for folder in folders for path in sound_files(folder)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pieces = list(pool.map(lambda path: read_audio(path, rate)[0], paths))
    samples = to_int16(np.concatenate(pieces))
    if len(samples) <= rate * seconds:
        raise ValueError(f"the recordings in {', '.join(map(str, folders))} are no longer than {seconds:g} s together")
    return samples


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Round float samples to int16, limited to full scale."""
    return np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def load_clips(
    clips: Sequence[Clip],
    rate: int,
    seconds: float,
    labels: Sequence[str] | None = None,
    progress: bool = True,
) -> ClipArray:
    """Decode all clips once into one array at `rate` Hz, each `seconds` long.

    A shorter clip is padded with zeros at its end, a longer one cropped to its middle; the report says so.
    labels: the classes in the model's order (a label beyond them is an error); None takes the clips', sorted.
    progress: show a bar on stderr where that is a terminal.
    """
    if not clips:
        raise ValueError("no clips to load")
    if rate <= 0 or round(rate * seconds) < 1:
        raise ValueError(f"clips of {seconds} s at {rate} Hz hold no sample: ask for more of either")
    names = sorted({clip.label for clip in clips}) if labels is None else list(labels)
    place = {name: i for i, name in enumerate(names)}
    unknown = sorted({clip.label for clip in clips} - set(place))
    if unknown:
        raise ValueError(f"clips are labelled {', '.join(unknown)}, but the classes are {', '.join(names)}")

    audio = np.zeros((len(clips), round(rate * seconds)), dtype=np.int16)
    done = np.zeros((len(clips), 7), dtype=bool)  # the fields of LoadReport after `clips`

    def load(i: int) -> None:
        done[i] = _load_into(audio[i], clips[i].path, rate)

    # Threads are enough: libsndfile and soxr work outside Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for _ in track(
                pool.map(load, range(len(clips))),
                "reading clips",
                total=len(clips),
                console=Console(stderr=True),
                transient=True,
                disable=not progress,
            ):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)  # one bad file: do not read the other hundred thousand first
            raise
    targets = np.array([place[clip.label] for clip in clips], dtype=np.int64)
    counts = (int(count) for count in done.sum(axis=0))
    return ClipArray(audio, targets, names, rate, list(clips), LoadReport(len(clips), *counts))


def _read_channels(path: str | os.PathLike) -> tuple[np.ndarray, int]:
    """Read float32 (n, channels) and the rate, or say in one line why not."""
    with opened(path) as file:
        samples, rate = file.read(dtype="float32", always_2d=True), file.samplerate
    if not len(samples):
        raise ValueError(f"{path} is empty: it holds no samples")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path} holds NaN or infinite samples")
    return samples, rate


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[soundfile.SoundFile]:
    """Open a sound file, which may lie in a tar file; what libsndfile cannot read becomes a ValueError."""
    member = None if Path(path).is_file() else open_member(path)
    if member is None and not Path(path).is_file():
        raise FileNotFoundError(f"no audio file at {path}")
    try:
        with member or contextlib.nullcontext(path) as source, soundfile.SoundFile(source) as file:
            yield file
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} cannot be read as audio: {error.error_string}") from None


def _load_into(row: np.ndarray, path: Path, rate: int) -> tuple[bool, ...]:
    """Fill one row of int16 (samples,) from a file; say what LoadReport counts, in its order."""
    samples, file_rate = _read_channels(path)
    mono = resample(samples.mean(axis=1), file_rate, rate)
    spare = len(mono) - len(row)
    if spare > 0:
        mono = mono[spare // 2 :][: len(row)]
    row[: len(mono)] = to_int16(mono)
    clipped = bool(np.abs(mono).max() > 1)
    return (
        spare < 0,
        spare > 0,
        file_rate != rate,
        samples.shape[1] > 1,
        clipped,
        not clipped and longest_at_full_scale(row) >= FLAT,
        not row.any(),
    )


def longest_at_full_scale(samples: np.ndarray) -> int:
    """Return how many int16 samples (n,) in a row are at most at full scale."""
    full = np.concatenate(([0], (samples >= FULL_SCALE - 1) | (samples <= 1 - FULL_SCALE), [0])).astype(np.int8)
    edges = np.flatnonzero(np.diff(full))
    return int((edges[1::2] - edges[::2]).max(initial=0))

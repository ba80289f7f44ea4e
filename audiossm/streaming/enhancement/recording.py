"""Clean sound files: block by block, in constant memory, each output as long as its input and aligned with it."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from audiossm.streaming.audiofile import AudioFile, sound_file
from audiossm.streaming.enhancement.model import Enhancer

BLOCK = 0.25  # seconds


@dataclass
class Report:
    """What came of it: seconds of audio and the CPU time they took; samples that were no audio."""

    seconds: float = 0.0
    took: float = 0.0
    bad_samples: int = 0
    rate: int = 0
    channels: int = 0

    @property
    def real_time_factor(self) -> float:
        """CPU time over audio time."""
        return self.took / self.seconds if self.seconds else 0.0


def denoise_file(
    model: Enhancer,
    source: str | Path,
    out: str | Path,
    strength: float = 1.0,
    tell: Callable[[float], object] = lambda seconds: None,
) -> Report:
    """Clean a sound file: same length, rate, channels and, where the output's format has it, kind of samples.

    The output is written beside its place and put there at the end: it is whole or not there.

    Args:
        model: what cleans it.
        source: any file that libsndfile reads.
        out: the file to write; its ending says the format.
        strength: 1 is the model's output, 0 the input.
        tell: gets the seconds that are done.

    Raises:
        FileNotFoundError, ValueError, OSError: with one line, where a file is not as it should be.
    """
    source, out = Path(source), Path(out)
    if out.exists() and source.exists() and out.samefile(source):
        raise ValueError(f"{out} is the input itself: give the output another name")
    with AudioFile(source) as file:
        stream = model.stream(file.rate, strength)
        report = Report(rate=file.rate, channels=file.channels)
        length = round(file.seconds * file.rate)
        with sound_file(out, file.rate, length, file.channels, like=file) as written:
            whole = written.subtype.startswith("PCM")

            def write(enhanced: np.ndarray) -> None:
                enhanced = enhanced.reshape(-1, file.channels)
                written.write(enhanced.clip(-1, 1) if whole else enhanced)

            for block in file.blocks(max(1, round(BLOCK * file.rate))):
                with counted(report):
                    enhanced = stream.push(block)
                write(enhanced)
                report.seconds += len(block) / file.rate
                tell(report.seconds)
            report.bad_samples = stream.bad_samples
            with counted(report):
                enhanced = stream.flush()
            write(enhanced)
        if not report.seconds:
            raise ValueError(f"{source} holds no audio")
    return report


@contextmanager
def counted(report: Report) -> Iterator[None]:
    """Count the CPU time of the block."""
    begun = time.thread_time()
    yield
    report.took += time.thread_time() - begun


def pairs(source: Path, out: Path) -> list[tuple[Path, Path]]:
    """Return the sound files in a folder, those of its folders included, and where each cleaned one goes.

    The folder that they go to is made. OSError or ValueError, with one line, where it cannot be that.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: a folder is cleaned into a folder")
    if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
        raise ValueError(f"{out} lies in the folder that is cleaned: give another one")
    known = {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"} | {".aif", ".oga", ".opus"}
    found = sorted(path for path in every_file(source) if path.suffix.lower() in known)
    if not found:
        raise ValueError(f"there is no sound file in {source}")
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise PermissionError(f"cannot write into {out}: it is read-only")
    return [(path, out / path.relative_to(source)) for path in found]


def every_file(folder: Path) -> Iterator[Path]:
    """Give the files in a folder and its folders. OSError where one cannot be read, which rglob would pass over."""

    def refuse(error: OSError) -> None:
        raise error

    for root, _, names in os.walk(folder, onerror=refuse):
        yield from (path for path in (Path(root, name) for name in names) if path.is_file())

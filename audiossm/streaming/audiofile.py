"""Read and write sound files block by block, in constant memory."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile

WAV_LIMIT = 2**32 - 2**16  # bytes that its header can count
SAMPLE = {"PCM_S8": 1, "PCM_U8": 1, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}  # bytes; others at most 2
ENDINGS = {"AIF": "AIFF", "OGA": "OGG", "OPUS": "OGG"}  # formats with endings that are not their names
UNTOLD = ("OGG", "MP3")  # formats of which libsndfile does not say that they could not be written to the end
WAVS = ("WAV", "WAVEX", "RF64")  # formats of files that end in .wav


class AudioFile:
    """A sound file opened for reading: any format libsndfile knows (WAV, FLAC, Ogg, MP3, ...).

    rate: Hz. channels: count. seconds: length as the file's header states it. format, subtype: its container and its
    kind of samples, as libsndfile calls them.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).exists():
            raise FileNotFoundError(f"there is no file {path}")
        try:
            self._file = soundfile.SoundFile(str(path))
        except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: raw audio, whose rate is unknown
            reason = getattr(error, "error_string", "raw audio has no header")
            raise ValueError(f"{path} is no sound file that can be read ({reason.strip().rstrip('.')})") from None
        self.rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.format: str = self._file.format
        self.subtype: str = self._file.subtype
        self.seconds: float = self._file.frames / self.rate

    def blocks(self, samples: int = 4096) -> Iterator[np.ndarray]:
        """Yield the audio in order as (n, channels) float32, n = `samples` but in the last block."""
        try:
            while len(block := self._file.read(samples, dtype="float32", always_2d=True)):
                yield block
        except soundfile.LibsndfileError as error:
            raise ValueError(
                f"{self._file.name} cannot be read on ({error.error_string.strip().rstrip('.')})"
            ) from None

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


@contextlib.contextmanager
def sound_file(
    out: Path, rate: int, samples: int, channels: int = 1, like: AudioFile | None = None
) -> Iterator[soundfile.SoundFile]:
    """Open a sound file for writing, beside its place; move it there if anything was written.

    samples: how many it is going to have. like: a file whose kind of samples it gets, if its format has it, else the
    format's own, 16 bits mostly.
    """
    kind = out.suffix[1:].upper()
    kind = ENDINGS.get(kind, kind)
    if kind not in soundfile.available_formats() or kind == "RAW":
        raise ValueError(f"{out.name!r} does not end in a sound file's format: name it .wav, .flac or .ogg")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"no folder {out.parent} to write {out.name} into")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise PermissionError(
            f"cannot write {out}: " + ("it is a folder" if out.is_dir() else "its folder is read-only")
        )
    subtype = "OPUS" if out.suffix == ".opus" else soundfile.default_subtype(kind)
    if like is not None:
        kind = like.format if kind == "WAV" and like.format in WAVS else kind
        subtype = like.subtype if soundfile.check_format(kind, like.subtype) else subtype
    size = SAMPLE.get(subtype, 2) * channels
    if kind in ("WAV", "WAVEX") and samples * size > WAV_LIMIT:
        raise ValueError(f"a WAV file holds {WAV_LIMIT / size / rate / 3600:.1f} hours at {rate} Hz: name it .flac")
    part = out.with_name(out.name + ".part")
    try:
        file = soundfile.SoundFile(part, "w", rate, channels, subtype, format=kind)
    except soundfile.LibsndfileError as error:
        part.unlink(missing_ok=True)
        reason = error.error_string.strip().rstrip(".")
        raise ValueError(f"cannot write {out} ({rate} Hz, channels: {channels}): {reason}") from None
    try:
        with file:
            yield file
        if file.frames:
            if kind in UNTOLD and not holds(part, file.frames):
                raise OSError(f"cannot write {out}: not all of it was written. Is the disk full?")
            os.replace(part, out)
    except soundfile.LibsndfileError as error:
        raise OSError(f"cannot write {out}: {error.error_string.strip().rstrip('.')}. Is the disk full?") from None
    finally:
        part.unlink(missing_ok=True)


def holds(path: Path, samples: int) -> bool:
    """Return whether so many samples can be read from a sound file."""
    try:
        with AudioFile(path) as file:
            return sum(map(len, file.blocks())) >= samples
    except ValueError:
        return False


def seconds_of(path: Path) -> float:
    """Return how long a sound file is, 0 where it cannot be read."""
    try:
        with AudioFile(path) as file:
            return file.seconds
    except (OSError, ValueError):
        return 0.0

"""Read a sound file block by block, in constant memory."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile


class AudioFile:
    """A sound file opened for reading: any format libsndfile knows (WAV, FLAC, Ogg, MP3, ...).

    rate: Hz. channels: count. seconds: length as the file's header states it.
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
        self.seconds: float = self._file.frames / self.rate

    def blocks(self, samples: int = 4096) -> Iterator[np.ndarray]:
        """Yield the audio in order as (n, channels) float32, n = `samples` but in the last block."""
        while len(block := self._file.read(samples, dtype="float32", always_2d=True)):
            yield block

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

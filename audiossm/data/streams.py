"""Long streams with known words in them, to measure a model that listens for hours.

Streams of words give what is missed, streams without any what is reported falsely. All are made of recordings on
disk, piece by piece, so that hours take the memory of ten seconds, and a seed gives the same samples again.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from audiossm.data.audio import read_audio, read_blocks, sound_files
from audiossm.data.folder import NOISE_FOLDER, SILENCE, Clip, find_clips

BLOCK = 0.01  # seconds over which the level of a clip is taken to find its word
AUDIBLE = 0.1  # share of the way from a clip's floor to its peak level above which a word is audible: 20 dB down
GRACE = 0.75  # seconds after a word's end in which it may still be reported
PAUSE = 0.2  # the longest silence within a word, in seconds: the closure of a plosive, with room
FADE = 0.02  # seconds of fade at both ends of a clip, so that it does not begin with a click
GLIDE = 0.25  # seconds in which the bed's level changes from one word's to the next's
FAINTEST = 1e-4  # RMS below which a bed is taken to be this loud (-80 dB): silence cannot be amplified to a level


@dataclass(frozen=True)
class Word:
    """A word in a stream: its label, and the seconds at which it begins and ends to be audible."""

    label: str
    start: float
    end: float


@dataclass(frozen=True)
class StreamOptions:
    """How clips are set into a bed.

    Attributes:
        snr: range of the ratio, in dB, of a clip's audible part to the bed behind it (mean power of both).
        gain_db: range of the clips' gain in decibels.
        gap: range of the seconds between a clip's end and the next one's start.
    """

    snr: tuple[float, float] = (5.0, 20.0)
    gain_db: tuple[float, float] = (-12.0, 6.0)
    gap: tuple[float, float] = (1.0, 4.0)


@dataclass(frozen=True)
class Stream:
    """A long recording in pieces.

    Attributes:
        name: what is heard.
        rate: Hz.
        certain: no keyword is heard but those that the pieces name.
        pieces: starts the stream; each piece is float32 (n,) with the words in it, timed from the stream's beginning.
    """

    name: str
    rate: int
    certain: bool
    pieces: Callable[[], Iterator[tuple[np.ndarray, list[Word]]]]


def make_streams(
    data: str | os.PathLike,
    split: str,
    rate: int,
    noise: Sequence[str | os.PathLike] = (),
    speech: Sequence[str | os.PathLike] = (),
    seed: int = 0,
    options: StreamOptions | None = None,
    label_column: str = "label",
) -> list[Stream]:
    """Make the streams of a data folder's split: those of words first, then those without.

    Each word of the split is said once, and so are its clips of other words (`_other_`, `_unknown_`), which are in no
    truth. Half of them are set into noise and half into other speech where there is any, else all into noise. The
    streams without words are the background clips, the noise and the speech, each recording once and as it is.

    Recordings of speech may hold the very keywords, and without a transcript nobody knows where. Every event in
    them counts as false, which overstates false alarms; such streams are marked `certain=False`, so that they can be
    reported apart. In a stream of words in speech the same is true between the words.

    Args:
        data: a folder of clips, as for training. split: which of them; a folder without splits is used whole.
        rate: of the streams in Hz; the recordings are resampled.
        noise: folders of recordings without any keyword, mostly noise; without any folder, the data's
            `_background_noise_`, else white noise.
        speech: folders of recordings of other speech.
        seed: of the order, the pauses and the levels.

    Raises FileNotFoundError or ValueError in one line where there is nothing to make them of.
    """
    options = options or StreamOptions()
    clips = find_clips(data, split, label_column)
    spoken = [clip for clip in clips if clip.label != SILENCE]  # silence is nothing to set into a bed
    background = [clip.path for clip in clips if clip.label.startswith("_")]
    if not any(not clip.label.startswith("_") for clip in spoken):
        raise ValueError(f"no words in {data}: a stream is made of clips whose label does not begin with '_'")
    own_noise = Path(data) / NOISE_FOLDER
    noises = [path for folder in noise or [own_noise] * own_noise.is_dir() for path in sound_files(folder)]
    speeches = [path for folder in speech for path in sound_files(folder)]

    order = np.random.default_rng(seed).permutation(len(spoken))
    half = len(order) // 2 if speeches else len(order)
    streams = [
        Stream(name, rate, certain, partial(words_in_bed, [spoken[i] for i in rows], bed, rate, seed, options))
        for name, certain, rows, bed in (
            ("words in noise", True, order[:half], noises),
            ("words in speech", False, order[half:], speeches),
        )
        if len(rows)
    ]
    return streams + [
        Stream(name, rate, certain, partial(without_words, paths, rate))
        for name, certain, paths in (
            ("background clips", True, background),
            ("noise", True, noises),
            ("speech", False, speeches),
        )
        if paths
    ]


def without_words(paths: Sequence[Path], rate: int) -> Iterator[tuple[np.ndarray, list[Word]]]:
    """Play recordings one after another."""
    for path in paths:
        for block in read_blocks(path, rate):
            yield block, []


def words_in_bed(
    clips: Sequence[Clip], bed: Sequence[Path], rate: int, seed: int, options: StreamOptions
) -> Iterator[tuple[np.ndarray, list[Word]]]:
    """Say the clips one after another, with pauses, over a bed of recordings; a piece is a pause and a clip.

    A clip keeps its own level but for a random gain; the bed's is set to the random SNR, and glides from one clip's to
    the next's. Clips whose label begins with `_` are said as well, but are no words of the truth.
    """
    rng, bed_rng = np.random.default_rng(seed).spawn(2)
    behind = Bed(bed, rate, bed_rng)
    heard, last_gain = 0, 0.0
    for clip in clips:
        said = faded(read_audio(clip.path, rate)[0], rate)
        said *= 10 ** (rng.uniform(*options.gain_db) / 20)
        begin, end = audible(said, rate)
        gap = round(rate * rng.uniform(*options.gap))
        piece = behind.take(gap + len(said))
        level = rms(said[begin:end]) * 10 ** (-rng.uniform(*options.snr) / 20)
        gain = level / max(rms(piece), FAINTEST)
        change = np.clip(np.arange(len(piece)) / (GLIDE * rate), 0, 1)
        piece = piece * (last_gain + (gain - last_gain) * change)
        piece[gap:] += said
        word = Word(clip.label, (heard + gap + begin) / rate, (heard + gap + end) / rate)
        yield piece.astype(np.float32), [] if clip.label.startswith("_") else [word]
        heard, last_gain = heard + len(piece), gain


class Bed:
    """Recordings without end: one after another in random order, then again; white noise where there are none."""

    def __init__(self, paths: Sequence[Path], rate: int, rng: np.random.Generator) -> None:
        self._blocks = self._forever(paths, rate, rng)
        self._left = np.zeros(0, np.float32)

    def take(self, samples: int) -> np.ndarray:
        """Return the next samples, float32 (samples,)."""
        parts = [self._left]
        while (spare := sum(map(len, parts)) - samples) < 0:
            parts.append(next(self._blocks))
        whole = np.concatenate(parts)
        self._left = whole[samples:] if spare else whole[:0]
        return whole[:samples]

    @staticmethod
    def _forever(paths: Sequence[Path], rate: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        while True:
            for i in rng.permutation(len(paths)):
                yield from read_blocks(paths[i], rate)
            if not paths:
                yield rng.normal(0, 0.01, rate).astype(np.float32)


def audible(audio: np.ndarray, rate: int) -> tuple[int, int]:
    """Find the samples between which a clip's word is audible: around its loudest moment, over short pauses.

    Audible is what lies within 20 dB of the peak level, measured over 10 ms and above the clip's own floor of noise.
    Returns the first sample and the one after the last.
    """
    block = max(1, round(BLOCK * rate))
    count = -(-len(audio) // block)
    padded = np.pad(audio.astype(np.float64), (0, count * block - len(audio)))
    level = np.sqrt(np.square(padded).reshape(count, block).mean(axis=1))
    floor = np.percentile(level, 10)
    loud = np.flatnonzero(level >= floor + AUDIBLE * (level.max() - floor))
    peak = int(np.searchsorted(loud, level.argmax()))
    breaks = np.flatnonzero(np.diff(loud) > PAUSE / BLOCK)  # a pause follows loud[i]
    first = loud[max(breaks[breaks < peak], default=-1) + 1]
    last = loud[min(breaks[breaks >= peak], default=len(loud) - 1)]
    return int(first) * block, min((int(last) + 1) * block, len(audio))


def faded(audio: np.ndarray, rate: int) -> np.ndarray:
    """Fade a clip in and out."""
    place = np.arange(len(audio))
    edge = np.minimum(place, place[::-1]) / max(1, FADE * rate)
    return audio * np.minimum(edge, 1).astype(np.float32)


def rms(audio: np.ndarray) -> float:
    """Return the root of the mean power."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))

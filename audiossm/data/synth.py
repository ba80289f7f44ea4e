"""Spoken words without recordings: espeak-ng's many voices and others, made lifelike, in Speech Commands' layout."""

import csv
import os
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Console
from rich.progress import track

from audiossm.data import lifelike
from audiossm.data.audio import resample
from audiossm.data.confusable import near_misses
from audiossm.data.engines import Engine, recorded
from audiossm.data.espeak import Espeak
from audiossm.data.folder import MANIFEST, OTHER, SILENCE, Clip, which_split

# espeak-ng's English voices, but for the one that reads the Shavian alphabet.
VOICES = (
    "en",
    "en-029",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-gb-x-rp",
    "en-us",
    "en-us-nyc",
)
# Common words, short and long, none of which sounds like another word: what `_other_` says.
OTHER_WORDS = (
    *("after", "again", "animal", "answer", "bed", "because", "better", "bird", "box", "bring", "brother"),
    *("cat", "chair", "children", "cold", "dog", "drink", "every", "family", "finger", "fish", "friend"),
    *("garden", "girl", "good", "happy", "help", "house", "jump", "keep", "little", "long", "make", "milk"),
    *("money", "much", "music", "never", "number", "open", "orange", "paper", "people", "river", "simple"),
    *("summer", "table", "think", "water", "window", "yellow"),
)
OTHERS_SHARE = 0.8  # of the training clips, where there are voices beside espeak-ng's
ROOM_SHARE = 0.3
NOISE_DB = (25, 65)  # noise's level below the peak of the word
PEAK_DB = (-14, 0)  # the level of the word below full scale
SLOWER = 0.75  # the pace asked of recorded voices: `lifelike.person` speeds them up
FASTEST = 450  # words a minute: espeak-ng's own limit

PARTING = ("", "!", "?", ",")  # the sentence's end moves the melody of the word

COLUMNS = ["path", "label", "speaker", "split"]


@dataclass(frozen=True)
class Speaker:
    """A name that hashes to a split, and the voice of an engine that it stands for."""

    name: str
    engine: Engine
    voice: str


def synthesise(
    words: Sequence[str],
    out: str | os.PathLike,
    clips_per_word: int = 100,
    seed: int = 0,
    rate: int = 16000,
    seconds: float = 1.0,
    background: bool = True,
    noise: bool = True,
    confusable: bool = True,
    progress: bool = True,
    voices: Sequence[str | Path] = (),
) -> list[Clip]:
    """Speak each word many times into out/<word>/<speaker>_nohash_<n>.wav and give the list of the clips.

    A speaker is a voice of espeak-ng with a variant (a timbre). A variant speaks in one split only, so that
    val and test hold timbres that training never heard; the names of the speakers hash to their splits as
    Speech Commands' do. From three clips a word on, each word is in each split. The same arguments give the
    same bytes.

    words: what to say, also the labels; `out`: a folder, new or without any of these words.
    rate: Hz. seconds: length of a clip; a word that does not fit is spoken faster, and refused if that fails.
    background: also write `_silence_` (noise, or next to nothing) and `_other_` (other words).
    noise: put the words into rooms, through microphones and into noise, at 25 to 65 dB below their peaks.
    confusable: also write as many clips of near misses of the words into `_other_` (see `near_misses`).
    progress: show a bar on stderr where that is a terminal.
    voices: others, made from recordings of people, that say most of the training clips (val and test stay
        espeak-ng's): "flite", "pico" or "joe" where they are installed, or the file of a Piper voice (.onnx).
    """
    _check(words, clips_per_word, rate, seconds)
    out = Path(out)
    labels = [*words, *((SILENCE, OTHER) if background else ())]
    _check_out(out, labels)
    with_manifest = _wants_manifest(out)
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".synth-", dir=out))  # find_clips passes over names with a dot
    try:
        clips = []
        taken: Counter[tuple[str, str]] = Counter()
        asked = {word.casefold() for word in words}
        other_words = [word for word in OTHER_WORDS if word not in asked]
        rng = np.random.default_rng(seed)
        with Espeak() as espeak:
            speakers = _speakers(espeak)
            others = _others(voices, espeak, seed)
            texts: list[tuple[str, Sequence[str]]] = [(word, [word]) for word in words]
            if background:
                texts += [(SILENCE, []), (OTHER, other_words)]
            if background and confusable:
                texts.append((OTHER, near_misses(espeak, words, VOICES)))
            jobs = [
                (said, *job)
                for label, said in texts
                for job in _jobs(label, clips_per_word, speakers, _able(others, said), rng)
            ]
            for said, label, number, split, name, speaker in track(
                jobs, "speaking", console=Console(stderr=True), transient=True, disable=not progress
            ):
                if label == SILENCE:
                    samples = _silence(round(rate * seconds), rate, rng)
                else:
                    samples = _spoken(
                        speaker.engine, said[number % len(said)], speaker.voice, rate, seconds, noise, rng
                    )
                file = Path(label, f"{name}_nohash_{taken[label, name]}.wav")
                taken[label, name] += 1
                clips.append(Clip(out / file, label, name, split))
                (beside / label).mkdir(exist_ok=True)
                soundfile.write(beside / file, samples, rate, subtype="PCM_16")
        for label in labels:
            os.rename(beside / label, out / label)
        if with_manifest:
            _add_to_manifest(out, beside, clips)
    except BaseException:
        shutil.rmtree(out if is_new else beside, ignore_errors=True)
        raise
    shutil.rmtree(beside)
    return clips


def _check(words: Sequence[str], clips_per_word: int, rate: int, seconds: float) -> None:
    """Refuse what cannot be spoken or written, before any work."""
    if not words:
        raise ValueError("no words to speak: name at least one")
    for word in words:
        latin = all(c in " '-" or c.isdigit() or unicodedata.name(c, "").startswith("LATIN") for c in word)
        if not latin or not word[:1].isalnum() or not word[-1:].isalnum() or len(word) > 100:
            raise ValueError(
                f"the word {word!r} cannot be spoken: use Latin letters and digits, with hyphens, "
                "apostrophes or spaces between them"
            )
    twice = [word for word, times in Counter(word.casefold() for word in words).items() if times > 1]
    if twice:
        raise ValueError(f"the word {twice[0]!r} is asked for twice")
    if clips_per_word < 1:
        raise ValueError(f"{clips_per_word} clips a word are none: ask for 1 or more")
    if not 4000 <= rate <= 192000:
        raise ValueError(f"a rate of {rate} Hz is not possible: choose 4000 to 192000")
    if not 0.1 <= seconds <= 60:
        raise ValueError(f"clips of {seconds} s are not possible: choose 0.1 to 60")


def _check_out(out: Path, labels: Sequence[str]) -> None:
    """Refuse to mix with what was made before: only whole words are added to a folder."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file: choose another folder to write to")
    for label in labels:
        if (out / label).exists():
            raise FileExistsError(f"{out / label} exists already: delete it or write to another folder")


def _wants_manifest(out: Path) -> bool:
    """Say whether to write a manifest: not beside recordings without one, since it would hide them."""
    if (out / MANIFEST).is_file():
        with open(out / MANIFEST, newline="", encoding="utf-8-sig") as file:
            lacking = set(COLUMNS) - set(next(csv.reader(file), []))
        if lacking:
            raise ValueError(f"{out / MANIFEST} lacks the column {', '.join(sorted(lacking))}: mend it first")
        return True
    return not out.is_dir() or all(path.name.startswith(".") for path in out.iterdir())


def _add_to_manifest(out: Path, beside: Path, clips: Sequence[Clip]) -> None:
    """Write manifest.csv anew with the rows it had and a row for each clip, then swap it in."""
    columns, rows = COLUMNS, []
    if (out / MANIFEST).is_file():
        with open(out / MANIFEST, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or COLUMNS)
    with open(beside / MANIFEST, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        for clip in clips:
            values = (clip.path.relative_to(out).as_posix(), clip.label, clip.speaker, clip.split)
            writer.writerow(dict(zip(COLUMNS, values, strict=True)))
    os.replace(beside / MANIFEST, out / MANIFEST)


def _name(base: str, split: str) -> str:
    """Number a speaker so that the hash of the name falls into the split that it belongs to."""
    return next(name for k in count() if which_split(name := f"{base}-{k}") == split)


def _speakers(espeak: Espeak) -> dict[str, list[Speaker]]:
    """List espeak-ng's speakers for each split; a variant, and others of its family, are in one split."""
    speakers: dict[str, list[Speaker]] = {"train": [], "val": [], "test": []}
    for variant in espeak.variants:
        # klatt2 and klatt5 are alike; f1 and f2, m1 and m2 are different people.
        family = variant.rstrip("0123456789") if len(variant) > 2 else variant
        split = which_split(family)
        for voice in VOICES:
            base = f"{voice}-{variant}".replace(" ", "-")
            speakers[split].append(Speaker(_name(base, split), espeak, f"{voice}+{variant}"))
    return speakers


def _others(voices: Sequence[str | Path], espeak: Espeak, seed: int) -> list[Speaker]:
    """List the speakers of other engines. Most have too few to share out: all are for training."""
    speakers = []
    for name in voices:
        engine = recorded(name, espeak.ipa, seed)
        base = Path(name).stem.replace("_", "-")
        speakers += [Speaker(_name(f"{base}-{voice}", "train"), engine, voice) for voice in engine.voices]
    return speakers


def _able(speakers: Sequence[Speaker], texts: Sequence[str]) -> list[Speaker]:
    """Keep those who can say all of `texts`: flite cannot read phonemes."""
    return [speaker for speaker in speakers if speaker.engine.reads_phonemes or not any("[[" in t for t in texts)]


def _jobs(
    label: str,
    clips: int,
    speakers: dict[str, list[Speaker]],
    others: Sequence[Speaker],
    rng: np.random.Generator,
) -> Iterator[tuple[str, int, str, str, Speaker]]:
    """Deal out the clips of one label: (label, number, split, the name of who speaks, the speaker).

    A tenth goes to val, a tenth to test. No speaker says a word twice before all of the split have said it.
    """
    tenth = max(1, round(clips / 10)) if clips >= 3 else 0
    splits = ["val"] * tenth + ["test"] * tenth + ["train"] * (clips - 2 * tenth)
    turns = {split: cycle(rng.permutation(len(pool))) for split, pool in speakers.items()}
    turn = cycle(rng.permutation(len(others)))
    for number, i in enumerate(rng.permutation(clips)):
        split = splits[i]
        if others and split == "train" and rng.random() < OTHERS_SHARE:
            speaker = others[next(turn)]
        else:
            speaker = speakers[split][next(turns[split])]
        yield label, number, split, _name(f"noise-{number}", split) if label == SILENCE else speaker.name, speaker


def _spoken(
    engine: Engine,
    word: str,
    voice: str,
    rate: int,
    seconds: float,
    noise: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """Speak one clip, float32 (samples,): the word at a random place, pace, pitch and level, in noise."""
    samples = round(rate * seconds)
    text = word + PARTING[rng.integers(len(PARTING))]
    speed = int(rng.integers(100, 261) * (1 if isinstance(engine, Espeak) else SLOWER))
    volume, pitch, pitch_range = (int(rng.integers(*span)) for span in ((40, 91), (10, 91), (10, 100)))
    while True:
        spoken = np.frombuffer(engine.say(text, voice, speed, volume, pitch, pitch_range), np.int16)
        said = _trim(spoken, engine.rate, word)
        if isinstance(engine, Espeak):
            said = lifelike.voice(lifelike.mouth(said, rng), engine.rate, rng)
        else:
            said = lifelike.person(said, engine.rate, rng)
        said = resample(said, engine.rate, rate)
        if len(said) <= samples:
            break
        if speed == FASTEST:
            raise ValueError(
                f"{word!r} lasts {len(said) / rate:.2f} s even when spoken fast, longer than a clip of "
                f"{seconds:g} s: ask for longer clips"
            )
        speed = min(FASTEST, int(speed * max(1.1, len(said) / samples)) + 1)
    clip = np.zeros(samples, np.float32)
    start = rng.integers(samples - len(said) + 1)
    clip[start : start + len(said)] = said
    if noise:
        clip = lifelike.tone(clip, rate, rng)
        if rng.random() < ROOM_SHARE:
            clip = lifelike.room(clip, rate, rng)
    clip *= 10 ** (rng.uniform(*PEAK_DB) / 20) / np.abs(clip).max()
    if noise:
        clip += np.abs(clip).max() * 10 ** (-rng.uniform(*NOISE_DB) / 20) * lifelike.noise(samples, rate, rng)
    return _below_full_scale(clip)


def _trim(spoken: np.ndarray, rate: int, word: str) -> np.ndarray:
    """Cut the silence around a word, int16 (n,) to float32 (m,): what lies 40 dB below the peak."""
    samples = spoken.astype(np.float32) / 32768
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max(initial=0))
    if not len(loud):
        raise ValueError(f"espeak-ng has no sound for {word!r}: choose another word")
    edge = rate // 100  # 10 ms: weak consonants
    return samples[max(0, loud[0] - edge) : loud[-1] + edge]


def _below_full_scale(clip: np.ndarray) -> np.ndarray:
    """Make a clip that would be cut off as loud as it can be without."""
    return clip / max(1.0, np.abs(clip).max() / 0.99)


def _silence(samples: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Give a clip without speech, float32 (samples,): noise at -80 to -15 dB of full scale."""
    level = 10 ** (rng.uniform(-80, -15) / 20)
    return _below_full_scale(level * lifelike.noise(samples, rate, rng))

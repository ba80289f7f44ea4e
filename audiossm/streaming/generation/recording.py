"""Make a sound file: write what a sampler makes as it comes, watch its level, and leave it playable when stopped."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from audiossm.streaming.audiofile import AudioFile, sound_file
from audiossm.streaming.generation.guard import Guard
from audiossm.streaming.generation.resample import resample
from audiossm.streaming.generation.sampler import BLOCK, Sampler


@dataclass
class Report:
    """What came of it: seconds in the file and of them made, the time that took, where the level left its range."""

    seconds: float = 0.0
    made: float = 0.0
    took: float = 0.0
    left: list[float] = field(default_factory=list)
    stopped: bool = False

    @property
    def real_time_factor(self) -> float:
        """Time taken over time made."""
        return self.took / self.made if self.made else 0.0


def record(
    sampler: Sampler,
    out: str | Path,
    samples: int,
    prompt: np.ndarray | None = None,
    guard: bool = True,
    play: Callable[[np.ndarray], object] = lambda block: None,
    tell: Callable[[int], object] = lambda made: None,
    say: Callable[[str], object] = print,
) -> Report:
    """Write a prompt and what a sampler makes after it into a sound file, in constant memory.

    The file is written beside its place and put there at the end; at Ctrl-C with what there is by then, unless that is
    nothing.

    Args:
        sampler: of a batch of one, or of several of which the likeliest is kept.
        out: the file; its ending says the format.
        samples: of the file, those of the prompt included.
        prompt: what the sampler was given, (n,).
        guard: begin anew where the level leaves that of the training data; else only say so.
        play: gets each block (n,) in turn.
        tell: gets the number of samples made of each stream.
        say: gets a line for what is worth telling.
    """
    report, rate = Report(), sampler.model.facts.rate
    heard = np.zeros(0, np.float32) if prompt is None else prompt
    with sound_file(Path(out), rate, samples) as file:
        try:
            for begin in range(0, len(heard), BLOCK):
                file.write(heard[begin : begin + BLOCK])
                play(heard[begin : begin + BLOCK])
            made = timed(sampler, samples - len(heard), report, tell)
            blocks = watched(sampler, made, guard, report, say) if sampler.batch == 1 else likeliest(sampler, made, say)
            for block in blocks:
                file.write(block)
                play(block)
        except KeyboardInterrupt:
            report.stopped = True
        report.seconds = file.frames / rate
    return report


def timed(sampler: Sampler, samples: int, report: Report, tell: Callable[[int], object]) -> Iterator[np.ndarray]:
    """Yield codes (batch, n), and keep account of the time that they take."""
    for begin in range(0, samples, BLOCK):
        started = time.perf_counter()
        codes = sampler.codes(min(BLOCK, samples - begin))
        report.took += time.perf_counter() - started
        report.made += codes.shape[1] / sampler.model.facts.rate
        yield codes
        tell(begin + codes.shape[1])


def watched(
    sampler: Sampler, made: Iterator[np.ndarray], guard: bool, report: Report, say: Callable[[str], object]
) -> Iterator[np.ndarray]:
    """Yield one stream's audio, and begin anew where its level leaves that of the training data."""
    facts = sampler.model.facts
    watch = Guard(facts.level, facts.rate)
    for codes in made:
        audio = facts.coding.decode(codes)
        yield audio[0]
        for left in watch.add(audio):
            report.left.append(left.time)
            level = f"{left.rms:.0f} dBFS, training data {facts.level.low:.0f} to {facts.level.high:.0f}"
            say(f"at {left.time:.0f} s the level has left its range ({level}){': begun anew' if guard else ''}")
            if guard:
                sampler.begin_anew()
                watch.forget()


def likeliest(sampler: Sampler, made: Iterator[np.ndarray], say: Callable[[str], object]) -> Iterator[np.ndarray]:
    """Yield the audio of the likeliest of several streams whose level stays in its range, or of all where none does.

    Until it is known which that is, their codes wait on disk: memory does not grow. Ctrl-C ends what is made, and the
    best of that is kept.
    """
    stopped = False
    facts, lengths = sampler.model.facts, []
    watch, out = Guard(facts.level, facts.rate, sampler.batch), np.zeros(sampler.batch, bool)
    with tempfile.TemporaryFile() as spool:
        try:
            for codes in made:
                spool.write(codes.astype(np.uint16).tobytes())
                lengths.append(codes.shape[1])
                out[[left.row for left in watch.add(facts.coding.decode(codes))]] = True
        except KeyboardInterrupt:
            stopped = True
        bits = np.where(out & ~out.all(), np.inf, sampler.bits)
        best = int(bits.argmin())
        each = sampler.bits / max(1, sum(lengths))
        level = f", {out.sum()} of them outside the level of the training data" if out.any() else ""
        say(f"kept the best of {len(bits)}: {each[best]:.3f} bits a sample, the others up to {each.max():.3f}{level}")
        spool.seek(0)
        for length in lengths:
            codes = np.frombuffer(spool.read(2 * length * sampler.batch), np.uint16).reshape(sampler.batch, length)
            yield facts.coding.decode(codes[best])
    if stopped:
        raise KeyboardInterrupt


def read_prompt(path: str | Path, rate: int, samples: int, say: Callable[[str], object]) -> np.ndarray:
    """Read a sound file as a prompt, (n,) float32 at `rate` Hz: the mean of its channels.

    Raises ValueError where it is empty, or not shorter than the `samples` asked for.
    """
    with AudioFile(path) as file:
        if file.seconds >= samples / rate:
            raise ValueError(
                f"the prompt {path} lasts {file.seconds:.3g} s and {samples / rate:.3g} s are asked for, with the "
                "prompt: give more --seconds, or a shorter prompt"
            )
        pieces = [block.mean(axis=1) for block in file.blocks()]
        audio = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        if not len(audio):
            raise ValueError(f"the prompt {path} holds no audio")
        if file.rate != rate:
            say(f"the prompt is resampled from {file.rate} to {rate} Hz")
            audio = resample(audio, file.rate, rate)
    return np.nan_to_num(audio, posinf=0, neginf=0).clip(-1, 1).astype(np.float32)

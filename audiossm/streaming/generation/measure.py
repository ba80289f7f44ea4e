"""How fast a generation model runs on this machine, and how often it runs away."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from audiossm.streaming.bench import resident
from audiossm.streaming.generation.guard import Guard
from audiossm.streaming.generation.model import Generator
from audiossm.streaming.generation.sampler import BLOCK, Sampler

ROUNDS = 10
TOGETHER = 8  # streams at once, where many are made


def measure_generation(model: Generator, seconds: float = 10.0, batch: int = 1) -> dict[str, Any]:
    """Generate with each engine that there is and time it, on one thread: CPU time, the fastest of several rounds.

    seconds: of audio a stream, over all engines and rounds. batch: streams at once.
    Returns: real_time_factor (CPU time over audio time of all streams), samples_per_second and sample_us, in blocks as
    `generate` makes them, of the fastest engine; sample_us_p50 and _p99, of single samples (of each stream) asked
    for from Python; the same by `engines`; rss_mib, state_bytes, params, rate, batch.
    """
    if not 0 < seconds < float("inf"):
        raise ValueError(f"the seconds to measure must be a positive number, not {seconds}")
    rate, able = model.facts.rate, model.engines()
    blocks = max(1, round(seconds * rate / BLOCK / ROUNDS / len(able)))
    figures = {name: measure_engine(model, name, blocks, batch) for name in able}
    return {
        "engine": able[0],
        **figures[able[0]],
        "rss_mib": resident(),
        "state_bytes": 4 * model.facts.state_size,
        "params": model.facts.params,
        "rate": rate,
        "batch": batch,
        "engines": figures,
    }


def measure_engine(model: Generator, name: str, blocks: int, batch: int) -> dict[str, float]:
    """Return the figures of one engine."""
    sampler = a_sampler(model, batch, name)
    sampler.codes(BLOCK)  # the first calls allocate, and may compile
    single = np.empty(2 * BLOCK)
    for i in range(len(single)):
        begun = time.thread_time()
        sampler.codes(1)
        single[i] = time.thread_time() - begun
    rounds = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(blocks):
            sampler.codes(BLOCK)
        rounds.append((time.process_time() - begun) / (blocks * BLOCK * batch))
    p50, p99 = np.percentile(single, (50, 99))
    return {
        "real_time_factor": min(rounds) * model.facts.rate,
        "samples_per_second": 1 / min(rounds),
        "sample_us": 1e6 * min(rounds),
        "sample_us_p50": 1e6 * float(p50),
        "sample_us_p99": 1e6 * float(p99),
    }


def a_sampler(model: Generator, batch: int, engine: str | None = None, **options: Any) -> Sampler:
    """Return a sampler of any classes, in turn."""
    classes = model.facts.classes
    labels = [classes[row % len(classes)] for row in range(batch)] if classes else None
    return Sampler(model, label=labels, batch=batch, engine=engine, **options)


def measure_runaway(
    model: Generator,
    count: int,
    seconds: float = 60.0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    tell: Callable[[int], object] = lambda made: None,
) -> dict[str, Any]:
    """Make `count` samples of a minute with no guard, and say how many leave the level of the training data.

    Returns {"n", "seconds", "left": how many, "share", "ci95": Wilson's interval, "times": when it was noticed}.
    tell: gets the number of seconds made, of all of them.
    """
    rate = model.facts.rate
    times: list[float] = []
    for begin in range(0, count, TOGETHER):
        batch = min(TOGETHER, count - begin)
        sampler = a_sampler(model, batch, seed=begin, temperature=temperature, top_p=top_p)
        guard = Guard(model.facts.level, rate, batch)
        first: dict[int, float] = {}
        for second, audio in enumerate(sampler.blocks(round(seconds * rate), rate), 1):
            for left in guard.add(audio):
                first.setdefault(left.row, left.time)
            tell(begin * round(seconds) + second * batch)
        times += first.values()
    share = len(times) / count
    return {
        "n": count,
        "seconds": seconds,
        "left": len(times),
        "share": share,
        "ci95": wilson(share, count),
        "times": sorted(times),
    }


def wilson(share: float, count: int, z: float = 1.96) -> list[float]:
    """Return Wilson's 95 % interval of a share."""
    middle, spread = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + (z / 2 / count) ** 2)
    return [abs(round((middle + sign * spread) / (1 + z * z / count), 4)) for sign in (-1, 1)]  # never -0.0

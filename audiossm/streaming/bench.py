"""How fast a model runs on this machine, and what it needs."""

import sys
import time
from typing import Any

import numpy as np

from audiossm.streaming.enhancement.model import Enhancer
from audiossm.streaming.model import Model

ROUNDS = 5


def measure(model: Model | Enhancer, rate: int | None = None, seconds: float = 10.0) -> dict[str, Any]:
    """Push noise through a stream frame by frame and time it.

    Several rounds are run and the median of each figure is returned, so that one disturbance does not count.

    rate: Hz of the audio, None is the model's own. seconds: of audio, over all rounds.
    Returns: real_time_factor (CPU time over audio time), frame_us_p50, frame_us_p99 and frame_us_p999 (microseconds a
    frame, the last over all rounds together), latency_ms (algorithmic), rss_mib (memory of this process at the end,
    None where the system does not tell), rss_growth_mib (by how much that is more than after the first two seconds),
    state_bytes, params, and the rate and the seconds measured.
    """
    if not 0 < seconds < float("inf"):
        raise ValueError(f"the seconds to measure must be a positive number, not {seconds}")
    meta = model.metadata
    stream = model.stream(rate)
    frames = max(2, round(seconds / meta.frame_seconds / ROUNDS))
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * stream.rate).astype(np.float32)
    step = round(meta.frame_seconds * stream.rate)
    chunks = [noise[begin : begin + step] for begin in range(0, len(noise) - step + 1, step)]
    took = np.full((ROUNDS, frames), 0.0)  # written, so that none of its memory is new later
    for chunk in chunks:  # the first calls allocate
        stream.push(chunk)
    begun = resident()
    factors = [_round(stream.push, chunks, times, step / stream.rate) for times in took]
    ended = resident()
    p50, p99 = np.median(np.percentile(took * 1e6, (50, 99), axis=1), axis=1)
    return {
        "real_time_factor": float(np.median(factors)),
        "frame_us_p50": float(p50),
        "frame_us_p99": float(p99),
        "frame_us_p999": float(np.percentile(took * 1e6, 99.9)),
        "latency_ms": 1000 * stream.latency / stream.rate,
        "rss_mib": ended,
        "rss_growth_mib": None if begun is None or ended is None else ended - begun,
        "state_bytes": 4 * meta.state_size,
        "params": meta.params,
        "rate": stream.rate,
        "seconds": ROUNDS * frames * step / stream.rate,
    }


def _round(push: Any, chunks: list[np.ndarray], took: np.ndarray, frame: float) -> float:
    """Write down the seconds that each call of `frame` seconds took, (calls,); return CPU time over audio time."""
    cpu = time.process_time()
    for i in range(len(took)):
        begin = time.perf_counter()
        push(chunks[i % len(chunks)])
        took[i] = time.perf_counter() - begin
    return (time.process_time() - cpu) / (len(took) * frame)


def resident() -> float | None:
    """Memory of this process in MiB: what it holds now on Linux, the most it ever held on macOS."""
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * _page() / 2**20
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return None


def _page() -> int:
    import resource

    return resource.getpagesize()

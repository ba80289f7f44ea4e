"""What `audiossm.streaming.Detector` reports on posteriors that are all there already, for many settings quickly.

The detector goes frame by frame. Here the runs of frames in which a label's average is high are found with NumPy, and
only events are gone through; tests/test_detections.py shows that both report the same.
"""

import numpy as np


def averages(posteriors: np.ndarray, size: int) -> np.ndarray:
    """Average posteriors (T, K) over the last `size` frames: (T, K) float64, 0 until that many have come."""
    total = np.zeros(posteriors.shape)
    full = len(posteriors) - size + 1
    for lag in range(size if full > 0 else 0):
        total[size - 1 :] += posteriors[lag : lag + full]
    return total / size


def detections(average: np.ndarray, threshold: float, refractory: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames (n,) of all events, in order, and the column (n,) of each one's label.

    average: (T, K), the labels that may be reported. threshold: above 0. refractory: frames.
    """
    high = np.zeros((average.shape[1], len(average) + 2), bool)
    high[:, 1:-1] = threshold <= average.T
    label, edge = np.nonzero(high[:, 1:] != high[:, :-1])  # of each label, a run's first frame and the one after it
    runs = sorted(zip(edge[::2].tolist(), edge[1::2].tolist(), label[::2].tolist(), strict=True))
    events: list[tuple[int, int]] = []
    live: list[tuple[int, int, int]] = []  # runs that could be reported now
    ahead = now = 0
    while True:
        live = [run for run in live if run[1] > now]
        if not live:
            if ahead == len(runs):
                break
            now = max(now, runs[ahead][0])
        while ahead < len(runs) and runs[ahead][0] <= now:
            live += [runs[ahead]] if runs[ahead][1] > now else []
            ahead += 1
        if live:  # a run is one event: it leaves with it
            best = max(live, key=lambda run: (average[now, run[2]], -run[2]))
            live.remove(best)
            events.append((now, best[2]))
            now += max(1, refractory)
    frames, labels = np.array(events, np.int64).reshape(-1, 2).T
    return frames, labels

"""How sure a figure is: intervals of accuracies and of their differences, in percent, and of ratios."""

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 10_000  # of the bootstrap


def percent(right: np.ndarray) -> float:
    """Return the share of True in percent."""
    return round(100 * float(right.mean()), 3)


def wilson(count: int, total: int) -> list[float]:
    """Return Wilson's 95 % interval of a share, `count` of `total`."""
    ci = binomtest(count, total).proportion_ci(0.95, method="wilson")
    return [round(100 * float(ci.low), 3), round(100 * float(ci.high), 3)]


def bootstrap_ratio(values: np.ndarray, sizes: np.ndarray, digits: int = 4) -> list[float]:
    """Return the 95 % interval of sum(values) / sum(sizes), (n,) a clip each, by resampling the clips (Efron 1979)."""
    n = len(values)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    low, high = np.percentile((counts @ values) / (counts @ sizes), (2.5, 97.5))
    return [round(float(low), digits), round(float(high), digits)]


def bootstrap(values: np.ndarray) -> list[float]:
    """Return the 95 % interval, in percent, of the mean of values (n,), a clip each."""
    return bootstrap_ratio(100 * values, np.ones(len(values)), 3)


def interval(right: np.ndarray) -> list[float]:
    """Return the 95 % interval of an accuracy, (models, n) bool: Wilson's for one model, else by bootstrap of clips."""
    return wilson(int(right.sum()), right.size) if len(right) == 1 else bootstrap(right.mean(0))


def difference(right: np.ndarray, other: np.ndarray) -> dict[str, object]:
    """Compare two accuracies on the same clips, (models, n) bool each: {"points", "ci95"}, paired by clip and model."""
    gain = right.mean(0) - other.mean(0)
    return {"points": round(100 * float(gain.mean()), 3), "ci95": bootstrap(gain)}

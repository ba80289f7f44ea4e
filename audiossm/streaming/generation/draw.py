"""Draw a sample's code from what a model says of it. Plain NumPy, in the part of it that Numba compiles too."""

import numpy as np

LOG2 = float(np.log(2))
NARROWEST = -7 * float(np.log(10))  # lowest log scale of a logistic, as in training
FULL_SCALE = 32768
HALVINGS = 40


def draw_code(outputs, uniforms, temperature, top_p):
    """Draw from K logits: the first code whose cumulated weight passes uniforms[0] of the whole.

    With top_p below 1, only from the likeliest codes that together have that share; at temperature 0 the likeliest.
    """
    if temperature == 0:
        return np.argmax(outputs)
    logits = outputs.astype(np.float64)
    weights = np.exp((logits - logits.max()) / temperature)
    if top_p < 1:
        low, high, share = 0.0, 1.0, top_p * weights.sum()  # the least weight that is kept, by bisection
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if weights[weights >= middle].sum() >= share:
                low = middle
            else:
                high = middle
        weights[weights < low] = 0
    reached = np.cumsum(weights)
    return min(np.searchsorted(reached, uniforms[0] * reached[-1], side="right"), len(weights) - 1)


def code_bits(outputs, code):
    """Return -log2 of the probability that K logits give to a code."""
    logits = outputs.astype(np.float64)
    logits -= logits.max()
    return (np.log(np.exp(logits).sum()) - logits[code]) / LOG2


def draw_mixture(outputs, uniforms, temperature, top_p):
    """Draw from M logistics, told by M logits of weights, M means and M log scales: which, then where in it.

    The temperature is of both choices; top_p is not known here.
    """
    m = len(outputs) // 3
    i = draw_code(outputs[:m], uniforms, temperature, 1.0)
    u = min(max(uniforms[1], 1e-5), 1 - 1e-5)
    scale = temperature * np.exp(max(np.float64(outputs[2 * m + i]), NARROWEST))
    x = min(max(outputs[m + i] + scale * (np.log(u) - np.log(1 - u)), -1.0), 1.0)
    return min(int(np.floor(x * FULL_SCALE + 0.5)) + FULL_SCALE, 2 * FULL_SCALE - 1)


def mixture_bits(outputs, code):
    """Return -log2 of the probability that a mixture gives to a code's interval, open at both ends of the range."""
    m = len(outputs) // 3
    weights = np.exp(outputs[:m].astype(np.float64) - outputs[:m].max())
    total = 0.0
    for i in range(m):
        rate = np.exp(-max(np.float64(outputs[2 * m + i]), NARROWEST)) / FULL_SCALE
        x = (code - FULL_SCALE - np.float64(outputs[m + i]) * FULL_SCALE) * rate
        above = 1.0 if code == 2 * FULL_SCALE - 1 else 1 / (1 + np.exp(-(x + rate / 2)))
        below = 0.0 if code == 0 else 1 / (1 + np.exp(-(x - rate / 2)))
        total += weights[i] * (above - below)
    return -np.log(max(total / weights.sum(), 1e-12)) / LOG2

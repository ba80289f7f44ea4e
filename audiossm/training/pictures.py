"""Pictures of what was measured, each a PNG file: what is taken for what, how rates compare, what the filters pass.

Drawn with matplotlib's own canvas, so that no screen is needed and no global setting is changed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from audiossm.mixers import Filterbank as FilterbankModule
from audiossm.mixers import Mixer
from audiossm.streaming import Filterbank

GRID = np.geomspace(20, 20000, 4000)  # Hz at which filters are looked at


def draw_confusion(path: Path, confusion: dict[str, Any]) -> None:
    """Draw how often each label (row) was taken for each (column): shares of a row as colours, counts as numbers."""
    labels, counts = confusion["labels"], np.array(confusion["counts"])
    size = 2.5 + 0.32 * len(labels)
    figure = Figure((size, size))
    axis = figure.add_subplot(xlabel="taken for", ylabel="said")
    axis.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axis.text(column, row, count, ha="center", va="center", fontsize=6, color="w" if row == column else "k")
    axis.set_xticks(range(len(labels)), labels, rotation=90)
    axis.set_yticks(range(len(labels)), labels)
    save(figure, path)


def draw_rates(path: Path, rates: dict[str, dict[str, Any]]) -> None:
    """Draw accuracy against the sampling rate, with 95 % intervals, and beside the other protocols."""
    figure = Figure((7, 4))
    axis = figure.add_subplot(xlabel="sampling rate, Hz", ylabel="accuracy, %", xscale="log")
    hertz = sorted(map(int, rates))
    rows = [rates[str(rate)] for rate in hertz]
    middle = np.array([row["accuracy"] for row in rows])
    low, high = np.array([row["ci95"] for row in rows]).T
    axis.errorbar(hertz, middle, (middle - low, high - middle), marker="o", capsize=4, label="read at its own rate")
    others = {
        "resampled_first": "resampled first",
        "decimated": "decimated, no filter",
        "highband": "sound above",
    }
    for (name, label), marker in zip(others.items(), "s^v", strict=True):
        there = [(rate, row[name]) for rate, row in zip(hertz, rows, strict=True) if row[name] is not None]
        if there:
            axis.plot(*zip(*there, strict=True), marker, mfc="none", label=label)
    axis.set_xticks(hertz, [f"{rate / 1000:g}k" for rate in hertz])
    axis.minorticks_off()
    axis.legend()
    save(figure, path)


def draw_misses(path: Path, row: dict[str, Any]) -> None:
    """Draw the share of words missed against false alarms an hour, over all thresholds; the stored one is marked."""
    figure = Figure((7, 4))
    axis = figure.add_subplot(xlabel="false alarms an hour", ylabel="words missed, %", ylim=(0, 100))
    axis.set_xscale("symlog", linthresh=0.5)
    points = [(point["false_alarms_per_hour"], point["miss_rate"]) for point in (*row["curve"], row["stored"])]
    axis.plot(*zip(*points[:-1], strict=True), label="threshold from high to low")
    axis.plot(*points[-1], "o", label=f"as stored, {row['stored']['threshold']:g}")
    axis.axvline(0.5, color="0.8", zorder=0)
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)


def draw_filters(path: Path, bank: Filterbank | None) -> None:
    """Draw the gain of every other filter against frequency, and each filter's bandwidth against its centre.

    A model without a filterbank gets no picture.
    """
    if bank is None:
        return
    gain = response(bank)
    centre, width = bandwidths(gain)
    figure = Figure((11, 4))
    left, right = figure.subplots(1, 2)
    left.plot(GRID, 20 * np.log10(gain[::2].T + 1e-9), lw=0.7)
    left.set(xscale="log", ylim=(-60, 6), xlabel="Hz", ylabel="gain, dB")
    right.loglog(centre, width, ".", label="as trained")
    right.loglog(centre, 24.7 * (4.37 * centre / 1000 + 1), color="0.6", label="ERB (Glasberg and Moore 1990)")
    right.set(xlabel="centre, Hz", ylabel="bandwidth at half power, Hz")
    right.legend()
    save(figure, path)


def bank_of(module: Mixer) -> Filterbank | None:
    """Return a trained filterbank as a file's metadata holds it, None for an encoder of another kind."""
    if not isinstance(module, FilterbankModule):
        return None
    poles, weights = (pair.detach().cpu().double().numpy() for pair in (module.poles(), module.weights()))
    return Filterbank(poles[..., 0] + 1j * poles[..., 1], weights[..., 0] + 1j * weights[..., 1], module.readouts)


def response(bank: Filterbank) -> np.ndarray:
    """Return each filter's gain at GRID: |sum_m w_m / (i 2 pi f - p_m)|, (C, frequencies)."""
    s = 2j * np.pi * GRID
    return np.abs((bank.weights[..., None] / (s - bank.poles[..., None])).sum(1))


def bandwidths(gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each gain (C, frequencies) is highest, and how wide it is at half power, in Hz, both (C,)."""
    power = gain**2
    above = power >= power.max(1, keepdims=True) / 2
    first, last = above.argmax(1), power.shape[1] - 1 - above[:, ::-1].argmax(1)
    return GRID[power.argmax(1)], GRID[last] - GRID[first]


def draw_heard(path: Path, audio: np.ndarray, rate: int, posteriors: np.ndarray, labels: Sequence[str]) -> None:
    """Draw the probabilities (frames, classes) of a stream over the spectrogram of its audio (n,)."""
    figure = Figure((11, 4.5))
    above, below = figure.subplots(2, 1, sharex=True)
    above.specgram(audio + 1e-7, NFFT=rate // 50, Fs=rate, noverlap=rate // 100, cmap="magma", vmin=-130, vmax=-40)
    above.set(ylabel="Hz", ylim=(0, min(rate / 2, 8000)))
    time = np.linspace(0, len(audio) / rate, len(posteriors) + 1)[1:]
    for column in range(len(labels)):
        spoken = not labels[column].startswith("_")
        peak = int(posteriors[:, column].argmax())
        if spoken and posteriors[peak, column] > 0.3:
            below.plot(time, posteriors[:, column])
            below.text(time[peak], posteriors[peak, column], labels[column], ha="center", va="bottom", fontsize=8)
        else:
            below.plot(time, posteriors[:, column], color="0.8", lw=0.6)
    below.set(xlabel="seconds", ylabel="probability", ylim=(0, 1.1), xlim=(0, len(audio) / rate))
    save(figure, path)


def draw_spectrograms(path: Path, sounds: Mapping[str, np.ndarray], rate: int) -> None:
    """Draw the spectrograms of several sounds (n,) one above the other, each with its name."""
    figure = Figure((11, 2.5 * len(sounds)))
    axes = np.atleast_1d(figure.subplots(len(sounds), 1, sharex=True, sharey=True))
    for axis, (name, audio) in zip(axes, sounds.items(), strict=True):
        axis.specgram(audio + 1e-7, NFFT=rate // 50, Fs=rate, noverlap=rate // 100, cmap="magma", vmin=-130, vmax=-40)
        axis.set_title(name, loc="left", fontsize=9)
        axis.set(ylabel="Hz")
    axes[-1].set_xlabel("seconds")
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a picture."""
    FigureCanvasAgg(figure)
    figure.tight_layout()
    figure.savefig(path, dpi=110)

"""How well enhancement models do on pairs of noisy and clean files, beside the noisy files and what others made."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from audiossm.data import read_audio, resample
from audiossm.data.audio import sound_files
from audiossm.data.pairs import Pair, find_pairs
from audiossm.training.enhancers import Enhancer, open_enhancer
from audiossm.training.pictures import draw_spectrograms
from audiossm.training.speech_quality import METRICS, check_installed, score
from audiossm.training.statistics import bootstrap_ratio

MOST_UNLIKE = 0.1  # seconds by which lengths may differ before files are no pair
TOGETHER = 4  # pairs that a process is given at once, for which it opens the models


def evaluate_enhancement(
    models: Sequence[str | Path],
    data: str | Path,
    split: str = "test",
    beside: Mapping[str, str | Path] | None = None,
    rates: Sequence[int] = (),
    pictures: str | Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Score models on pairs of noisy and clean files: run folders as modules, exported files through the runtime.

    Several models are one recipe trained from several seeds: the mean of their scores is reported.

    Args:
        models: run folders or ONNX files of enhancement models.
        data: folder of pairs, see `audiossm.data.pairs.find_pairs`.
        split: which pairs, where there are several.
        beside: folders of what others made of the noisy files, under the names of these, by the others' names.
        rates: further sampling rates in Hz at which the first model, a file, is to hear the pairs.
        pictures: folder to draw spectrograms into: of the files that gain least, middling and most PESQ.
        say: gets a line for what is odd, and for each model.

    Returns:
        {"task", "n", "models", "rate", "scores", "by_snr", "rates", "by_model", "files"}, of METRICS: pesq, stoi, estoi
        and si_sdr. A score that a file has none of (PESQ where it finds no speech) is left out of the means.

        scores: a row for "noisy", "model" and each of the others, {metric: {"mean", "ci95", "over_noisy": {"mean",
            "ci95"}}}: intervals of 95 % by bootstrap of the files, n of them; gains are paired by file.
        by_snr: {dB: {row: {metric: mean}}} where the ratio is known.
        rates: {Hz: {"model", "band_limited": {metric: mean}}}, see `at_rate`.
        by_model: {metric: mean} of each model. files: {name: {row: {metric: score}}}.

    Raises FileNotFoundError, ModuleNotFoundError or ValueError where something is not as it should be.
    """
    check_installed()
    opened = [open_enhancer(model) for model in models]
    rate = opened[0].rate
    if any(model.rate != rate for model in opened):
        raise ValueError("the models have different rates: evaluate them one by one")
    pairs = find_pairs(data, split)
    others = {name: by_stem(Path(folder), pairs) for name, folder in (beside or {}).items()}
    if pictures is not None:
        Path(pictures).mkdir(parents=True, exist_ok=True)
    with processes() as pool:
        score_pair = partial(of_pair, enhancers=opened, others=others, rate=rate)
        scored = list(pool.map(score_pair, pairs, chunksize=TOGETHER))
        heard = {
            str(other): np.stack(
                list(pool.map(partial(at_rate, enhance=opened[0], rate=other), pairs, chunksize=TOGETHER))
            )
            for other in rates
            if other != rate
        }
    by_model = np.stack([scores for scores, _ in scored])  # (n, models, metrics)
    rows = {name: np.stack([more[name] for _, more in scored]) for name in ("noisy", *others)}
    rows = {"noisy": rows.pop("noisy"), "model": by_model.mean(1), **rows}
    unscored = sum(not np.isfinite(values).all() for values in np.stack(list(rows.values()), axis=1))
    if unscored:
        say(f"{unscored} of {len(pairs)} files lack a score: too little speech was found in them")
    means = [dict(zip(METRICS, mean_of(by_model[:, i]), strict=True)) for i in range(len(opened))]
    for name, mean in zip(models, means, strict=True):
        say(f"{name}: " + ", ".join(f"{metric} {value:.3f}" for metric, value in mean.items()))
    if pictures is not None:
        draw(Path(pictures), pairs, rows, opened[0])
    return {
        "task": "enhancement",
        "n": len(pairs),
        "models": len(opened),
        "rate": rate,
        "scores": {name: described(values, rows["noisy"]) for name, values in rows.items()},
        "by_snr": by_snr(pairs, rows),
        "rates": {
            other: {
                name: dict(zip(METRICS, mean_of(values[:, i]), strict=True))
                for i, name in enumerate(("model", "band_limited"))
            }
            for other, values in heard.items()
        },
        "by_model": means,
        "files": {
            pair.name: {name: dict(zip(METRICS, rounded(values[i]), strict=True)) for name, values in rows.items()}
            for i, pair in enumerate(pairs)
        },
    }


def processes() -> ProcessPoolExecutor:
    """Return a pool of a process a core: what scores speech holds Python's lock, so that threads wait for each other.

    On Linux they are forked, which starts them at once; they touch no GPU and, on one thread, no pool of threads.
    """
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    return ProcessPoolExecutor(mp_context=context, initializer=alone)


def alone() -> None:
    """Compute on one thread, as each process of several should, and end at Ctrl-C without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    threadpool_limits(1)


def of_pair(
    pair: Pair, enhancers: Sequence[Enhancer], others: Mapping[str, Mapping[str, Path]], rate: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the scores of each model (models, metrics), and those of the noisy file and of the others' files."""
    noisy, clean = read_pair(pair, rate)
    ours = np.stack([score(enhance(noisy, rate), clean, rate) for enhance in enhancers])
    files = {name: read_like(folder[pair.name], clean, rate) for name, folder in others.items()}
    return ours, {name: score(audio, clean, rate) for name, audio in {"noisy": noisy, **files}.items()}


def at_rate(pair: Pair, enhance: Enhancer, rate: int) -> np.ndarray:
    """Return scores (2, metrics) of a pair that is heard at another rate, and at the model's rate but as narrow.

    All three, the clean file too, hold no more than both rates can.
    """
    own = enhance.rate
    noisy, clean = (resample(audio, own, rate) for audio in read_pair(pair, own))
    narrow, wanted = (resample(audio, rate, own) for audio in (noisy, clean))
    found = resample(enhance(noisy, rate), rate, own)
    return np.stack([score(audio, wanted, own) for audio in (found, enhance(narrow, own))])


def read_pair(pair: Pair, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the noisy and the clean recording of a pair, (n,) each."""
    clean = read_audio(pair.clean, rate)[0]
    return read_like(pair.noisy, clean, rate), clean


def read_like(path: Path, clean: np.ndarray, rate: int) -> np.ndarray:
    """Read a recording that is as long as another; a few samples more or less are cut or padded."""
    audio = read_audio(path, rate)[0]
    if abs(len(audio) - len(clean)) > MOST_UNLIKE * rate:
        raise ValueError(
            f"{path} lasts {len(audio) / rate:.2f} s where its clean file lasts {len(clean) / rate:.2f}: no pair"
        )
    return np.pad(audio[: len(clean)], (0, max(0, len(clean) - len(audio))))


def by_stem(folder: Path, pairs: Sequence[Pair]) -> dict[str, Path]:
    """Return what others made of the noisy files of pairs, by the pairs' names; raise where one is missing."""
    found = {path.stem: path for path in sound_files(folder)}
    missing = [pair.name for pair in pairs if pair.name not in found]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {len(missing)} of {len(pairs)} files: {missing[0]}")
    return found


def described(values: np.ndarray, noisy: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return mean and interval of each metric, (n, metrics), and of what it gains over the noisy files."""
    rows = {}
    for metric, ours, theirs in zip(METRICS, values.T, noisy.T, strict=True):
        rows[metric] = summed(ours) | {"over_noisy": summed(ours - theirs)}
    return rows


def summed(values: np.ndarray) -> dict[str, Any]:
    """Return the mean of values (n,) that are there, and its interval by bootstrap; None where none is."""
    there = values[np.isfinite(values)]
    if not len(there):
        return {"mean": None, "ci95": None}
    return {"mean": round(float(there.mean()), 4), "ci95": bootstrap_ratio(there, np.ones(len(there)))}


def by_snr(pairs: Sequence[Pair], rows: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return the means of the files of each ratio of speech to noise, in ascending order; {} where none is known."""
    ratios = np.array([np.nan if pair.snr is None else pair.snr for pair in pairs])
    return {
        f"{ratio:g}": {
            name: dict(zip(METRICS, mean_of(values[ratios == ratio]), strict=True)) for name, values in rows.items()
        }
        for ratio in np.unique(ratios[np.isfinite(ratios)])
    }


def mean_of(values: np.ndarray) -> list[float | None]:
    """Return the mean of each metric, (n, metrics), over the files that have it."""
    return [summed(column)["mean"] for column in values.T]


def rounded(values: np.ndarray) -> list[float | None]:
    """Return scores as JSON holds them."""
    return [round(float(value), 4) if np.isfinite(value) else None for value in values]


def draw(folder: Path, pairs: Sequence[Pair], rows: Mapping[str, np.ndarray], enhance: Enhancer) -> None:
    """Draw the spectrograms of the files that gain least, middling and most."""
    order = np.argsort(np.nan_to_num((rows["model"] - rows["noisy"])[:, 0]))
    for word, place in {"least": 0, "middling": len(order) // 2, "most": -1}.items():
        pair = pairs[order[place]]
        noisy, clean = read_pair(pair, enhance.rate)
        sounds = {f"noisy: {pair.name}": noisy, "enhanced": enhance(noisy, enhance.rate), "clean": clean}
        draw_spectrograms(folder / f"gains-{word}.png", sounds, enhance.rate)

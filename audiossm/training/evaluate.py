"""How well a keyword model does on clips, at any sampling rate and by both of the literature's protocols."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from audiossm.data import ClipArray, add_highband, find_clips, load_clips, resample
from audiossm.streaming import Filterbank, FrameClock, load_keywords
from audiossm.tasks.checkpoint import load_model
from audiossm.training.options import CLIP_SECONDS
from audiossm.training.pictures import bank_of, draw_confusion, draw_filters, draw_rates
from audiossm.training.predict import Predict, file_predictor, module_predictor
from audiossm.training.statistics import difference, interval, percent


def evaluate_model(
    models: str | Path | Sequence[str | Path],
    data: str | Path,
    rates: Sequence[int],
    split: str = "test",
    label_column: str = "label",
    highband: bool = False,
    pictures: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Evaluate run folders, ONNX files or released models on a split of a data folder.

    Several models are one recipe trained from several seeds: their mean is reported. `pictures` is a folder to draw it
    into. `say` gets a line for whatever had to be done to the clips (resampled, cropped ...) and for each rate as it is
    done.

    Raises FileNotFoundError or ValueError where a model or the data is not as it should be.
    """
    for rate in rates:
        FrameClock(rate)  # raises for what is no rate
    opened = [open_model(model) for model in ([models] if isinstance(models, (str, Path)) else models)]
    labels, native, bank, _ = opened[0]
    if any((other, at) != (labels, native) for other, at, _, _ in opened):
        raise ValueError("the models have different labels or native rates: evaluate them one by one")
    clips = load_clips(find_clips(data, split=split, label_column=label_column), native, CLIP_SECONDS, labels)
    for line in clips.report.lines():
        say(line)
    report = evaluate_keywords([predict for *_, predict in opened], clips, rates, highband, say)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        draw_confusion(pictures / "confusion.png", report["confusion"])
        draw_rates(pictures / "rates.png", report["rates"])
        draw_filters(pictures / "filters.png", bank)
    return report


def open_model(model: str | Path) -> tuple[list[str], int, Filterbank | None, Predict]:
    """Return labels, native rate in Hz, filters and predictor of a run folder, an ONNX file or a released model."""
    if Path(model).is_dir():
        module, _ = load_model(model)
        return list(module.config.labels), module.config.rate, bank_of(module.encoder), module_predictor(module)
    file = load_keywords(model)
    return list(file.metadata.labels), file.metadata.rate, file.metadata.filterbank, file_predictor(file)


def evaluate_keywords(
    models: Sequence[Predict],
    clips: ClipArray,
    rates: Sequence[int],
    highband: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure accuracy at each rate.

    Args:
        models: each classifies clips at a rate; the mean of their accuracies is reported.
        clips: at the models' native rate.
        rates: in Hz. Each is made from the clips by band-limited resampling, which is what a microphone delivers.
        highband: also try rates above the native one with sound added that only they can hold (`add_highband`).
        say: gets a line for each rate as it is done.

    Returns:
        {"task", "n", "models", "confusion": {"labels", "counts"}, "rates": {"8000": {...}}}. counts[i][j] is how often
        label i was taken for label j at the native rate. In percent, of a rate: "accuracy" and "ci95" (Wilson's, or
        by bootstrap of the clips for several models); "decimated" takes every k-th sample with no filter (the
        literature's test; None where the rate does not divide the native one); "resampled_first" resamples back to
        the native rate before a model that knows no other; "highband" or None; "over_native" and "over_resampled" are
        differences to the native rate and to "resampled_first", paired by clip: {"points", "ci95"}.
    """
    native = clips.samples(slice(None))

    def taken(audio: np.ndarray, rate: int) -> np.ndarray:
        """Return what each model takes each clip for, (models, n)."""
        return np.stack([predict(audio, rate).argmax(axis=1) for predict in models])

    def right(audio: np.ndarray, rate: int) -> np.ndarray:
        """Say which clips are recognised by each model, (models, n) bool."""
        return taken(audio, rate) == clips.targets

    answers = taken(native, clips.rate)
    at_native = answers == clips.targets
    report: dict[str, Any] = {
        "task": "keywords",
        "n": len(clips),
        "models": len(models),
        "confusion": confusion(clips, answers),
        "rates": {},
    }
    for rate in rates:
        heard, plain, full, back = at_native, None, None, at_native
        if rate != clips.rate:
            audio = resample_all(native, clips.rate, rate)
            heard = right(audio, rate)
            back = right(fit_length(resample_all(audio, rate, clips.rate), native.shape[1]), clips.rate)
            if highband and rate > clips.rate:
                full = right(add_highband(audio, rate, clips.rate / 2), rate)
        step, rest = divmod(clips.rate, rate)
        if step > 1 and not rest:
            plain = right(native[:, ::step].copy(), rate)
        report["rates"][str(rate)] = {
            "accuracy": percent(heard),
            "ci95": interval(heard),
            "decimated": None if plain is None else percent(plain),
            "resampled_first": percent(back),
            "highband": None if full is None else percent(full),
            "over_native": difference(heard, at_native),
            "over_resampled": difference(heard, back),
        }
        say(f"{rate} Hz: {percent(heard):.2f} %")
    return report


def confusion(clips: ClipArray, answers: np.ndarray) -> dict[str, Any]:
    """Count for each label what its clips were taken for, by all models (models, n)."""
    counts = np.zeros((len(clips.labels),) * 2, np.int64)
    for row in answers:
        np.add.at(counts, (clips.targets, row), 1)
    return {"labels": list(clips.labels), "counts": counts.tolist()}


def resample_all(audio: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resample clips (n, samples), band-limited."""
    return np.stack([resample(clip, rate, new_rate) for clip in audio])


def fit_length(audio: np.ndarray, length: int) -> np.ndarray:
    """Cut or pad clips (n, samples) to a length: resampling there and back may differ by a sample."""
    return np.pad(audio[:, :length], ((0, 0), (0, max(0, length - audio.shape[1]))))

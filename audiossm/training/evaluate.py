"""How well a keyword model does on clips, at any sampling rate and by both of the literature's protocols."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from audiossm.data import ClipArray, find_clips, load_clips, resample
from audiossm.streaming import Model, load
from audiossm.streaming.taps import FrameClock
from audiossm.tasks import KeywordModel
from audiossm.tasks.checkpoint import load_model
from audiossm.training.options import CLIP_SECONDS

BATCH = 64
FILE_BATCH = 8  # more streams at a time fall out of the CPU's cache

Predict = Callable[[np.ndarray, int], np.ndarray]  # clips (n, samples) float32 at a rate in Hz -> (n, classes) scores


def module_predictor(model: KeywordModel, device: str | None = None) -> Predict:
    """Return a function that classifies clips with a module: the logits at the end of each clip."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()

    @torch.inference_mode()
    def predict(audio: np.ndarray, rate: int) -> np.ndarray:
        parts = torch.from_numpy(whole_frames(audio, rate)).split(BATCH)
        return np.concatenate(
            [model(part.to(device).unsqueeze(-1), rate=rate)[0][:, -1].cpu().numpy() for part in parts]
        )

    return predict


def file_predictor(model: Model) -> Predict:
    """Return a function that classifies clips with an exported file, several streams at a time, frame by frame."""

    def predict(audio: np.ndarray, rate: int) -> np.ndarray:
        clock = FrameClock(rate)
        sessions = model.sessions(clock)

        def hear(streams: np.ndarray) -> np.ndarray:
            state = np.zeros((len(streams), model.metadata.state_size), np.float32)
            begin = frame = 0
            while begin + clock.samples <= streams.shape[1]:
                inputs = {"audio": streams[:, begin : begin + clock.samples], "state": state}
                session = sessions[frame % clock.period]
                posteriors, state = session.run(["posteriors", "state_out"], inputs)
                begin += clock.samples - clock.shared(frame)
                frame += 1
            return posteriors

        audio = whole_frames(audio, rate)
        return np.concatenate([hear(audio[i : i + FILE_BATCH]) for i in range(0, len(audio), FILE_BATCH)])

    return predict


def whole_frames(audio: np.ndarray, rate: int) -> np.ndarray:
    """Pad clips (n, samples) with zeros to a whole number of frames, as `flush` does at the end of a stream."""
    frame = FrameClock(rate).grid / 50  # samples; at some rates a half
    samples = int(np.ceil(np.ceil(audio.shape[1] / frame) * frame))
    return np.pad(audio, ((0, 0), (0, samples - audio.shape[1])))


def evaluate_model(
    model: str | Path,
    data: str | Path,
    rates: list[int],
    split: str = "test",
    label_column: str = "label",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Evaluate a run folder, an ONNX file or a released model on a split of a data folder.

    `say` gets a line for whatever had to be done to the clips (resampled, cropped ...) and for each rate as it is done.

    Raises FileNotFoundError or ValueError where the model or the data is not as it should be.
    """
    for rate in rates:
        FrameClock(rate)  # raises for what is no rate
    if Path(model).is_dir():
        module, _ = load_model(model)
        labels, native, predict = module.config.labels, module.config.rate, module_predictor(module)
    else:
        file = load(model)
        labels, native, predict = file.metadata.labels, file.metadata.rate, file_predictor(file)
    found = find_clips(data, split=split, label_column=label_column)
    clips = load_clips(found, native, CLIP_SECONDS, list(labels))
    for line in clips.report.lines():
        say(line)
    return evaluate_keywords(predict, clips, rates, say)


def evaluate_keywords(
    predict: Predict, clips: ClipArray, rates: list[int], say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Measure accuracy at each rate.

    Args:
        predict: classifies clips at a rate.
        clips: at the model's native rate.
        rates: in Hz. Each is made from the clips by band-limited resampling, which is what a microphone delivers.
        say: gets a line for each rate as it is done.

    Returns:
        {"task", "n", "rates": {"8000": {"accuracy", "ci95", "decimated", "resampled_first"}}}, in percent.
        "decimated" takes every k-th sample with no filter (the literature's test; None where the rate does not divide
        the native one); "resampled_first" resamples back to the native rate before a model that knows no other.
    """
    report: dict[str, Any] = {"task": "keywords", "n": len(clips), "rates": {}}
    native = clips.samples(slice(None))
    for rate in rates:
        heard = native if rate == clips.rate else resample_all(native, clips.rate, rate)
        right = correct(predict, heard, rate, clips.targets)
        row: dict[str, Any] = {"accuracy": percent(right), "ci95": interval(right)}
        step, rest = divmod(clips.rate, rate)
        plain = None if rest or step < 2 else correct(predict, native[:, ::step].copy(), rate, clips.targets)
        row["decimated"] = None if plain is None else percent(plain)
        if rate == clips.rate:
            row["resampled_first"] = row["accuracy"]
        else:
            back = fit_length(resample_all(heard, rate, clips.rate), native.shape[1])
            row["resampled_first"] = percent(correct(predict, back, clips.rate, clips.targets))
        report["rates"][str(rate)] = row
        say(f"{rate} Hz: {row['accuracy']:.2f} %")
    return report


def correct(predict: Predict, audio: np.ndarray, rate: int, targets: np.ndarray) -> np.ndarray:
    """Return which clips are recognised, (n,) bool."""
    return predict(audio, rate).argmax(axis=1) == targets


def percent(right: np.ndarray) -> float:
    """Return the share of True in percent."""
    return round(100 * float(right.mean()), 3)


def interval(right: np.ndarray) -> list[float]:
    """Return Wilson's 95 % interval of an accuracy, in percent."""
    ci = binomtest(int(right.sum()), len(right)).proportion_ci(0.95, method="wilson")
    return [round(100 * float(ci.low), 3), round(100 * float(ci.high), 3)]


def resample_all(audio: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resample clips (n, samples), band-limited."""
    return np.stack([resample(clip, rate, new_rate) for clip in audio])


def fit_length(audio: np.ndarray, length: int) -> np.ndarray:
    """Cut or pad clips (n, samples) to a length: resampling there and back may differ by a sample."""
    return np.pad(audio[:, :length], ((0, 0), (0, max(0, length - audio.shape[1]))))

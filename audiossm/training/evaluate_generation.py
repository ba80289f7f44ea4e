"""How well a generation model predicts recordings: bits a sample, the lower the better."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiossm.data import find_clips
from audiossm.data.recordings import Recordings, open_recordings
from audiossm.data.windows import Windows
from audiossm.tasks import GenerationModel
from audiossm.tasks.checkpoint import load_model
from audiossm.training.fit_generation import class_numbers
from audiossm.training.statistics import bootstrap_ratio

BATCH = 32  # windows at once
AT_ONCE = 2**18  # samples of all of them together: the outputs are 256 numbers each


def evaluate_generation(
    models: Sequence[str | Path],
    data: str | Path,
    split: str = "test",
    label_column: str = "label",
    where: Mapping[str, str] | None = None,
    window: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Evaluate run folders on a split of a data folder.

    Several models are one recipe trained from several seeds: the mean of their bits is reported.

    Args:
        models: run folders of generation models.
        data: folder of audio; it is resampled to the models' rate.
        split: which recordings; a folder without splits is used whole.
        label_column: the manifest's column that holds the labels.
        where: keep only the manifest's rows that have these values, by column.
        window: seconds after which a model begins anew, as it does in training; None: it hears each recording from
            its beginning to its end.
        say: gets a line for what is odd in the recordings, and for each model.

    Returns:
        {"task", "n", "models", "samples", "coding", "bits", "ci95", "by_model", "clips"}. bits is the mean over all
        samples, ci95 its 95 % interval by bootstrap of the recordings (n of them), clips the bits of each by its path.
        Bits of 8 and of 16 bit codings are of other codes and do not compare.

    Raises FileNotFoundError or ValueError where a model or the data is not as it should be.
    """
    opened = [load_model(model, GenerationModel)[0] for model in models]
    config = opened[0].config
    if len({(model.config.rate, model.config.coding, model.config.classes) for model in opened}) > 1:
        raise ValueError("the models have different rates, codings or classes: evaluate them one by one")
    clips = find_clips(data, split, label_column, where)
    recordings, lines = open_recordings(clips, config.rate)
    for line in lines:
        say(line)
    labels = class_numbers(clips, recordings, config.classes)
    size = max(recordings.lengths) if window is None else max(1, round(window * recordings.rate))
    windows = Windows(recordings, size, labels)
    bits = []
    for name, model in zip(models, opened, strict=True):
        bits.append(bits_of(model, windows))
        say(f"{name}: {bits[-1].sum() / sum(recordings.lengths):.4f} bits a sample")
    return report(np.stack(bits), recordings, config.coding)


def report(bits: np.ndarray, recordings: Recordings, coding: str) -> dict[str, Any]:
    """Return what `evaluate_generation` does, of the bits of each recording by each model, (models, n)."""
    samples = np.array(recordings.lengths)
    return {
        "task": "generation",
        "n": len(recordings),
        "models": len(bits),
        "samples": int(samples.sum()),
        "coding": coding,
        "bits": round(float(bits.mean(0).sum() / samples.sum()), 4),
        "ci95": bootstrap_ratio(bits.mean(0), samples),
        "by_model": [round(float(each.sum() / samples.sum()), 4) for each in bits],
        "clips": {
            str(clip.path): round(float(each), 4)
            for clip, each in zip(recordings.clips, bits.mean(0) / samples, strict=True)
        },
    }


@torch.inference_mode()
def bits_of(model: GenerationModel, windows: Windows, device: str | None = None) -> np.ndarray:
    """Return the bits that a model needs for each recording, (n,) float64, heard window by window.

    Windows of like lengths are heard together. Long ones in pieces with the state handed on: the law says that nothing
    changes.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()
    total = np.zeros(len(windows.recordings))
    for places in by_length(windows):
        audio, heard, label, _ = (part.to(device) for part in windows[places])
        codes = model.coding.encode(audio[:, : int(heard.max()) + 1])
        codes[:, 0] = model.start
        state, bits, length = None, torch.zeros(len(codes), dtype=torch.float64, device=device), codes.shape[1] - 1
        step = max(1, AT_ONCE // len(codes))
        for begin in range(0, length, step):
            end = min(begin + step, length)
            outputs, state = model(codes[:, begin:end], state, label=label)
            inside = torch.arange(begin, end, device=device) < heard.unsqueeze(1)
            bits += (model.bits(outputs, codes[:, begin + 1 : end + 1]).double() * inside).sum(1)
        np.add.at(total, places[:, 0].numpy(), bits.cpu().numpy())
    return total


def by_length(windows: Windows) -> Iterator[torch.Tensor]:
    """Return the windows that cover all recordings, the shortest first, in batches of places."""
    places = windows.one_by_one()
    heard = (torch.tensor(windows.recordings.lengths)[places[:, 0]] - places[:, 1]).clamp(max=windows.size)
    yield from places[heard.argsort(stable=True)].split(BATCH)

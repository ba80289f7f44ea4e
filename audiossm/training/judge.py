"""What a keyword model makes of clips that another has made: is each what it should be, and are all like real ones?"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiossm.data import Clip, ClipArray, find_clips, load_clips
from audiossm.tasks import KeywordModel
from audiossm.tasks.checkpoint import load_model
from audiossm.training.options import CLIP_SECONDS
from audiossm.training.predict import BATCH, whole_frames
from audiossm.training.statistics import interval, percent


def judge_made(
    judge: str | Path,
    made: str | Path,
    data: str | Path,
    split: str = "test",
    label_column: str = "label",
    where: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Let a keyword model hear made clips and real ones.

    Args:
        judge: run folder of a keyword model that knows the classes.
        made: folder of the made clips, a folder per class.
        data, split, label_column, where: the real clips.
        say: gets a line for what is odd in the clips.

    Returns:
        {"n", "accuracy", "ci95", "real_accuracy", "frechet", "frechet_real"}: made clips; the share of them recognised
        as their class, in percent, with its interval; the same share of the real ones, which bounds it; the Fréchet
        distance of the judge's features of made and real clips; and of real clips of "train" and of the split, which
        is as good as it gets (None where there is no "train", or it is that split).

    Raises FileNotFoundError or ValueError where a model or a folder is not as it should be.
    """
    model, _ = load_model(judge)
    real = find_clips(data, split, label_column, where)
    train = [clip for clip in find_clips(data, None, label_column, where) if clip.split == "train"]
    heard = [Heard(model, made_clips, say) for made_clips in (find_clips(made), real)]
    right = heard[0].right[None]
    return {
        "n": right.size,
        "accuracy": percent(right),
        "ci95": interval(right),
        "real_accuracy": percent(heard[1].right),
        "frechet": round(frechet(heard[0].features, heard[1].features), 4),
        "frechet_real": round(frechet(Heard(model, train, say).features, heard[1].features), 4)
        if train and split != "train"
        else None,
    }


class Heard:
    """What a keyword model makes of clips: right (n,), whether each is recognised, and its features (n, H)."""

    def __init__(self, model: KeywordModel, clips: list[Clip], say: Callable[[str], None]):
        loaded = load_clips(clips, model.config.rate, CLIP_SECONDS, list(model.config.labels))
        for line in loaded.report.lines():
            say(line)
        scores, self.features = hear(model, loaded)
        self.right = scores.argmax(1) == loaded.targets


@torch.inference_mode()
def hear(model: KeywordModel, clips: ClipArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits (n, classes) at the ends of clips, and what the last layer makes them of, (n, H) float64."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, seen = model.to(device).eval(), []
    hook = model.head.register_forward_pre_hook(lambda _, given: seen.append(given[0][:, -1].double().cpu()))
    try:
        audio = torch.from_numpy(whole_frames(clips.samples(slice(None)), clips.rate))
        logits = [model(part.to(device).unsqueeze(-1))[0][:, -1].cpu() for part in audio.split(BATCH)]
    finally:
        hook.remove()
    return torch.cat(logits).numpy(), torch.cat(seen).numpy()


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Fréchet distance of the Gaussians that features (n, H) and (m, H) have (Heusel et al. 2017).

    |m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^(1/2)); the root's trace is the sum of the roots of S1 S2's eigenvalues.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError("a Fréchet distance needs at least two clips on either side")
    s1, s2 = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (one, other))
    shared = np.sqrt(np.linalg.eigvals(s1 @ s2).real.clip(0)).sum()
    apart = np.square(one.mean(0) - other.mean(0)).sum()
    return float(max(0.0, apart + np.trace(s1) + np.trace(s2) - 2 * shared))

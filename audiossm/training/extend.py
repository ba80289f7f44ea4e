"""Teach a trained model from a few recordings of one's own, without it forgetting what it knew."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from audiossm.data import ClipArray, find_clips, load_clips
from audiossm.tasks import KeywordModel
from audiossm.training.options import CLIP_SECONDS
from audiossm.training.splits import for_training

SHORT = {"epochs": 10, "batch": 64, "lr": 0.001}  # what differs from the recipe that the model was trained by
OWN_SHARE = 1 / 3  # of the clips of an epoch: the few recordings are repeated until they are as many


def load_extension(
    own: Path, base: Path, known: KeywordModel, label_column: str, say: Callable[[str], None]
) -> tuple[ClipArray, ClipArray | None]:
    """Read new recordings together with those that a model knows, as (training clips, validation clips or None).

    The labels are the model's, then the new ones. The new recordings are repeated to OWN_SHARE of the training clips.

    Raises FileNotFoundError or ValueError where a folder is not as it should be, or holds what the model never learnt.
    """
    config, found = known.config, {folder: find_clips(folder, label_column=label_column) for folder in (base, own)}
    train = {folder: for_training(clips, folder) for folder, clips in found.items()}
    strange = {clip.label for clip in train[base]} - set(config.labels)
    if strange:
        raise ValueError(f"{base} is not what the model was trained on: it does not know {', '.join(sorted(strange))}")
    labels = [*config.labels, *sorted({clip.label for clip in train[own]} - set(config.labels))]
    both = load_clips(train[base] + train[own], config.rate, CLIP_SECONDS, labels)
    for line in both.report.lines():
        say(line)
    held_out = [clip for clip in (*found[base], *found[own]) if clip.split == "val" and clip.label in labels]
    val = load_clips(held_out, config.rate, CLIP_SECONDS, labels) if held_out else None
    return repeat_last(both, len(train[own])), val


def repeat_last(clips: ClipArray, count: int) -> ClipArray:
    """Repeat the last `count` clips to about OWN_SHARE of all."""
    before = len(clips) - count
    times = max(1, round(before * OWN_SHARE / (1 - OWN_SHARE) / count))
    rows = [*range(before), *(list(range(before, len(clips))) * times)]
    return replace(clips, audio=clips.audio[rows], targets=clips.targets[rows], clips=[clips.clips[i] for i in rows])


def extended(known: KeywordModel, labels: list[str]) -> KeywordModel:
    """Return a model with the weights of `known`, whose labels `labels` begins with; the head's new rows are fresh."""
    model = KeywordModel(replace(known.config, labels=tuple(labels)))
    weights, fresh = known.state_dict(), model.state_dict()
    for name in ("head.weight", "head.bias"):
        weights[name] = torch.cat((weights[name], fresh[name][len(known.config.labels) :]))
    model.load_state_dict(weights)
    return model

"""Train a generation model on a folder of audio and leave it in a run folder."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from audiossm.data import Clip, find_clips
from audiossm.data.recordings import MEMORY, Recordings, open_recordings
from audiossm.data.windows import Windows, loudness
from audiossm.tasks import GenerationConfig, GenerationModel
from audiossm.tasks.checkpoint import load_model, parameter_count, save_model
from audiossm.training.generation import GenerationTraining, window_samples
from audiossm.training.options import GenerateOptions
from audiossm.training.run import (
    Report,
    about_training,
    begin_run,
    build_trainer,
    check_run_folder,
    fit,
    is_first,
    sharing,
    silent,
)
from audiossm.training.splits import for_training
from audiossm.training.window_loader import WindowBatches


def train_generation(
    data: str | Path,
    out: str | Path,
    config: GenerationConfig,
    options: GenerateOptions,
    resume: bool = False,
    devices: str = "auto",
    conditional: bool = False,
    label_column: str = "label",
    where: Mapping[str, str] | None = None,
    memory: float = MEMORY,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> GenerationModel:
    """Train on the split "train" of a data folder, watching "val" where there is one.

    Devices and resuming are those of `train_keywords`. A state that is carried from window to window is kept with the
    checkpoint on one device; on several, a resumed run begins with an empty one.

    Args:
        data: any folder of audio, with or without a manifest.csv.
        out: run folder; gets model.json, model.safetensors, last.ckpt (to resume from) and TensorBoard logs.
        config: size of the model; its classes, and its rate where it has none, are taken from the data.
        options: of the optimisation.
        resume: go on from out/last.ckpt.
        devices: "auto" for torchrun's processes, else all GPUs or one CPU process; or a number of devices.
        conditional: tell the model the recordings' labels, as classes.
        label_column: the manifest's column that holds the labels.
        where: keep only the manifest's rows that have these values, by column.
        memory: GB of audio that a process may keep; more is read from disk as needed.
        progress: show a bar.
        say: gets one line for each thing worth telling.

    Raises:
        As `train_keywords`.
    """
    local, machines = sharing(devices, options.batch)
    out = Path(out)
    first = is_first()
    say = say if first else silent
    if first:
        check_run_folder(out, resume)
    clips = find_clips(data, label_column=label_column, where=where)
    chosen = for_training(clips, Path(data))
    if conditional:
        config = replace(config, classes=class_names(chosen, Path(data)))
    train = cut(chosen, config, options, memory, progress and first, say)
    config = replace(config, rate=train.recordings.rate)
    held_out = [clip for clip in clips if clip.split == "val"]
    val = cut(held_out, config, options, memory, progress and first, silent, shorter=True) if held_out else None
    if min(len(train), len(val or train)) < local * machines:
        raise ValueError(f"fewer windows than devices ({local * machines}): train on fewer devices")
    level = loudness(train.recordings)
    torch.manual_seed(options.seed)
    model = GenerationModel(config)
    if first:
        begin_run(out, config, options, resume)
    if resume and (out / "model.json").is_file():
        say(f"the training in {out} has finished already")
        return load_model(out, GenerationModel)[0]
    hours = f"{train.recordings.seconds / 3600:.2f} h at {config.rate} Hz"
    classes = f" of {len(config.classes)} classes" if config.classes else ""
    say(f"training {parameter_count(model):,} parameters on {len(train.recordings)} recordings{classes}, {hours}")
    report = None if progress else Report(say, "val_bits", lambda bits: f"{bits:.3f} bits a sample on validation")
    trainer = build_trainer(out, options, local, machines, report)
    begun = time.monotonic()
    fit(
        trainer, GenerationTraining(model, options), WindowBatches(train, val, options, options.carry), out, resume, say
    )
    if trainer.is_global_zero:
        about = summary(trainer, train, options, time.monotonic() - begun)
        about |= {"window": window_samples(config, train.recordings.rate, options), "level": level}
        save_model(out, model.cpu().eval(), about)
    say(f"done: the model is in {out}; try: audiossm export {out} --out model.onnx")
    return model


def class_names(clips: Sequence[Clip], data: Path) -> tuple[str, ...]:
    """Return the labels of clips, sorted; raise where there are none to tell a model."""
    labels = tuple(sorted({clip.label for clip in clips}))
    if len(labels) < 2 or "" in labels:
        raise ValueError(f"{data} has no classes to tell the model: a folder each, or labels in a manifest.csv")
    return labels


def cut(
    clips: Sequence[Clip],
    config: GenerationConfig,
    options: GenerateOptions,
    memory: float,
    progress: bool,
    say: Callable[[str], None],
    shorter: bool = False,
) -> Windows:
    """Cut clips into windows, whole steps of the slowest pool.

    `shorter`: these are not learnt from, and all of them may be shorter than a window.
    """
    recordings, lines = open_recordings(clips, config.rate, memory, progress)
    for line in lines:
        say(line)
    size = window_samples(config, recordings.rate, options)
    check_lengths(recordings, size, say, shorter, options.pad)
    if not shorter:  # what is heard faster is read from more of a recording
        size = math.ceil((size + 1) * (1 + options.speed)) - 1
    return Windows(recordings, size, class_numbers(clips, recordings, config.classes), options.pad and not shorter)


def check_lengths(recordings: Recordings, size: int, say: Callable[[str], None], shorter: bool, pad: bool) -> None:
    """Raise where no recording fills a window of `size` samples; say how many do not."""
    longest, rate = max(recordings.lengths), recordings.rate
    if longest < size and not shorter:
        raise ValueError(
            f"the longest recording lasts {longest / rate:.3g} s, less than a window of {size / rate:.3g} s: "
            f"give --window {math.floor(1000 * longest / rate) / 1000:g} or less"
        )
    few = sum(length < size for length in recordings.lengths)
    if few:
        what = "the silence behind them is learnt too" if pad else "what they lack is not learnt from"
        say(f"{few} of {len(recordings)} recordings shorter than a window: {what}")


def class_numbers(clips: Sequence[Clip], recordings: Recordings, classes: Sequence[str]) -> torch.Tensor:
    """Return the place of each recording's label in the classes, (n,) int64; zeros where there are no classes."""
    if not classes:
        return torch.zeros(len(recordings), dtype=torch.int64)
    unknown = sorted({clip.label for clip in clips} - set(classes))
    if unknown:
        raise ValueError(f"recordings are labelled {', '.join(unknown)}, but the classes are {', '.join(classes)}")
    return torch.tensor([classes.index(clip.label) for clip in recordings.clips])


def summary(trainer: Trainer, train: Windows, options: GenerateOptions, seconds: float) -> dict[str, Any]:
    """Return what a reader of the model wants to know of its training."""
    bits = trainer.callback_metrics.get("val_bits")
    return {
        "recordings": len(train.recordings),
        "hours": round(train.recordings.seconds / 3600, 3),
        "val_bits": None if bits is None else round(float(bits), 4),
        **about_training(trainer, options, seconds),
    }

"""Train a keyword model on a data folder and leave it in a run folder."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.nn.parallel import DistributedDataParallel

from audiossm.data import ClipArray, load_recordings
from audiossm.tasks import KeywordConfig, KeywordModel
from audiossm.tasks.checkpoint import load_model, parameter_count, save_model
from audiossm.training.extend import extended, load_extension
from audiossm.training.loader import ClipBatches
from audiossm.training.module import KeywordTraining
from audiossm.training.options import CLIP_SECONDS, TrainOptions
from audiossm.training.pictures import bank_of, draw_filters
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
from audiossm.training.splits import load_splits
from audiossm.training.teacher import load_teachers


def train_keywords(
    data: str | Path,
    out: str | Path,
    config: KeywordConfig,
    options: TrainOptions,
    resume: bool = False,
    devices: str = "auto",
    label_column: str = "label",
    noise: Sequence[str | Path] = (),
    speech: Sequence[str | Path] = (),
    progress: bool = True,
    say: Callable[[str], None] = print,
    extend: tuple[str | Path, str | Path] | None = None,
    teachers: Sequence[str | Path] = (),
) -> KeywordModel:
    """Train on the split "train" of a data folder, watching "val" where there is one.

    Several processes share every batch, a device each: `devices` starts them here, torchrun on any number of machines,
    which must see the same `data` and `out`. The first process alone writes and speaks.

    A run that was stopped goes on with `resume`. On as many devices as before the result is, on CPUs to the bit, that
    of an uninterrupted run. On another number each step still has the same clips and learning rate, but other random
    draws of the augmentation, other groups of clips that are normalised together, and sums in another order.
    A training by the clock (`options.minutes`) goes on with the time that is left, and cannot be repeated to the bit.

    Args:
        data: folder in Speech Commands' layout or with a manifest.csv.
        out: run folder; gets model.json, model.safetensors, last.ckpt (to resume from), TensorBoard logs and a
            picture of the filters.
        config: size of the model; its labels are taken from the data.
        options: optimisation and augmentation.
        resume: go on from out/last.ckpt.
        devices: "auto" for torchrun's processes, else all GPUs or one CPU process; or a number of devices.
        label_column: the manifest's column that holds the labels.
        noise: folders of noise recordings, to put behind the clips and to learn as `_silence_`.
        speech: folders of recordings of other speech, to put behind them and to learn as `_other_`.
        progress: show a bar.
        say: gets one line for each thing worth telling.
        extend: a run folder whose model to begin with, and the data folder that it was trained on, which is mixed in so
            that nothing is forgotten. Size and rate are then that model's, not config's, and new labels come last.
        teachers: run folders whose models, with the same labels and rate, are listened to beside the labels.

    Raises:
        FileNotFoundError, ValueError: the data or the run folder is not as it should be, in one line.
        OSError: a file cannot be written; what was there before is whole.
        KeyboardInterrupt: SIGINT came; SystemExit: SIGTERM came. A checkpoint is left, and it is said how to go on.
    """
    local, machines = sharing(devices, options.batch)
    out = Path(out)
    first = is_first()
    say = say if first else silent
    if first:
        check_run_folder(out, resume)
    known = None if extend is None else load_model(extend[0])[0]
    if known is None or extend is None:
        train, val = load_splits(Path(data), config.rate, label_column, say, progress and first)
    else:
        config = known.config
        train, val = load_extension(Path(data), Path(extend[1]), known, label_column, say)
    if min(len(train), len(val or train)) < local * machines:
        raise ValueError(f"fewer clips than devices ({local * machines}): train on fewer devices")
    recordings = {
        name: load_recordings(folders, config.rate, CLIP_SECONDS)
        for name, folders in {"noise": noise, "speech": speech}.items()
        if folders
    }
    config = replace(config, labels=tuple(train.labels))
    taught_by = load_teachers(teachers, config, options.temperature)
    torch.manual_seed(options.seed)
    model = KeywordModel(config) if known is None else extended(known, train.labels)
    made_of: dict[str, Any] = {"teachers": [str(run) for run in teachers]} if teachers else {}
    if extend is not None:
        made_of["extends"], made_of["base"] = map(str, extend)
    if first:
        begin_run(out, config, options, resume, **made_of)
    if resume and (out / "model.json").is_file():
        say(f"the training in {out} has finished already")
        return load_model(out)[0]
    say(f"training {parameter_count(model):,} parameters on {len(train)} clips of {len(train.labels)} classes")
    report = (
        None if progress else Report(say, "val_accuracy", lambda share: f"{100 * share:.2f} % of the validation clips")
    )
    trainer = build_trainer(out, options, local, machines, report)
    begun = time.monotonic()
    training = KeywordTraining(model, options, **recordings, teachers=taught_by)
    # The same everywhere, and nothing that gradients go through: several devices need not be told of them every step.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(training, ["noise", "speech"])
    fit(trainer, training, ClipBatches(train, val, options), out, resume, say)
    if trainer.is_global_zero:
        about = summary(trainer, train, options, time.monotonic() - begun)
        about |= {name: made_of[name] for name in ("extends", "teachers") if name in made_of}
        if "experts" in about:
            balance, dropped = about["experts"].values()
            say(f"experts: balance {balance:.2f} (1: all used alike), {100 * dropped:.2f} % of their choices dropped")
        save_model(out, model.cpu().eval(), about)
        draw_filters(out / "filters.png", bank_of(model.encoder))
    say(f"done: the model is in {out}; try: audiossm export {out} --out model.onnx")
    return model


def summary(trainer: Trainer, train: ClipArray, options: TrainOptions, seconds: float) -> dict[str, Any]:
    """Return what a reader of the model wants to know of its training."""
    told = trainer.callback_metrics
    accuracy = told.get("val_accuracy")
    experts = {}
    if "experts_dropped" in told:  # of the last epoch
        balance, dropped = (round(float(told[f"experts_{what}"]), 4) for what in ("balance", "dropped"))
        experts = {"experts": {"balance": balance, "dropped_share": dropped}}
    return {
        "clips": len(train),
        "val_accuracy": None if accuracy is None else round(100 * float(accuracy), 2),
        **experts,
        **about_training(trainer, options, seconds),
    }

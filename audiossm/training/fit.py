"""Train a keyword model on a data folder and leave it in a run folder."""

import json
import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from audiossm.data import ClipArray, load_recordings
from audiossm.tasks import KeywordConfig, KeywordModel
from audiossm.tasks.checkpoint import load_model, parameter_count, save_model, write_beside
from audiossm.training.checkpoints import LastCheckpoint, Stopped, WholeFiles, check_checkpoint
from audiossm.training.extend import extended, load_extension
from audiossm.training.loader import ClipBatches
from audiossm.training.module import KeywordTraining
from audiossm.training.options import CLIP_SECONDS, TrainOptions
from audiossm.training.pictures import bank_of, draw_filters
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
    local, machines = layout(devices)
    if options.batch % (local * machines):
        raise ValueError(f"batch {options.batch} cannot be shared by {local * machines} devices: give a multiple")
    out = Path(out)
    first = getattr(rank_zero_only, "rank", 0) == 0  # of several processes, a device each, the first one speaks
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
    begun_as: dict[str, Any] = {"config": asdict(config), "options": asdict(options)}
    if extend is not None:
        begun_as["extends"], begun_as["base"] = map(str, extend)
    if teachers:
        begun_as["teachers"] = [str(run) for run in teachers]
    if first:
        begin_run(out, begun_as, resume)
    if resume and (out / "model.json").is_file():
        say(f"the training in {out} has finished already")
        return load_model(out)[0]
    say(f"training {parameter_count(model):,} parameters on {len(train)} clips of {len(train.labels)} classes")
    trainer = build_trainer(out, options, len(train), local, machines, progress, say)
    begun = time.monotonic()
    training = KeywordTraining(model, options, **recordings, teachers=taught_by)
    # The same everywhere, and nothing that gradients go through: several devices need not be told of them every step.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(training, ["noise", "speech"])
    fit(trainer, training, ClipBatches(train, val, options), out, resume, say)
    if trainer.is_global_zero:
        about = summary(trainer, train, options, time.monotonic() - begun)
        about |= {name: begun_as[name] for name in ("extends", "teachers") if name in begun_as}
        if "experts" in about:
            balance, dropped = about["experts"].values()
            say(f"experts: balance {balance:.2f} (1: all used alike), {100 * dropped:.2f} % of their choices dropped")
        save_model(out, model.cpu().eval(), about)
        draw_filters(out / "filters.png", bank_of(model.encoder))
    say(f"done: the model is in {out}; try: audiossm export {out} --out model.onnx")
    return model


def fit(
    trainer: Trainer,
    training: KeywordTraining,
    batches: ClipBatches,
    out: Path,
    resume: bool,
    say: Callable[[str], None],
) -> None:
    """Let Lightning train. Where a signal stops it, say how to go on and leave as that signal is answered."""
    handler = signal.getsignal(signal.SIGINT)
    last = out / "last.ckpt"
    try:
        trainer.fit(training, batches, ckpt_path=str(last) if resume else None, weights_only=True)
    except Stopped as stopped:
        steps = f"{trainer.global_step:,} of {trainer.estimated_stepping_batches:,}"
        kept = f"it is kept in {last}, and the same command with --resume goes on"
        say(f"stopped after step {steps}: {kept if last.is_file() else 'nothing to keep yet'}")
        if not trainer.is_global_zero:
            raise SystemExit(0) from None  # the first process's code is the run's
        raise (KeyboardInterrupt if stopped.signal == signal.SIGINT else SystemExit(128 + stopped.signal)) from None
    except SystemExit:  # Lightning's answer to a second Ctrl-C, which it then also ignores
        signal.signal(signal.SIGINT, handler)
        if last.is_file():
            say(f"stopped at once: {last} is of an earlier step; the same command with --resume goes on from there")
        raise KeyboardInterrupt from None
    except BaseException:
        end_others(trainer)
        raise


def end_others(trainer: Trainer) -> None:
    """End the processes that this one has started: they would wait for ever for one that has failed."""
    for process in getattr(trainer.strategy.launcher, "procs", []):
        process.kill()


def silent(line: str) -> None:
    """Say nothing."""


def begin_run(out: Path, run: dict[str, Any], resume: bool) -> None:
    """Write run.json, or raise where a run to resume was begun otherwise."""
    text, note = json.dumps(run, indent=2) + "\n", out / "run.json"
    if resume and note.is_file() and note.read_text() != text:
        raise ValueError(f"{out} was begun with other options, labels or teachers: resume with the same ones ({note})")
    out.mkdir(parents=True, exist_ok=True)
    write_beside(note, text.encode())


def check_run_folder(out: Path, resume: bool) -> None:
    """Raise where training would overwrite a run, or has none to resume."""
    if resume:
        check_checkpoint(out / "last.ckpt")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: --out names the folder of a run")
    if not resume and any((out / name).exists() for name in ("model.json", "last.ckpt")):
        raise ValueError(f"{out} already holds a run: choose another --out, or go on with --resume")


class StepSeed(Callback):
    """Seeds by step and device: a run resumed anywhere draws what an uninterrupted one would have drawn."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Before the augmentation and the dropout of a step."""
        torch.manual_seed((self.seed * 1_000_003 + trainer.global_step) * 1_009 + trainer.global_rank)


class OneModel(Callback):
    """Watches one model on all devices, the one that is saved: each has gathered running statistics of its own."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the first device's, which the averaged weights have brought along."""
        if trainer.world_size > 1:
            for buffer in pl_module.model.buffers():  # type: ignore[union-attr, operator]
                torch.distributed.broadcast(buffer, 0)


class Report(Callback):
    """Says the validation accuracy in a line, for logs and for those without a progress bar."""

    def __init__(self, say: Callable[[str], None]):
        self.say = say

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it once, whatever the number of devices."""
        accuracy = trainer.callback_metrics.get("val_accuracy")
        if accuracy is not None and trainer.is_global_zero:
            self.say(f"epoch {trainer.current_epoch + 1}: {100 * float(accuracy):.2f} % of the validation clips")


def build_trainer(
    out: Path,
    options: TrainOptions,
    clips: int,
    local: int,
    machines: int,
    progress: bool,
    say: Callable[[str], None],
) -> Trainer:
    """Set up Lightning: averaged weights, a checkpoint each epoch, TensorBoard, and no chatter."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    noise = (
        "does not have many workers",
        "is not empty",
        "LeafSpec",
        "logging interval",
        "across ranks is zero",
        "dataloader is not resumable",  # TrainingOrder is
    )
    for what in noise:  # what Lightning warns of and is meant so
        warnings.filterwarnings("ignore", message=f".*{what}.*")
    torch.set_float32_matmul_precision("high")
    steps = max(1, options.epochs * (clips // options.batch))
    decay = 1 - 1 / max(2.0, options.averaging * steps)
    callbacks: list[Callback] = [
        StepSeed(options.seed),
        WeightAveraging(multi_avg_fn=average(decay)),
        OneModel(),
        RichProgressBar(leave=False) if progress else Report(say),
        LastCheckpoint(out / "last.ckpt"),
    ]
    return Trainer(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=local,
        num_nodes=machines,
        plugins=[WholeFiles()],
        max_epochs=options.epochs,
        logger=TensorBoardLogger(out, name="logs", version=""),
        callbacks=callbacks,
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=max(1, options.epochs // 20),
        log_every_n_steps=20,
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
    )


def average(decay: float) -> Callable[[list[Tensor], list[Tensor], Any], None]:
    """Return what moves averaged tensors towards the current ones; `decay` is the share that stays.

    Integers stay as they began: recordings, counts, and numbers that are kept as bits (`audiossm.mixers.lmu`).
    """
    move = get_ema_multi_avg_fn(decay)

    def update(averaged: list[Tensor], current: list[Tensor], steps: Any) -> None:  # all of one type
        if averaged[0].is_floating_point():
            move(averaged, current, steps)

    return update


def layout(devices: str) -> tuple[int, int]:
    """Return the number of devices on this machine and of machines like it: torchrun's, where it has started us."""
    if devices != "auto" and (not devices.isdecimal() or int(devices) < 1):
        raise ValueError(f"devices must be 'auto' or a number from 1, not {devices!r}")
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        if devices not in ("auto", str(local)):
            raise ValueError(f"torchrun has started {local} processes on this machine: leave out --devices {devices}")
        return local, int(os.environ["WORLD_SIZE"]) // local
    return max(1, torch.cuda.device_count()) if devices == "auto" else int(devices), 1


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
        "epochs": options.epochs,
        "steps": trainer.global_step,
        "seconds": round(seconds, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "devices": trainer.world_size,
        "val_accuracy": None if accuracy is None else round(100 * float(accuracy), 2),
        **experts,
        "options": asdict(options),
    }

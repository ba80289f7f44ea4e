"""What every training does around its task: a run folder, Lightning, devices, and going on after a stop."""

import json
import logging
import os
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from audiossm.tasks.checkpoint import write_beside
from audiossm.training.checkpoints import LastCheckpoint, Stopped, WholeFiles, check_checkpoint
from audiossm.training.clock import Clock, ClockBar, length
from audiossm.training.options import Optimisation


def is_first() -> bool:
    """Say whether this is the first of several processes, a device each: that one writes and speaks."""
    return getattr(rank_zero_only, "rank", 0) == 0


def fit(
    trainer: Trainer,
    training: LightningModule,
    batches: LightningDataModule,
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
        steps = f"{trainer.global_step:,} of {'about ' if trainer.max_epochs == -1 else ''}{length(trainer)():,.0f}"
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


def over_devices(value: Tensor) -> Tensor:
    """Return the mean of a value over all devices, to be shown. Lightning's `sync_dist` would wait for them."""
    total = value.detach()
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return total
    total = total.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def silent(line: str) -> None:
    """Say nothing."""


def begin_run(out: Path, config: Any, options: Optimisation, resume: bool, **more: Any) -> None:
    """Write run.json, or raise where a run to resume was begun otherwise.

    Args:
        out: run folder.
        config, options: dataclasses. What came into being since a run was begun had its default then.
        resume: go on.
        more: on what else the weights depend.
    """
    run = {"config": asdict(config), "options": asdict(options)} | more
    text, note = json.dumps(run, indent=2) + "\n", out / "run.json"
    if resume and note.is_file():
        begun = json.loads(note.read_text())
        for name, part in (("config", config), ("options", options)):
            begun[name] = {f.name: f.default for f in fields(part) if f.default is not MISSING} | begun.get(name, {})
        if json.loads(json.dumps(begun)) != json.loads(text):
            raise ValueError(
                f"{out} was begun with other options, labels or teachers: resume with the same ones ({note})"
            )
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


class Average(WeightAveraging):
    """Averages weights and running statistics, whose average is the result; it remembers `averaging` of all steps.

    Lightning's own keeps the average on the CPU, for at its setup the module is still there: a hundred waits and copies
    a step, recordings of noise too. This one is on the device that trains, and no step waits for the one before.
    Integers stay as they began: recordings, counts, and numbers that are kept as bits (`audiossm.mixers.lmu`).
    """

    def __init__(self, averaging: float):
        super().__init__()
        self.averaging = averaging
        self.averages, self.weights = list[Tensor](), list[Tensor]()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the module to where it will be."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find all that is averaged: looking for it takes longer than averaging."""
        assert self._average_model is not None
        self.length = length(trainer)
        self.averages, self.weights = floats(self._average_model.module), floats(pl_module)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Move the average towards the weights; the first are the average."""
        if trainer.global_step > self._latest_update_step:
            share = 1 / max(2.0, self.averaging * self.length()) if self._latest_update_step else 1.0
            torch._foreach_lerp_(self.averages, self.weights, share)
            self._latest_update_step = trainer.global_step


def floats(module: nn.Module) -> list[Tensor]:
    """Return a module's parameters and buffers of floating point."""
    return [tensor for tensor in chain(module.parameters(), module.buffers()) if tensor.is_floating_point()]


class OneModel(Callback):
    """Watches one model on all devices, the one that is saved: each has gathered running statistics of its own."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the first device's, which the averaged weights have brought along."""
        if trainer.world_size > 1:
            for buffer in pl_module.model.buffers():  # type: ignore[union-attr, operator]
                torch.distributed.broadcast(buffer, 0)


class Pace(Callback):
    """Measures what a step takes, everything included but validation and checkpoints."""

    def __init__(self) -> None:
        self.begun, self.before = 0.0, 0  # the time, and the step after which it was
        self.seconds = list[float]()  # of each epoch, a step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock, for a run that goes on inside an epoch."""
        self.begun, self.before = self.now(), trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock once the GPU has nothing left to do."""
        self.begun, self.before = self.now(), trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Look again after the last step of an epoch or of the training, before a validation."""
        if trainer.is_last_batch or trainer.should_stop:
            self.seconds.append((self.now() - self.begun) / (trainer.global_step - self.before))

    def now(self) -> float:
        """Return the time in seconds."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.monotonic()

    def step_ms(self) -> float | None:
        """Return the median over the epochs, in milliseconds; the first, which compiles, counts if it is alone."""
        return round(1000 * median(self.seconds[1:] or self.seconds), 2) if self.seconds else None


class Report(Callback):
    """Says the validation's figure in a line, for logs and for those without a progress bar.

    Args:
        metric: that is watched.
        phrase: writes its value.
    """

    def __init__(self, say: Callable[[str], None], metric: str, phrase: Callable[[float], str]):
        self.say, self.metric, self.phrase = say, metric, phrase

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it once, whatever the number of devices."""
        value = trainer.callback_metrics.get(self.metric)
        if value is not None and trainer.is_global_zero:
            self.say(f"epoch {trainer.current_epoch + 1}: {self.phrase(float(value))}")


def build_trainer(
    out: Path,
    options: Optimisation,
    local: int,
    machines: int,
    report: Report | None,
) -> Trainer:
    """Set up Lightning: averaged weights, a checkpoint each epoch, TensorBoard, and no chatter.

    Args:
        out: run folder.
        options: of the optimisation.
        local, machines: devices on each machine, and machines.
        report: says what validation has found; None: a progress bar shows it.
    """
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
    clock = [] if options.minutes is None else [Clock(options.minutes)]
    callbacks: list[Callback] = [
        *clock,
        StepSeed(options.seed),
        Average(options.averaging),
        OneModel(),
        Pace(),
        report or (ClockBar if clock else RichProgressBar)(leave=False),
        LastCheckpoint(out / "last.ckpt"),
    ]
    return Trainer(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=local,
        num_nodes=machines,
        # Each keeps its own buffers (`OneModel` watches the first's): recordings of noise are among them.
        strategy=DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True) if local * machines > 1 else "auto",
        plugins=[WholeFiles()],
        max_epochs=-1 if clock else options.epochs,
        logger=TensorBoardLogger(out, name="logs", version=""),
        callbacks=callbacks,
        enable_progress_bar=report is None,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=1 if clock else max(1, options.epochs // 20),
        log_every_n_steps=20,
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
    )


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


def sharing(devices: str, batch: int) -> tuple[int, int]:
    """Return `layout`, or raise ValueError where the devices cannot share a batch."""
    local, machines = layout(devices)
    if batch % (local * machines):
        raise ValueError(f"batch {batch} cannot be shared by {local * machines} devices: give a multiple")
    return local, machines


def about_training(trainer: Trainer, options: Optimisation, seconds: float) -> dict[str, Any]:
    """Return what a reader of any model wants to know of its training."""
    passes = round(trainer.global_step / max(1, trainer.num_training_batches), 2)
    return {
        "epochs": options.epochs if options.minutes is None else passes,
        "steps": trainer.global_step,
        "seconds": round(seconds, 1),
        "step_ms": next(c.step_ms() for c in trainer.callbacks if isinstance(c, Pace)),  # type: ignore[attr-defined]
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "devices": trainer.world_size,
        "options": asdict(options),
    }

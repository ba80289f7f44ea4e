"""Train a keyword model on a data folder and leave it in a run folder."""

import json
import logging
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.optim.swa_utils import get_ema_multi_avg_fn

from audiossm.data import ClipArray, find_clips, load_clips, load_recordings
from audiossm.tasks import KeywordConfig, KeywordModel
from audiossm.tasks.checkpoint import load_model, parameter_count, save_model, write_beside
from audiossm.training.extend import extended, load_extension
from audiossm.training.loader import ClipBatches
from audiossm.training.module import KeywordTraining
from audiossm.training.options import CLIP_SECONDS, TrainOptions


def train_keywords(
    data: str | Path,
    out: str | Path,
    config: KeywordConfig,
    options: TrainOptions,
    resume: bool = False,
    devices: str = "auto",
    label_column: str = "label",
    noise: str | Path | None = None,
    speech: str | Path | None = None,
    progress: bool = True,
    say: Callable[[str], None] = print,
    extend: tuple[str | Path, str | Path] | None = None,
) -> KeywordModel:
    """Train on the split "train" of a data folder, watching "val" where there is one.

    Args:
        data: folder in Speech Commands' layout or with a manifest.csv.
        out: run folder; gets model.json, model.safetensors, last.ckpt (to resume from) and TensorBoard logs.
        config: size of the model; its labels are taken from the data.
        options: optimisation and augmentation.
        resume: go on from out/last.ckpt; the result is that of an uninterrupted run.
        devices: "auto" for all GPUs or one CPU process, or a number of devices.
        label_column: the manifest's column that holds the labels.
        noise: folder of noise recordings, to put behind the clips and to learn as `_silence_`.
        speech: folder of recordings of other speech, to learn as `_other_`.
        progress: show a bar.
        say: gets one line for each thing worth telling.
        extend: a run folder whose model to begin with, and the data folder that it was trained on, which is mixed in so
            that nothing is forgotten. Size and rate are then that model's, not config's, and new labels come last.

    Raises:
        FileNotFoundError, ValueError: the data or the run folder is not as it should be, in one line.
    """
    device_count(devices)  # say what is wrong with it before any work
    out = Path(out)
    first = getattr(rank_zero_only, "rank", 0) == 0  # of several processes, a device each, the first one speaks
    say = say if first else silent
    if first:
        check_run_folder(out, resume)
    known = None if extend is None else load_model(extend[0])[0]
    if known is None or extend is None:
        train, val = load_splits(Path(data), config.rate, label_column, say)
    else:
        config = known.config
        train, val = load_extension(Path(data), Path(extend[1]), known, label_column, say)
    recordings = {
        name: load_recordings(folder, config.rate, CLIP_SECONDS)
        for name, folder in {"noise": noise, "speech": speech}.items()
        if folder is not None
    }
    config = replace(config, labels=tuple(train.labels))
    torch.manual_seed(options.seed)
    model = KeywordModel(config) if known is None else extended(known, train.labels)
    begun_as: dict[str, Any] = {"config": asdict(config), "options": asdict(options)}
    if extend is not None:
        begun_as["extends"], begun_as["base"] = map(str, extend)
    if first:
        begin_run(out, begun_as, resume)
    if resume and (out / "model.json").is_file():
        say(f"the training in {out} has finished already")
        return load_model(out)[0]
    say(f"training {parameter_count(model):,} parameters on {len(train)} clips of {len(train.labels)} classes")
    trainer = build_trainer(out, options, len(train), devices, progress, say)
    begun = time.monotonic()
    training = KeywordTraining(model, options, **recordings)
    fit(trainer, training, ClipBatches(train, val, options.batch, options.seed), out, resume, say)
    if trainer.is_global_zero:
        about = summary(trainer, train, options, time.monotonic() - begun)
        save_model(out, model.cpu().eval(), about | ({} if extend is None else {"extends": str(extend[0])}))
    return model


def fit(
    trainer: Trainer,
    training: KeywordTraining,
    batches: ClipBatches,
    out: Path,
    resume: bool,
    say: Callable[[str], None],
) -> None:
    """Let Lightning train. Ctrl-C ends it as KeyboardInterrupt, once it is said how to go on."""
    handler = signal.getsignal(signal.SIGINT)
    checkpoint = str(out / "last.ckpt") if resume else None
    try:
        trainer.fit(training, batches, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C, which it then also ignores
        signal.signal(signal.SIGINT, handler)
        if (out / "last.ckpt").is_file():
            say(f"stopped after epoch {trainer.current_epoch}: the same command with --resume goes on")
        raise KeyboardInterrupt from None


def silent(line: str) -> None:
    """Say nothing."""


def begin_run(out: Path, run: dict[str, Any], resume: bool) -> None:
    """Write run.json, or raise where a run to resume was begun otherwise."""
    text, note = json.dumps(run, indent=2) + "\n", out / "run.json"
    if resume and note.is_file() and note.read_text() != text:
        raise ValueError(f"{out} was begun with other options or labels: resume with the same ones ({note})")
    out.mkdir(parents=True, exist_ok=True)
    write_beside(note, text.encode())


def check_run_folder(out: Path, resume: bool) -> None:
    """Raise where training would overwrite a run, or has none to resume."""
    if resume and not (out / "last.ckpt").is_file():
        raise FileNotFoundError(f"nothing to resume in {out}: it holds no last.ckpt")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: --out names the folder of a run")
    if not resume and any((out / name).exists() for name in ("model.json", "last.ckpt")):
        raise ValueError(f"{out} already holds a run: choose another --out, or go on with --resume")


def load_splits(
    data: Path, rate: int, label_column: str, say: Callable[[str], None]
) -> tuple[ClipArray, ClipArray | None]:
    """Read the training clips and, where the data has them, the validation clips with the same labels."""
    clips = find_clips(data, label_column=label_column)
    splits = {clip.split for clip in clips}
    chosen = [clip for clip in clips if clip.split in ("train", "")]
    if not chosen:
        raise ValueError(f"no training clips in {data}: its splits are {', '.join(sorted(splits))}")
    labels = sorted({clip.label for clip in chosen})
    if len(labels) < 2:
        raise ValueError(f"{data} holds only the class {labels[0]!r}: a keyword model needs at least two")
    train = load_clips(chosen, rate, CLIP_SECONDS, labels)
    held_out = [clip for clip in clips if clip.split == "val"]
    val = load_clips(held_out, rate, CLIP_SECONDS, labels) if held_out else None
    for line in train.report.lines():
        say(line)
    for line in val.report.lines() if val else []:
        say(f"validation: {line}")
    return train, val


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
    out: Path, options: TrainOptions, clips: int, devices: str, progress: bool, say: Callable[[str], None]
) -> Trainer:
    """Set up Lightning: averaged weights, a checkpoint each epoch, TensorBoard, and no chatter."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    noise = ("does not have many workers", "is not empty", "LeafSpec", "logging interval", "across ranks is zero")
    for what in noise:  # what Lightning warns of and is meant so
        warnings.filterwarnings("ignore", message=f".*{what}.*")
    torch.set_float32_matmul_precision("high")
    steps = max(1, options.epochs * (clips // options.batch))
    decay = 1 - 1 / max(2.0, options.averaging * steps)
    callbacks: list[Callback] = [
        WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(decay)),
        ModelCheckpoint(out, filename="last", save_top_k=1, every_n_epochs=1, enable_version_counter=False),
    ]
    callbacks.append(RichProgressBar(leave=False) if progress else Report(say))
    return Trainer(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=device_count(devices),
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


def device_count(devices: str) -> str | int:
    """Return what Lightning takes: "auto" or a number, at least 1."""
    if devices == "auto":
        return devices if torch.cuda.is_available() else 1
    if not devices.isdecimal() or int(devices) < 1:
        raise ValueError(f"devices must be 'auto' or a number from 1, not {devices!r}")
    return int(devices)


def summary(trainer: Trainer, train: ClipArray, options: TrainOptions, seconds: float) -> dict[str, Any]:
    """Return what a reader of the model wants to know of its training."""
    accuracy = trainer.callback_metrics.get("val_accuracy")
    return {
        "clips": len(train),
        "epochs": options.epochs,
        "steps": trainer.global_step,
        "seconds": round(seconds, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "devices": trainer.world_size,
        "val_accuracy": None if accuracy is None else round(100 * float(accuracy), 2),
        "options": asdict(options),
    }

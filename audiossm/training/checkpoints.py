"""last.ckpt: where a run can go on. Written whole after every epoch, and at once when the process is told to stop."""

import io
import pickle
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from audiossm.tasks.checkpoint import write_beside

FORMAT = 1
AGAIN = 1.0  # seconds after which a second Ctrl-C is meant: a terminal and a launcher may both pass on the first


class Stopped(Exception):
    """Training has stopped between two steps because a signal asked for it; `signal` is its number."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.signal = number


class LastCheckpoint(Checkpoint):
    """Saves a checkpoint after every epoch, and after the step in which SIGINT or SIGTERM came; then raises Stopped.

    All processes of a run stop after the same step, whichever of them was told to, and with several devices one step
    later. A signal in a validation waits for its end; a second Ctrl-C waits for nothing.
    """

    def __init__(self, path: Path):
        self.path = path
        self.told, self.when = 0, 0.0  # the signal's number, its time in seconds
        self.processes: Any = None  # those of the run, where there are several
        self.asked: tuple[torch.distributed.Work, Tensor] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals in Lightning's place, which puts the handlers back that it found."""
        if trainer.world_size > 1:
            self.processes = torch.distributed.new_group(backend="gloo")  # between CPUs: their GPUs are busy
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self.note)

    def note(self, number: int, frame: Any) -> None:
        """Remember a signal until the step is done."""
        if self.told and number == signal.SIGINT and time.monotonic() - self.when > AGAIN:
            raise KeyboardInterrupt
        self.told, self.when = self.told or number, time.monotonic()

    def stopping(self) -> bool:
        """Return whether any process was told to stop; of several, before the last time that they were asked.

        Their answer is read at the next question: whoever waited for it at every step would leave the GPUs idle.
        """
        if self.processes is None:
            return bool(self.told)
        before, told = self.asked, torch.tensor(int(bool(self.told)))
        most = torch.distributed.ReduceOp.MAX
        self.asked = torch.distributed.all_reduce(told, most, self.processes, async_op=True), told
        if before is None:
            return False
        before[0].wait()
        return bool(before[1])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop inside an epoch. What belongs to its end, or to that of the training, is done first."""
        if not (trainer.is_last_batch or trainer.should_stop) and self.stopping():
            trainer.save_checkpoint(self.path)
            raise Stopped(self.told or signal.SIGTERM)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        trainer.save_checkpoint(self.path)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs."""
        if self.stopping():
            raise Stopped(self.told or signal.SIGTERM)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Mark it as ours."""
        checkpoint["audiossm"] = FORMAT


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint so that the earlier one stays until the new one is whole, on whatever disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write it beside its place, then rename it."""
        data = io.BytesIO()
        torch.save(checkpoint, data)
        write_beside(Path(path), data.getvalue())


def check_checkpoint(path: Path) -> None:
    """Raise FileNotFoundError or ValueError, in one line, where a run cannot go on from this file."""
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume in {path.parent}: it holds no {path.name}")
    fresh = "begin again with another --out"
    try:
        written = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("audiossm", 0)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError):
        raise ValueError(f"{path} is damaged or not a checkpoint: {fresh}") from None
    if written == 0:
        raise ValueError(f"{path} is not a checkpoint of this audiossm: {fresh}")
    if written > FORMAT:
        raise ValueError(f"{path} is of format {written}; this audiossm reads up to {FORMAT}: resume with a newer one")

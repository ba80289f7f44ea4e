"""The generation task as Lightning sees it: bits a sample, and a state that may be carried from window to window."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics.aggregation import MeanMetric

from audiossm.mixers.base import State
from audiossm.tasks import GenerationModel
from audiossm.training.graphed import record
from audiossm.training.optimiser import optimiser
from audiossm.training.options import GenerateOptions
from audiossm.training.window_loader import batch_of

Batch = tuple[Tensor, Tensor, Tensor, Tensor]  # audio, heard, label, fresh: see `audiossm.data.windows.Windows`


class GenerationTraining(LightningModule):
    """Trains a GenerationModel on windows of recordings."""

    def __init__(self, model: GenerationModel, options: GenerateOptions):
        super().__init__()
        self.model, self.options = model, options
        self.mean = MeanMetric()
        self.carried: State | None = None
        self.graph: Callable[[Tensor], Tensor] | None = None

    def on_train_start(self) -> None:
        """On one GPU, record the step of windows that are all fresh."""
        if self.carried is not None:
            self.carried = {
                name: value.to(self.device) if value.is_floating_point() else value
                for name, value in self.carried.items()
            }
        if self.device.type != "cuda" or self.trainer.world_size > 1 or self.options.carry:
            return
        windows = self.trainer.datamodule.windows  # type: ignore[attr-defined]
        batch = batch_of(len(windows), self.options, devices=1)
        sample = torch.zeros(batch, windows.size + 1, dtype=torch.int64, device=self.device)
        self.graph = record(self.model, self.of_fresh, [((), sample)])[()]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean of a batch in bits a sample."""
        audio, heard, label, fresh = batch
        codes = self.model.coding.encode(audio)
        if self.options.carry:
            bits, state = self.bits(codes, label, fresh, emptied(self.carried, fresh))
            self.carried = {name: value.detach() for name, value in state.items()}
        else:
            bits = (self.graph or self.of_fresh)(torch.cat((label.unsqueeze(1), codes[:, 1:]), dim=1))
        loss = mean_heard(bits, heard)
        self.log("train_bits", loss, prog_bar=True)
        return loss

    def bits(self, codes: Tensor, label: Tensor, fresh: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the bits of each code of windows but the first, (B, size), and the state after them.

        codes: (B, size + 1), the one before the window first; START stands for it where the window is fresh (B,).
        """
        before = torch.cat((codes[:, :1].masked_fill(fresh.unsqueeze(1), self.model.start), codes[:, 1:-1]), dim=1)
        outputs, state = self.model(before, state, label=label)
        return self.model.bits(outputs, codes[:, 1:]), state

    def of_fresh(self, labelled: Tensor) -> Tensor:
        """Return the bits of fresh windows in one tensor (B, size + 1), which a recorded step takes: label, codes."""
        label = labelled[:, 0]
        return self.bits(labelled, label, torch.ones_like(label, dtype=torch.bool))[0]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the carried state: a run resumed within an epoch goes on with it."""
        checkpoint["carried"] = self.carried

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the carried state up again."""
        self.carried = checkpoint["carried"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Gather the bits of what was heard."""
        audio, heard, label, fresh = batch
        bits, _ = self.bits(self.model.coding.encode(audio), label, fresh)
        self.mean.update(mean_heard(bits, heard), weight=heard.sum())
        self.log("val_bits", self.mean, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW, with a learning rate that rises and falls."""
        steps = int(self.trainer.estimated_stepping_batches)
        return optimiser(self.model, self.options, steps, fused=self.device.type == "cuda")


def mean_heard(bits: Tensor, heard: Tensor) -> Tensor:
    """Return the mean of bits (B, L) over the first heard (B,) samples of each row."""
    inside = torch.arange(bits.shape[1], device=bits.device) < heard.unsqueeze(1)
    return (bits * inside).sum() / inside.sum()


def emptied(state: State | None, fresh: Tensor) -> State | None:
    """Return a state with the rows of fresh windows (B,) empty, which zeros are; phases, which all share, stay."""
    if state is None:
        return None

    def kept(value: Tensor) -> Tensor:
        rows = fresh.view(-1, *(1 for _ in value.shape[1:]))
        return value.masked_fill(rows, 0) if value.is_floating_point() else value

    return {name: kept(value) for name, value in state.items()}

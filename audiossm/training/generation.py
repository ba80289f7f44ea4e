"""The generation task as Lightning sees it: bits a sample, and a state that may be carried from window to window."""

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics.aggregation import MeanMetric

from audiossm.backbones.moe import routing, routing_loss
from audiossm.data import augment
from audiossm.mixers.base import State
from audiossm.tasks import GenerationConfig, GenerationModel
from audiossm.training.clock import length
from audiossm.training.graphed import record
from audiossm.training.loader import batch_of
from audiossm.training.optimiser import optimiser
from audiossm.training.options import GenerateOptions
from audiossm.training.run import over_devices

Batch = tuple[Tensor, Tensor, Tensor, Tensor]  # audio, heard, label, fresh: see `audiossm.data.windows.Windows`


class GenerationTraining(LightningModule):
    """Trains a GenerationModel on windows of recordings.

    Attributes:
        samples: of a window, as it is heard.
        carried: the state's floats after the last window, where they are carried to the next. Its phases are left out:
            a window is a whole number of periods, at whose end they are 0.
    """

    def __init__(self, model: GenerationModel, options: GenerateOptions):
        super().__init__()
        self.model, self.options = model, options
        assert model.config.rate is not None, "that of the recordings"
        self.samples = window_samples(model.config, model.config.rate, options)
        self.mean = MeanMetric()
        self.carried: list[Tensor] = []
        self.graphs: dict[tuple, Callable[..., tuple[Tensor, ...]]] = {}  # not modules of this one: it would save them

    def on_train_start(self) -> None:
        """Begin with an empty state, unless a checkpoint has brought another; on GPUs, record a step.

        Several GPUs each record their own. What a replay gives back passes through the hooks that add gradients up.
        """
        windows, o = self.trainer.datamodule.windows, self.options  # type: ignore[attr-defined]
        batch = batch_of(len(windows), o.batch, self.trainer.world_size) // self.trainer.world_size
        if o.carry and not (self.carried and len(self.carried[0]) == batch):
            self.carried = floats(self.model.initial_state(batch))
        self.carried = [value.to(self.device) for value in self.carried]
        if self.device.type == "cuda":
            codes = torch.zeros(batch, self.samples + 1, dtype=torch.int64, device=self.device)
            self.graphs = record(self.model, self.hear, [((), (codes, codes[:, 0].clone(), *self.carried))])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean of a batch in bits a sample, and what the experts' routers add to it."""
        batch = self.varied(batch)
        _, heard, label, fresh = batch
        carried = [value.masked_fill(fresh.view(-1, *(1 for _ in value.shape[1:])), 0) for value in self.carried]
        bits, routed, *carried = self.graphs.get((), self.hear)(self.codes(batch), label, *carried)
        self.carried = carried
        loss = mean_heard(bits, heard)
        self.log("train_bits", over_devices(loss), prog_bar=True)
        return loss + routing_loss(routed) if len(routed) else loss

    def varied(self, batch: Batch) -> Batch:
        """Return windows faster or slower than they are read, all by one factor, and softer, each by its own."""
        (audio, heard, label, fresh), o = batch, self.options
        if not (o.speed or o.softer):
            return batch
        factor, changed = augment.some_speed(o.speed), audio / 32768.0
        if factor != 1:
            changed, heard = augment.faster(changed, factor), (heard / factor).long()
        changed = (32768 * augment.gain(changed[:, : self.samples + 1], -o.softer, 0)).round().clamp(-32768, 32767)
        return changed.to(torch.int16), heard.clamp(max=self.samples), label, fresh

    def codes(self, batch: Batch) -> Tensor:
        """Return the codes of windows and of the sample before each, (B, size + 1); START before fresh ones."""
        audio, _, _, fresh = batch
        codes = self.model.coding.encode(audio)
        return torch.cat((codes[:, :1].masked_fill(fresh.unsqueeze(1), self.model.start), codes[:, 1:]), dim=1)

    def hear(self, codes: Tensor, label: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
        """Return the bits of codes (B, size + 1), of all but the first, what routers say, and the state's floats."""
        outputs, state = self.model(codes[:, :-1], self.state(carried), label=label)
        after = [value.detach() for value in floats(state)] if carried else []
        return self.model.bits(outputs, codes[:, 1:]), routing(self.model), *after

    def state(self, carried: tuple[Tensor, ...]) -> State | None:
        """Return the state that has these floats, None where there are none."""
        if not carried:
            return None
        state, values = self.model.initial_state(len(carried[0])), iter(carried)
        return {name: next(values) if value.is_floating_point() else value for name, value in state.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the carried state: a run resumed within an epoch goes on with it."""
        checkpoint["carried"] = self.carried

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the carried state up again."""
        self.carried = checkpoint["carried"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Gather the bits of what was heard."""
        _, heard, label, _ = batch
        bits = self.hear(self.codes(batch), label)[0]
        self.mean.update(mean_heard(bits, heard), weight=heard.sum())
        self.log("val_bits", self.mean, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW, with a learning rate that rises and falls."""
        return optimiser(self.model, self.options, length(self.trainer), fused=self.device.type == "cuda")


def window_samples(config: GenerationConfig, rate: int, options: GenerateOptions) -> int:
    """Return the samples that a step hears: whole steps of the slowest pool."""
    pooled = math.prod(config.pools)
    return max(1, int(options.window * rate) // pooled) * pooled


def floats(state: State) -> list[Tensor]:
    """Return what a state holds but the phases, which are integers."""
    return [value for value in state.values() if value.is_floating_point()]


def mean_heard(bits: Tensor, heard: Tensor) -> Tensor:
    """Return the mean of bits (B, L) over the first heard (B,) samples of each row."""
    inside = torch.arange(bits.shape[1], device=bits.device) < heard.unsqueeze(1)
    return (bits * inside).sum() / inside.sum()

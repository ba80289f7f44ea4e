"""The enhancement task as Lightning sees it: scenes, loss, metrics, and audio to listen to."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics.aggregation import MeanMetric

from audiossm.data import augment
from audiossm.tasks import EnhancementModel
from audiossm.training.clock import length
from audiossm.training.enhancement_loss import Distance, distance, si_sdr
from audiossm.training.graphed import record
from audiossm.training.loader import batch_of
from audiossm.training.optimiser import optimiser
from audiossm.training.options import EnhanceOptions
from audiossm.training.run import over_devices
from audiossm.training.scenes import Scene, Scenes

LEVEL, QUIET = 0.05, 1e-3  # RMS at which windows are compared; what is softer is no louder than such
LISTENED = 3  # validation windows that TensorBoard plays


class EnhancementTraining(LightningModule):
    """Trains an EnhancementModel on windows of clean speech in scenes, or of recorded pairs.

    Args:
        model: to train.
        scenes, held_out: what mixes the training windows, and those of validation.
        options: of the optimisation.
    """

    def __init__(self, model: EnhancementModel, scenes: Scenes, held_out: Scenes, options: EnhanceOptions):
        super().__init__()
        self.model, self.scenes, self.held_out, self.options = model, scenes, held_out, options
        self.samples = window_samples(model, options)
        self.enhanced, self.gained = MeanMetric(), MeanMetric()
        self.graphs: dict[tuple, Callable[..., Tensor]] = {}  # not modules of this one: it would save them

    def on_train_start(self) -> None:
        """On GPUs, record a step."""
        windows, world = self.trainer.datamodule.windows, self.trainer.world_size  # type: ignore[attr-defined]
        if self.device.type == "cuda":
            rows = batch_of(len(windows), self.options.batch, world) // world
            audio = torch.zeros(rows, self.samples, device=self.device)
            self.graphs = record(self.model, self.hear, [((), (audio, audio.clone()))])

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return the loss of a batch of windows."""
        scene = self.scene(batch, self.scenes, augment.some_speed(self.options.speed))
        found = Distance(*self.graphs.get((), self.hear)(*scene).mean(1))
        o = self.options
        loss = o.magnitude_weight * found.magnitude + o.complex_weight * found.spectrum - 0.1 * o.sdr_weight * found.sdr
        shown = over_devices(torch.stack((loss, found.sdr)))
        self.log_dict({"train_loss": shown[0], "train_si_sdr": shown[1]}, prog_bar=True)
        return loss

    def scene(self, batch: tuple[Tensor, ...], scenes: Scenes, speed: float = 1.0) -> Scene:
        """Return what windows make, (B, samples): of speech mixed, of pairs as they were recorded."""
        audio = torch.stack([batch[0], *batch[4:]])[..., 1:] / 32768.0  # the sample before a window is not heard
        if speed != 1:
            audio = augment.faster(audio.flatten(0, 1), speed).unflatten(0, audio.shape[:2])
        speech, *noisy = audio[..., : self.samples]
        return scenes.by_microphone(noisy[0], speech) if noisy else scenes(speech)

    def hear(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """Return the distances (3, B) of what the model makes of noisy windows (B, samples) from clean ones.

        All at the level at which the noisy ones were equally loud: soft windows are learnt from as loud ones are.
        """
        estimate, due = self.enhance(noisy, clean)
        scale = LEVEL / augment.level(noisy).clamp(min=QUIET)
        return torch.stack(distance(scale * estimate, scale * due))

    def enhance(self, noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return the model's output for noisy windows (B, samples), and the part of clean ones that it is about."""
        y, _ = self.model(noisy.unsqueeze(-1))
        delay = self.model.delay
        return y[:, delay:, 0], clean[:, : y.shape[1] - delay]

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Hear the same scenes at every validation."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(batch_idx * self.trainer.world_size + self.trainer.global_rank)
            scene = self.scene(batch, self.held_out)
        estimate, due = self.enhance(*scene)
        before = si_sdr(scene.noisy[:, : due.shape[1]], due)
        after, heard = si_sdr(estimate, due), due.square().mean(1) > 1e-7
        self.enhanced.update(after[heard])
        self.gained.update((after - before)[heard])
        self.log("val_si_sdr", self.enhanced, prog_bar=True)
        self.log("val_gain", self.gained)
        if batch_idx == 0 and self.trainer.is_global_zero and self.logger is not None:
            self.play(scene.noisy, estimate, due)

    def play(self, *sounds: Tensor) -> None:
        """Let TensorBoard play the first windows."""
        for name, audio in zip(("noisy", "enhanced", "clean"), sounds, strict=True):
            for row in range(min(LISTENED, len(audio))):
                self.logger.experiment.add_audio(  # type: ignore[union-attr]
                    f"{row}/{name}", audio[row].clamp(-1, 1).cpu(), self.global_step, self.model.config.rate
                )

    def configure_optimizers(self) -> Any:
        """AdamW, with a learning rate that rises and falls."""
        return optimiser(self.model, self.options, length(self.trainer), fused=self.device.type == "cuda")


def window_samples(model: EnhancementModel, options: EnhanceOptions) -> int:
    """Return the samples that a step hears: whole frames."""
    return max(2, int(options.window * model.config.rate) // model.frame) * model.frame

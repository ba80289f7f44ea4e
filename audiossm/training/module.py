"""The keyword task as Lightning sees it: augmentation, loss, metrics and the optimiser."""

import math
from collections.abc import Callable

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from audiossm.data import augment
from audiossm.data.augment import some
from audiossm.data.folder import OTHER, SILENCE
from audiossm.mixers.filterbank import TICKS_PER_SECOND
from audiossm.tasks import KeywordModel
from audiossm.training.graphed import record
from audiossm.training.options import CLIP_SECONDS, TrainOptions
from audiossm.training.teacher import Teachers

RATE_STEP = 2 * TICKS_PER_SECOND  # Hz between the rates heard in training: each has ticks that begin on samples
LOWEST_CUT = 0.55  # band limiting keeps at least this share of the channels: about 2.5 kHz with the default filterbank


class KeywordTraining(LightningModule):
    """Trains a KeywordModel on batches of (audio (B, n) int16, targets (B,) int64)."""

    noise: Tensor
    speech: Tensor

    def __init__(
        self,
        model: KeywordModel,
        options: TrainOptions,
        noise: np.ndarray | None = None,
        speech: np.ndarray | None = None,
        teachers: Teachers | None = None,
    ):
        """Take recordings of noise and of other speech, int16 (n,) at the model's rate, longer than a clip."""
        super().__init__()
        for name, recordings in {"noise": noise, "speech": speech}.items():
            recordings = np.zeros(0, np.int16) if recordings is None else recordings
            self.register_buffer(name, torch.from_numpy(recordings), persistent=False)
        self.model, self.options, self.teachers = model, options, teachers
        self.accuracy = MulticlassAccuracy(len(model.config.labels), average="micro")
        self.rates = augment.rates_around(model.config.rate, options.rate_jitter, RATE_STEP)
        self.graphs: dict[tuple, Callable[[Tensor], Tensor]] = {}
        self.taught_graphs: dict[tuple, Callable[[Tensor], Tensor]] = {}

    def on_train_start(self) -> None:
        """On one GPU, record each shape that a step can have."""
        o, config = self.options, self.model.config
        if self.teachers is not None:
            self.teachers.models.to(self.device)
        if self.device.type != "cuda" or self.trainer.world_size > 1 or o.batch % 2:
            return
        clip = torch.zeros(o.batch, round(CLIP_SECONDS * config.rate), device=self.device)
        shapes = [(rate, chained) for rate in self.rates for chained in (False, True)]
        variants = [((rate, c), clip.reshape(o.batch // (1 + c), -1)) for rate, c in shapes]
        self.graphs = record(self.model, self.hear, variants)
        if self.teachers is not None:
            self.taught_graphs = record(self.teachers.models, self.taught, variants)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch, heard through a random room, microphone and mouth."""
        o, (audio, target) = self.options, batch
        rate = self.model.config.rate
        audio = augment.shift(audio / 32768.0, round(o.shift * rate))
        audio, target = self.background_only(audio, target)
        audio, partner, share = augment.mixup(audio, o.mixup)
        audio = some(audio, o.noise_share, lambda a: augment.coloured_noise(a, *o.noise_snr))
        if len(self.noise):
            audio = some(audio, o.background_share, lambda a: augment.background(a, self.noise, *o.background_snr))
        audio = some(audio, o.room_share, lambda a: augment.reverberate(a, rate, *o.room_decay))
        audio = some(audio, o.clip_share, lambda a: augment.clip(a, 0.2))
        audio = augment.gain(audio, *o.gain_db)
        chained = len(audio) % 2 == 0 and bool(torch.rand(()) < o.chain_share)
        if chained:
            audio = audio.reshape(len(audio) // 2, -1)
        key = (self.rates[int(torch.randint(len(self.rates), ()))], chained)
        logits = self.graphs[key](audio) if key in self.graphs else self.hear(audio, *key)
        loss = share * self.loss(logits, target) + (1 - share) * self.loss(logits, target[partner])
        if self.teachers is not None:
            taught = self.taught_graphs[key](audio) if key in self.taught_graphs else self.taught(audio, *key)
            loss = (1 - o.teacher_weight) * loss + o.teacher_weight * self.teachers.loss(logits, taught)
        self.log("train_loss", loss.mean(), prog_bar=True)
        return loss.mean()

    def background_only(self, audio: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Put pieces of recordings in the place of some clips, as the background class that they belong to."""
        o, labels = self.options, self.model.config.labels
        for label, recordings, share in (
            (SILENCE, self.noise, o.noise_only_share),
            (OTHER, self.speech, o.speech_only_share),
        ):
            if label in labels and len(recordings):
                chosen = torch.rand(len(audio), device=audio.device) < share
                heard = augment.gain(augment.pieces(recordings, *audio.shape), -20.0, 6.0)
                audio = torch.where(chosen[:, None], heard, audio)
                target = target.masked_fill(chosen, labels.index(label))
        return audio, target

    def hear(self, audio: Tensor, rate: int, chained: bool) -> Tensor:
        """Return the logits (clips, classes) at each clip's end; `audio` (B, n) has a clip a row, or two if chained."""
        o = self.options
        features, _ = self.model.encoder(audio.unsqueeze(-1), rate=rate)
        lowest = int(LOWEST_CUT * features.shape[2])
        features = augment.band_limit(features, lowest, 0.0, o.band_share)
        features = augment.mask(features, 1, o.time_mask, 2)
        features = augment.mask(features, 2, o.channel_mask, 2)
        logits, _ = self.model.classify(features)
        return at_ends(logits, chained)

    def taught(self, audio: Tensor, rate: int, chained: bool) -> Tensor:
        """Return the teachers' posteriors (clips, classes) at each clip's end, of audio as in `hear`."""
        assert self.teachers is not None
        return at_ends(self.teachers.posteriors(audio, rate), chained)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return each clip's cross-entropy (B,) with smoothed labels."""
        return F.cross_entropy(logits, target, label_smoothing=self.options.label_smoothing, reduction="none")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count the clips recognised at the native rate."""
        audio, target = batch
        logits, _ = self.model((audio / 32768.0).unsqueeze(-1))
        self.accuracy(logits[:, -1], target)
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self):
        """AdamW in three groups: SSM parameters, those without decay (biases, norms, D), and matrices."""
        o = self.options
        groups: dict[tuple[float, float], list] = {}
        for parameter in self.model.parameters():
            lr = getattr(parameter, "ssm_lr", None)
            decay = o.weight_decay if lr is None and parameter.ndim == 2 else 0.0
            groups.setdefault((o.lr_factor * (lr or o.lr), decay), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": p, "lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()],
            fused=self.device.type == "cuda",
        )
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = max(1, round(o.warmup * steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def at_ends(steps: Tensor, chained: bool) -> Tensor:
    """Return what a model says (clips, classes) at each clip's end, of steps (B, T, classes) with one or two a row."""
    if not chained:
        return steps[:, -1]
    return torch.stack((steps[:, steps.shape[1] // 2 - 1], steps[:, -1]), dim=1).flatten(0, 1)

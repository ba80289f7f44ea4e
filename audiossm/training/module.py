"""The keyword task as Lightning sees it: augmentation, loss, metrics and the optimiser."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from audiossm.backbones import routers, routing, routing_loss
from audiossm.data import augment
from audiossm.data.augment import some
from audiossm.data.folder import OTHER, SILENCE
from audiossm.mixers.filterbank import TICKS_PER_SECOND
from audiossm.tasks import KeywordModel
from audiossm.tasks.keywords import STEPS_PER_SECOND
from audiossm.training.clock import length
from audiossm.training.continuous import (
    BACKGROUND,
    add_beds,
    due,
    lay_out,
    row_samples,
    spoken_level,
    stream_loss,
    words_in,
)
from audiossm.training.graphed import record
from audiossm.training.optimiser import optimiser
from audiossm.training.options import CLIP_SECONDS, TrainOptions
from audiossm.training.run import over_devices
from audiossm.training.teacher import Teachers

RATE_STEP = 2 * TICKS_PER_SECOND  # Hz between the rates heard in training: each has ticks that begin on samples
CLIPS, ROWS = "clips", "rows"  # how a step hears its clips
LOWEST_CUT = 0.55  # band limiting keeps at least this share of the channels: about 2.5 kHz with the default filterbank


class Answer(NamedTuple):
    """What the model and its teachers make of a sound.

    logits: see `KeywordTraining.hear`. routing: what the experts' routers say, (R, 3), see `audiossm.backbones`.
    taught: the teachers' posteriors where there are logits, or None. rate: in Hz, at which it was heard.
    """

    logits: Tensor
    routing: Tensor
    taught: Tensor | None
    rate: int


class KeywordTraining(LightningModule):
    """Trains a KeywordModel on batches of (audio (B, n) int16, targets (B,) int64, spans (B, 2) int64).

    A step hears its clips one by one and judges the model at their ends, or as streams and judges it all the time.
    spans: the samples between which a clip's word is audible.
    """

    noise: Tensor
    speech: Tensor
    words: Tensor

    def __init__(
        self,
        model: KeywordModel,
        options: TrainOptions,
        noise: np.ndarray | None = None,
        speech: np.ndarray | None = None,
        teachers: Teachers | None = None,
    ):
        """Take recordings of noise and of other speech, int16 (n,) at the model's rate."""
        super().__init__()
        for name, recordings in {"noise": noise, "speech": speech}.items():
            recordings = np.zeros(0, np.int16) if recordings is None else recordings
            self.register_buffer(name, torch.from_numpy(recordings), persistent=False)
        words = torch.tensor([not label.startswith("_") for label in model.config.labels])
        self.register_buffer("words", words, persistent=False)
        self.model, self.options, self.teachers = model, options, teachers
        self.accuracy = MulticlassAccuracy(len(model.config.labels), average="micro")
        self.rates = augment.rates_around(model.config.rate, options.rate_jitter, RATE_STEP)
        self.graphs: dict[tuple, Callable[..., Any]] = {}
        self.taught_graphs: dict[tuple, Callable[[Tensor], Tensor]] = {}
        for router in routers(model):
            router.capacity = options.capacity

    def on_train_start(self) -> None:
        """On one GPU, record each shape that a step can have."""
        o, config = self.options, self.model.config
        if self.teachers is not None:
            self.teachers.models.to(self.device)
        if self.device.type != "cuda" or self.trainer.world_size > 1:
            return
        samples = round(CLIP_SECONDS * config.rate)
        clips = torch.zeros(o.batch, samples, device=self.device)
        rows = clips.new_zeros(o.batch // words_in(o.batch), row_samples(o.batch, samples, o.stream_pause))
        heard = {CLIPS: (clips, 1 - o.stream_share), ROWS: (rows, o.stream_share)}
        sounds = [(how, sound) for how, (sound, share) in heard.items() if share > 0]
        variants = [((rate, how), (sound,)) for rate in self.rates for how, sound in sounds]
        self.graphs = record(self.model, self.hear, variants)
        if self.teachers is not None:
            self.taught_graphs = record(self.teachers.models, self.taught, variants)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch, heard through a random room, microphone and mouth."""
        audio, target, spans = batch
        audio, target = self.background_only(audio / 32768.0, target)
        if torch.rand(()) < self.options.stream_share:
            loss = self.of_streams(audio, target, spans)
        else:
            loss = self.of_clips(audio, target)
        self.log("train_loss", over_devices(loss), prog_bar=True)
        return loss

    def of_clips(self, audio: Tensor, target: Tensor) -> Tensor:
        """Return the loss at the ends of clips (B, n)."""
        o = self.options
        audio = augment.shift(audio, round(o.shift * self.model.config.rate))
        audio, partner, share = augment.mixup(audio, o.mixup)
        if len(self.noise):
            audio = some(audio, o.background_share, lambda a: augment.background(a, self.noise, *o.background_snr))
        answer = self.answer(self.carry(audio), CLIPS)
        loss = share * self.loss(answer.logits, target) + (1 - share) * self.loss(answer.logits, target[partner])
        return self.complete(loss.mean(), answer)

    def of_streams(self, audio: Tensor, target: Tensor, spans: Tensor) -> Tensor:
        """Return the loss at each step of streams of clips (B, n), some of them beds alone."""
        o = self.options
        level = spoken_level(audio, spans)
        target = target.masked_fill(~self.words[target], BACKGROUND)
        rows = lay_out(augment.gain(audio, *o.stream_gain_db), spans, target, o.stream_pause)
        level = level.reshape(len(rows.audio), -1).median(1, keepdim=True).values
        empty = torch.rand_like(level) < o.stream_empty_share
        words, said = rows.audio.masked_fill(empty, 0), rows.target.masked_fill(empty, BACKGROUND)
        rows = replace(rows, audio=words, target=said)
        kinds = [recordings for recordings in (self.noise, self.speech) if len(recordings)]
        audio = rows.audio
        if kinds:
            bedded = empty | (torch.rand_like(level) < o.stream_bed_share)
            audio = torch.where(bedded, add_beds(rows, kinds, level, *o.stream_snr), audio)
        answer = self.answer(self.carry(audio), ROWS)
        wanted = due(rows, answer.logits.shape[1], answer.rate / STEPS_PER_SECOND, answer.rate)
        return self.complete(stream_loss(answer.logits, wanted, self.words), answer)

    def carry(self, audio: Tensor) -> Tensor:
        """Bring sound (R, n) to the model: hiss, a room, a microphone that clips, and its level."""
        o = self.options
        audio = some(audio, o.noise_share, lambda a: augment.coloured_noise(a, *o.noise_snr))
        audio = some(audio, o.room_share, lambda a: augment.reverberate(a, self.model.config.rate, *o.room_decay))
        audio = some(audio, o.clip_share, lambda a: augment.clip(a, 0.2))
        return augment.gain(audio, *o.gain_db)

    def answer(self, audio: Tensor, how: str) -> Answer:
        """Let the model and its teachers hear sound (R, n) at a random rate."""
        key, taught = (self.rates[int(torch.randint(len(self.rates), ()))], how), None
        logits, rows = self.graphs[key](audio) if key in self.graphs else self.hear(audio, *key)
        if self.teachers is not None:
            taught = self.taught_graphs[key](audio) if key in self.taught_graphs else self.taught(audio, *key)
        return Answer(logits, rows, taught, key[0])

    def complete(self, loss: Tensor, answer: Answer) -> Tensor:
        """Give the teachers and the experts' routers, where there are any, their share of the loss."""
        o = self.options
        if self.teachers is not None and answer.taught is not None:
            taught = self.teachers.loss(answer.logits, answer.taught).mean()
            loss = (1 - o.teacher_weight) * loss + o.teacher_weight * taught
        if len(answer.routing):
            balance, _, dropped = answer.routing.detach().mean(0)
            several = self.trainer.world_size > 1
            shown = {"experts_balance": balance, "experts_dropped": dropped}
            self.log_dict(shown, prog_bar=True, on_step=False, on_epoch=True, sync_dist=several)
            loss = loss + routing_loss(answer.routing, o.routing_balance, o.routing_z)
        return loss

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

    def hear(self, audio: Tensor, rate: int, how: str) -> tuple[Tensor, Tensor]:
        """Return logits and what the routers say (`routing`) for sound (R, n).

        Logits are those at the ends of CLIPS (R, classes), or at all steps of ROWS (R, T, classes).
        """
        o = self.options
        features, _ = self.model.encoder(audio.unsqueeze(-1), rate=rate)
        features = augment.move_channels(features, o.channel_move * features.shape[2])
        if how == CLIPS:  # in rows it would move what is due
            features = augment.stretch(features, o.time_stretch)
        lowest = int(LOWEST_CUT * features.shape[2])
        features = augment.band_limit(features, lowest, 0.0, o.band_share)
        features = augment.mask(features, 1, o.time_mask, 2)
        features = augment.mask(features, 2, o.channel_mask, 2)
        logits, _ = self.model.classify(features)
        return logits[:, -1] if how == CLIPS else logits, routing(self.model)

    def taught(self, audio: Tensor, rate: int, how: str) -> Tensor:
        """Return the teachers' posteriors where `hear` gives logits."""
        assert self.teachers is not None
        posteriors = self.teachers.posteriors(audio, rate)
        return posteriors[:, -1] if how == CLIPS else posteriors

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return each clip's cross-entropy (B,) with smoothed labels."""
        return F.cross_entropy(logits, target, label_smoothing=self.options.label_smoothing, reduction="none")

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Count the clips recognised at the native rate."""
        audio, target = batch[:2]
        logits, _ = self.model((audio / 32768.0).unsqueeze(-1))
        self.accuracy(logits[:, -1], target)
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW, with a learning rate that rises and falls."""
        return optimiser(self.model, self.options, length(self.trainer), fused=self.device.type == "cuda")

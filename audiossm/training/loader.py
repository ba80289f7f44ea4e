"""Batches of clips, in an order that depends on the seed and the epoch alone, over any number of devices."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from audiossm.data import ClipArray
from audiossm.data.streams import audible
from audiossm.training.options import TrainOptions

VAL_BATCH = 256


class ClipDataset(Dataset):
    """Clips in memory; a whole batch is cut out at once: (audio (B, n) int16, targets (B,), spans (B, 2) int64).

    spans: the samples between which a clip's word is audible.
    """

    def __init__(self, clips: ClipArray):
        self.audio, self.targets = torch.from_numpy(clips.audio), torch.from_numpy(clips.targets)
        self.spans = torch.tensor([audible(clip, clips.rate) for clip in clips.audio])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.audio[rows], self.targets[rows], self.spans[rows]


class SharedOrder(Sampler):
    """One device's share of each training batch: every `devices`-th row of it (share, ...).

    Batch b of an epoch holds the same over any number of devices, so that a run can go on with another number. What
    does not fill a batch is left out; `begin` says how many batches of the epoch are done already. A subclass says in
    `rows` what an epoch's rows are, in their order.

    Args:
        count: rows of an epoch.
        batch: rows of a batch, over all devices; where there are not as many, all that can be shared out.
    """

    def __init__(
        self, count: int, batch: int, devices: int, rank: int, seed: int, begin: Callable[[], int] = lambda: 0
    ):
        self.count, self.seed, self.devices, self.rank, self.begin = count, seed, devices, rank, begin
        self.batch = batch_of(count, batch, devices)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw anew: Lightning calls it before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.batch

    def __iter__(self) -> Iterator[Tensor]:
        rows = self.rows(torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch))
        for i in range(self.begin(), len(self)):
            yield rows[i * self.batch : (i + 1) * self.batch][self.rank :: self.devices]

    def rows(self, draw: torch.Generator) -> Tensor:
        """Return an epoch's rows (count, ...)."""
        raise NotImplementedError


def batch_of(count: int, batch: int, devices: int) -> int:
    """Return the rows in a batch: fewer than asked for where there are no more."""
    return min(batch, count - count % devices)


class TrainingOrder(SharedOrder):
    """Row numbers of clips, whose weights (n,) say how often each is heard, relative to the others."""

    def __init__(self, weights: Tensor, *how: Any, **more: Any):
        """Take the weights, then what `SharedOrder` takes behind its count."""
        super().__init__(len(weights), *how, **more)
        self.weights = weights

    def rows(self, draw: torch.Generator) -> Tensor:
        """Return an epoch's clips (n,). With equal weights each is there once, else as often as its share or one more.

        The clips are laid out along a line, each as long as its weight, and picked at equal distances.
        """
        line = torch.randperm(self.count, generator=draw)
        ends = self.weights[line].double().cumsum(0)
        picked = torch.searchsorted(ends, (torch.arange(self.count).double() + 0.5) * ends[-1] / self.count)
        return line[picked][torch.randperm(self.count, generator=draw)]


class ClipBatches(LightningDataModule):
    """Training and validation clips as batches of a `ClipDataset`.

    `options.batch` counts clips over all devices. With several devices each takes its share of every batch, and of the
    validation clips each is heard by one device.
    """

    def __init__(self, train: ClipArray, val: ClipArray | None, options: TrainOptions):
        super().__init__()
        self.clips = ClipDataset(train)
        self.held_out = None if val is None else ClipDataset(val)
        self.options = options

    def train_dataloader(self) -> DataLoader:
        """Give the shuffled training batches; the last, incomplete one is left out."""
        assert self.trainer is not None
        o, trainer = self.options, self.trainer
        weights = class_weights(self.clips.targets, o.balance)[self.clips.targets]
        order = TrainingOrder(
            weights, o.batch, trainer.world_size, trainer.global_rank, o.seed, lambda: trainer.fit_loop.batch_idx + 1
        )
        return loader(self.clips, order)

    def val_dataloader(self) -> DataLoader | list:
        """Give this device's share of the validation clips in order: each clip is counted once, whatever their number.

        The devices' counts are added up by the metric.
        """
        assert self.trainer is not None
        if self.held_out is None:
            return []
        share = torch.arange(self.trainer.global_rank, len(self.held_out), self.trainer.world_size)
        return loader(self.held_out, share.split(VAL_BATCH))


def loader(data: Dataset, batches: Sampler | tuple[Tensor, ...]) -> DataLoader:
    """Build a loader of rows that are batches already."""
    # Of its own, else the loader would draw a seed from the generator of the training: resuming would differ.
    own = torch.Generator()
    return DataLoader(data, batch_size=None, sampler=batches, pin_memory=torch.cuda.is_available(), generator=own)


def class_weights(targets: Tensor, balance: float) -> Tensor:
    """Return each class's weight, its clips ^ -balance: 0 leaves the classes as they are, 1 makes them equal."""
    return targets.bincount().clamp(min=1).double() ** -balance

"""Batches of windows, in an order that depends on the seed and the epoch alone, over any number of devices."""

from collections.abc import Callable, Iterator

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from audiossm.data.windows import Windows
from audiossm.training.options import GenerateOptions


class WindowOrder(Sampler):
    """One device's share of each training batch: every `devices`-th place of it (share, 3), see `Windows`.

    Batch b of an epoch holds the same windows over any number of devices. What does not fill a batch is left out;
    `begin` says how many batches of the epoch are done already.
    """

    def __init__(
        self, windows: Windows, o: GenerateOptions, devices: int, rank: int, begin: Callable[[], int] = lambda: 0
    ):
        self.windows, self.o, self.devices, self.rank, self.begin = windows, o, devices, rank, begin
        self.batch = batch_of(len(windows), o, devices)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw anew: Lightning calls it before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.windows) // self.batch

    def __iter__(self) -> Iterator[Tensor]:
        draw = torch.Generator().manual_seed(self.o.seed * 1_000_003 + self.epoch)
        windows, batch = self.windows, self.batch
        places = windows.in_a_row(draw, batch) if self.o.carry else windows.spread(draw)
        for i in range(self.begin(), len(self)):
            yield places[i * batch : (i + 1) * batch][self.rank :: self.devices]


def batch_of(windows: int, o: GenerateOptions, devices: int) -> int:
    """Return the windows in a batch: fewer than asked for where there are no more."""
    return min(o.batch, windows - windows % devices)


class WindowBatches(LightningDataModule):
    """Training and validation windows. `options.batch` counts windows over all devices together."""

    def __init__(self, train: Windows, val: Windows | None, options: GenerateOptions):
        super().__init__()
        self.windows, self.held_out, self.options = train, val, options

    def train_dataloader(self) -> DataLoader:
        """Give the training batches; the last, incomplete one is left out."""
        assert self.trainer is not None
        trainer = self.trainer
        order = WindowOrder(
            self.windows,
            self.options,
            trainer.world_size,
            trainer.global_rank,
            lambda: trainer.fit_loop.batch_idx + 1,
        )
        return loader(self.windows, order)

    def val_dataloader(self) -> DataLoader | list:
        """Give this device's share of the windows that cover the validation recordings."""
        assert self.trainer is not None
        if self.held_out is None:
            return []
        places = self.held_out.one_by_one()[self.trainer.global_rank :: self.trainer.world_size]
        return loader(self.held_out, places.split(self.options.batch))


def loader(windows: Windows, batches: Sampler | tuple[Tensor, ...]) -> DataLoader:
    """Build a loader of places that are batches already."""
    # Of its own, else the loader would draw a seed from the generator of the training: resuming would differ.
    own = torch.Generator()
    pin = torch.cuda.is_available()
    return DataLoader(windows, batch_size=None, sampler=batches, pin_memory=pin, generator=own)

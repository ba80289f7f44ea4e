"""Batches of windows, in an order that depends on the seed and the epoch alone, over any number of devices."""

from collections.abc import Callable

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from audiossm.data.windows import Windows
from audiossm.training.loader import SharedOrder, loader
from audiossm.training.options import Optimisation


class WindowOrder(SharedOrder):
    """Places of windows (share, 3), see `Windows`; `carry`: those of a row follow one another."""

    def __init__(
        self, windows: Windows, o: Optimisation, carry: bool, devices: int, rank: int, begin: Callable[[], int]
    ):
        super().__init__(len(windows), o.batch, devices, rank, o.seed, begin)
        self.windows, self.carry = windows, carry

    def rows(self, draw: torch.Generator) -> Tensor:
        """Return an epoch's places."""
        return self.windows.in_a_row(draw, self.batch) if self.carry else self.windows.spread(draw)


class WindowBatches(LightningDataModule):
    """Training and validation windows. `options.batch` counts windows over all devices together."""

    def __init__(self, train: Windows, val: Windows | None, options: Optimisation, carry: bool = False):
        super().__init__()
        self.windows, self.held_out, self.options, self.carry = train, val, options, carry

    def train_dataloader(self) -> DataLoader:
        """Give the training batches; the last, incomplete one is left out."""
        assert self.trainer is not None
        trainer = self.trainer
        order = WindowOrder(
            self.windows,
            self.options,
            self.carry,
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

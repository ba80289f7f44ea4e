"""Batches of clips, in an order that depends on the seed and the epoch alone."""

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from audiossm.data import ClipArray


class ClipDataset(Dataset):
    """Clips in memory; a whole batch is cut out at once."""

    def __init__(self, clips: ClipArray):
        self.audio, self.targets = torch.from_numpy(clips.audio), torch.from_numpy(clips.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.audio[i], self.targets[i]

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return self.audio[rows], self.targets[rows]


class ClipBatches(LightningDataModule):
    """Training and validation clips as batches of (audio (B, n) int16, targets (B,) int64).

    `batch` counts clips over all devices. With several devices each takes its share of every epoch.
    """

    def __init__(self, train: ClipArray, val: ClipArray | None, batch: int, seed: int):
        super().__init__()
        self.train, self.val, self.batch, self.seed = (
            ClipDataset(train),
            val and ClipDataset(val),
            batch,
            seed,
        )

    def train_dataloader(self) -> DataLoader:
        """Give the shuffled training batches; the last, incomplete one is left out."""
        devices = self.trainer.world_size
        # DistributedSampler is the sampler whose order Lightning sets by epoch, which makes resuming exact.
        order = DistributedSampler(
            self.train, devices, self.trainer.global_rank, shuffle=True, seed=self.seed, drop_last=True
        )
        share = max(1, min(self.batch // devices, len(order)))
        return self.loader(self.train, share, sampler=order, drop_last=True)

    def val_dataloader(self) -> DataLoader | list:
        """Give the validation clips in order."""
        return [] if self.val is None else self.loader(self.val, 256, shuffle=False)

    def loader(self, data: ClipDataset, batch: int, **how) -> DataLoader:
        """Build a loader; `__getitems__` has already put the batch together."""
        pin = torch.cuda.is_available()
        return DataLoader(data, batch, collate_fn=lambda ready: ready, pin_memory=pin, **how)

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
        self.clips = ClipDataset(train)
        self.held_out = None if val is None else ClipDataset(val)
        self.batch, self.seed = batch, seed

    def train_dataloader(self) -> DataLoader:
        """Give the shuffled training batches; the last, incomplete one is left out."""
        assert self.trainer is not None
        devices, rank = self.trainer.world_size, self.trainer.global_rank
        # DistributedSampler is the sampler whose order Lightning sets by epoch, which makes resuming exact.
        order: DistributedSampler = DistributedSampler(self.clips, devices, rank, seed=self.seed, drop_last=True)
        share = max(1, min(self.batch // devices, len(order)))
        return self.loader(self.clips, share, sampler=order, drop_last=True)

    def val_dataloader(self) -> DataLoader | list:
        """Give the validation clips in order."""
        return [] if self.held_out is None else self.loader(self.held_out, 256, shuffle=False)

    def loader(self, data: ClipDataset, batch: int, **how) -> DataLoader:
        """Build a loader; `__getitems__` has already put the batch together."""
        pin = torch.cuda.is_available()
        own = (
            torch.Generator()
        )  # else the loader would draw a seed from the generator that augments: resuming would differ
        return DataLoader(data, batch, collate_fn=lambda ready: ready, pin_memory=pin, generator=own, **how)

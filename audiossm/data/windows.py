"""Windows of recordings: where each begins, and their samples."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiossm.data.recordings import Recordings

LEVELS = (0.1, 50, 99.9)  # percentiles that describe how loud seconds are
HEARD = 2000  # seconds that are listened to for it


@dataclass(frozen=True)
class Windows(Dataset):
    """Windows of `size` samples. A place (3,) int64 is a recording, the window's first sample, and whether it is fresh.

    A fresh window is heard as if nothing were before it; the others go on where the one before them ended.
    """

    recordings: Recordings
    size: int
    labels: Tensor  # (recordings,) int64: the class of each
    pad: bool = False  # whether the zeros behind a recording shorter than a window count as heard

    def __len__(self) -> int:
        return int(self.counts().sum())

    def counts(self) -> Tensor:
        """Return how many windows an epoch takes from each recording: one from a shorter one."""
        return torch.tensor([max(1, length // self.size) for length in self.recordings.lengths])

    def spread(self, draw: torch.Generator) -> Tensor:
        """Return an epoch's places (n, 3), shuffled, all fresh: a recording's begin anywhere, evenly spread over it."""
        counts = self.counts()
        which = torch.arange(len(counts)).repeat_interleave(counts)
        nth = torch.arange(len(which)) - (counts.cumsum(0) - counts)[which]
        room = (torch.tensor(self.recordings.lengths) - self.size).clamp(min=0) + 1  # places to begin
        share = (nth + torch.rand(len(which), generator=draw, dtype=torch.float64)) / counts[which]
        places = torch.stack((which, (share * room[which]).long(), torch.ones_like(which)), dim=1)
        return places[torch.randperm(len(places), generator=draw)]

    def in_a_row(self, draw: torch.Generator, rows: int) -> Tensor:
        """Return an epoch's places (n, 3) so that each of `rows` goes on in the next `rows` places where it was.

        A row is fresh where a recording begins, and at the start. What does not fill all rows is left out.
        """
        counts, chosen = self.counts(), []
        for i in torch.randperm(len(counts), generator=draw).tolist():
            room = max(0, self.recordings.lengths[i] - int(counts[i]) * self.size) + 1
            begin = int(torch.randint(room, (), generator=draw)) + self.size * torch.arange(int(counts[i]))
            chosen.append(torch.stack((torch.full_like(begin, i), begin, torch.arange(len(begin)) == 0), dim=1))
        places = torch.cat(chosen)
        steps = len(places) // rows
        lanes = places[: steps * rows].view(rows, steps, 3).transpose(0, 1).clone()
        lanes[:1, :, 2] = 1
        return lanes.reshape(-1, 3)

    def one_by_one(self) -> Tensor:
        """Return places (n, 3) that cover all samples once, in order, all fresh."""
        places = [(i, begin, 1) for i, n in enumerate(self.recordings.lengths) for begin in range(0, n, self.size)]
        return torch.tensor(places)

    def __getitem__(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what lies at places (B, 3).

        audio: (B, size + 1) int16, the sample before each window first. heard: (B,), how many of the window's samples
        are in the recording; zeros follow. label: (B,). fresh: (B,) bool.
        """
        which, begin, fresh = places.unbind(1)
        pieces = self.recordings.read_all([(i, b - 1, b + self.size) for i, b, _ in places.tolist()])
        heard = (torch.tensor(self.recordings.lengths)[which] - begin).clamp(max=self.size)
        heard = torch.full_like(heard, self.size) if self.pad else heard
        return torch.from_numpy(np.stack(pieces)), heard, self.labels[which], fresh.bool()


def loudness(recordings: Recordings) -> dict[str, object]:
    """Describe the level of seconds of the recordings: {"rms_db": low, median and high in dBFS, "peak"}.

    Of what was heard (some 2,000 seconds, evenly spread). Raises ValueError where it is all silent.
    """
    places = Windows(recordings, recordings.rate, torch.zeros(len(recordings), dtype=torch.int64)).one_by_one()
    ends = [min(b + recordings.rate, recordings.lengths[i]) for i, b, _ in places.tolist()]
    chosen = list(zip(places.tolist(), ends, strict=True))[:: -(-len(places) // HEARD)]
    pieces = recordings.read_all([(i, b, end) for (i, b, _), end in chosen])
    power = np.array([np.mean(np.square(piece / 32768.0)) for piece in pieces])
    if not power.any():
        raise ValueError("the recordings are silent: nothing but zeros, from which nothing can be learnt")
    low, median, high = (round(float(x), 2) for x in np.percentile(10 * np.log10(power.clip(1e-10)), LEVELS))
    peak = max(int(np.abs(piece.astype(np.int32)).max()) for piece in pieces) / 32768
    return {"rms_db": [low, median, high], "peak": round(peak, 4)}


@dataclass(frozen=True)
class PairedWindows(Windows):
    """Windows of clean recordings, each with the same window of its noisy one."""

    noisy: Recordings | None = None  # in the order of the clean ones

    def __getitem__(self, places: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return what `Windows` does, and the noisy samples (B, size + 1) int16."""
        assert self.noisy is not None
        pieces = self.noisy.read_all([(i, b - 1, b + self.size) for i, b, _ in places.tolist()])
        return *super().__getitem__(places), torch.from_numpy(np.stack(pieces))

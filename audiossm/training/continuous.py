"""A batch of clips as streams: words with pauses between them over a bed, and what a model should say at each step.

A model that learnt from clips of a second alone answers at their ends, and never learns when to be silent. Here a row
holds several clips, and the label of a word is due from its end for a while; everywhere else it is background.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from audiossm.data import augment
from audiossm.data.streams import GRACE

WORDS = 8  # clips in a row, where the batch can be shared out so
HOLD = 0.4  # seconds from a word's end for which its label is due: longer than a detector's average
BACKGROUND, EITHER = -1, -2  # in place of a label: none is due; whatever is said is right


@dataclass(frozen=True)
class Rows:
    """Streams with what is said in them: R rows of W clips.

    audio: (R, n). start, end: (R, W), the samples between which a word is audible, in order. target: (R, W), the
    class, or BACKGROUND.
    """

    audio: Tensor
    start: Tensor
    end: Tensor
    target: Tensor


def words_in(clips: int) -> int:
    """Return how many clips a row has when `clips` of them are shared out evenly."""
    return math.gcd(clips, WORDS)


def row_samples(clips: int, samples: int, pause: float) -> int:
    """Return the samples of a row: its clips and as many pauses, `pause` of a clip's length on average."""
    return round(words_in(clips) * samples * (1 + pause))


def lay_out(audio: Tensor, spans: Tensor, target: Tensor, pause: float) -> Rows:
    """Set clips (B, n) into rows one after the other, with pauses of random length before, between and after them.

    spans: (B, 2), the samples between which each clip's word is audible. target: (B,).
    """
    (clips, samples), words = audio.shape, words_in(len(audio))
    length = row_samples(clips, samples, pause)
    pauses = audio.new_empty(clips // words, words + 1).exponential_()
    before = (pauses / pauses.sum(1, keepdim=True)).cumsum(1)[:, :-1]  # the share of all pauses that has passed
    begin = (before * (length - words * samples)).long()
    begin = begin + samples * torch.arange(words, device=audio.device)
    place = begin.unsqueeze(2) + torch.arange(samples, device=audio.device)
    rows = audio.new_zeros(len(begin), length).scatter(1, place.flatten(1), audio.reshape(len(begin), -1))
    heard = spans.reshape(-1, words, 2) + begin.unsqueeze(2)
    return Rows(rows, heard[..., 0], heard[..., 1], target.reshape(-1, words))


def add_beds(rows: Rows, recordings: list[Tensor], level: Tensor, low_snr: float, high_snr: float) -> Tensor:
    """Return the rows' audio over pieces of recordings, a row's all of one kind, at a random SNR in dB below `level`.

    recordings: of some kinds, (n,) each. level: RMS of a row's words, (R, 1).
    """
    count, length = rows.audio.shape
    beds = torch.stack([augment.pieces(kind, count, length) for kind in recordings])
    kind = torch.randint(len(recordings), (count,), device=level.device)
    bed = beds[kind, torch.arange(count, device=level.device)]
    return rows.audio + augment.at_snr(bed, level, low_snr, high_snr)


def spoken_level(audio: Tensor, spans: Tensor) -> Tensor:
    """Return the RMS (B, 1) of clips (B, n) between the samples spans (B, 2)."""
    place = torch.arange(audio.shape[1], device=audio.device)
    inside = (place >= spans[:, :1]) & (place < spans[:, 1:])
    return ((audio.square() * inside).sum(1, keepdim=True) / inside.sum(1, keepdim=True).clamp(min=1)).sqrt()


def due(rows: Rows, steps: int, samples: float, second: int) -> Tensor:
    """Return what is due at each step of a row, (R, steps): a class, BACKGROUND or EITHER.

    From a word's start to GRACE after its end it may be said, and from its end for HOLD it must be; of two that
    overlap, the later counts. samples: of a step, which ends at a multiple of it. second: the samples of a second.
    """
    now = torch.arange(1, steps + 1, device=rows.end.device).unsqueeze(1) * samples
    begun = (now >= rows.start.unsqueeze(1)).sum(2) - 1  # (R, steps): the word that has begun last, -1 before the first
    latest = begun.clamp(min=0)
    target, since = rows.target.gather(1, latest), now.squeeze(1) - rows.end.gather(1, latest)
    said = (begun >= 0) & (target >= 0)
    free = torch.where(said & (since <= GRACE * second), EITHER, BACKGROUND)
    return torch.where(said & (since >= 0) & (since <= HOLD * second), target, free)


def stream_loss(logits: Tensor, target: Tensor, words: Tensor) -> Tensor:
    """Return the cross-entropy of logits (R, T, K) with what is due (R, T): half for words, half for background.

    words: (K,) bool, the classes that are no background. Where none is due any background class is right; without one
    nothing is asked of the model there.
    """
    log_p = logits.log_softmax(-1)
    of_words = -log_p.gather(2, target.clamp(min=0).unsqueeze(2)).squeeze(2)
    of_silence = -log_p.masked_fill(words, -1e4).logsumexp(-1).clamp(min=-1e3)
    return (mean_where(of_words, target >= 0) + mean_where(of_silence, target == BACKGROUND)) / 2


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen values, 0 where there are none."""
    return torch.where(chosen, values, 0).sum() / chosen.sum().clamp(min=1)

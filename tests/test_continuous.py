"""Training on streams: where the words lie in them, what is due when, and what the loss asks for."""

import math

import numpy as np
import pytest
import torch

from audiossm.data.augment import level
from audiossm.training.continuous import (
    BACKGROUND,
    EITHER,
    Rows,
    add_beds,
    due,
    lay_out,
    row_samples,
    spoken_level,
    stream_loss,
    words_in,
)


@pytest.mark.parametrize("clips", [1, 6, 16, 24])
def test_every_clip_is_said_once_where_the_rows_say(clips):
    torch.manual_seed(0)
    audio = torch.rand(clips, 100) + torch.arange(1.0, clips + 1).unsqueeze(1)  # a clip's level tells which one it is
    spans = torch.tensor([[20, 70]]).repeat(clips, 1)
    rows = lay_out(audio, spans, torch.arange(clips), pause=0.5)
    words = math.gcd(clips, 8)
    assert words_in(clips) == words and rows.audio.shape == (clips // words, row_samples(clips, 100, 0.5))
    for row, start, end, target in zip(rows.audio, rows.start, rows.end, rows.target, strict=True):
        assert (row > 0).sum() == 100 * words
        for a, b, clip in zip(start, end, target, strict=True):
            assert torch.equal(row[a:b], audio[clip, 20:70])
    assert sorted(rows.target.flatten().tolist()) == list(range(clips))
    pauses = torch.diff(rows.start, dim=1) - 100
    assert (pauses >= 0).all() and (clips < 6 or len(set(pauses.flatten().tolist())) > 1)


def test_what_is_due():
    """A second is 100 samples, a step 10: the words are due for 0.4 s, and allowed from their start to 0.75 s on."""
    rows = Rows(
        torch.zeros(2, 300),
        start=torch.tensor([[35, 150, 190], [50, 170, 210]]),
        end=torch.tensor([[65, 170, 230], [100, 200, 240]]),
        target=torch.tensor([[2, 0, BACKGROUND], [BACKGROUND, 1, 1]]),
    )
    said = due(rows, 30, 10.0, 100)
    b, e = BACKGROUND, EITHER
    assert said[0].tolist() == [b] * 3 + [e] * 3 + [2] * 4 + [e] * 4 + [e] * 2 + [0] * 2 + [b] * 12
    assert said[1].tolist() == [b] * 16 + [e] * 3 + [1] + [e] * 3 + [1] * 5 + [e] * 2
    faster = due(rows, 30, 10.4, 104)  # heard at another rate: steps and seconds are other numbers of samples
    assert faster[0].tolist()[:18] == [b] * 3 + [e] * 3 + [2] * 4 + [e] * 3 + [b] + [e] * 2 + [0] * 2


def test_the_loss_takes_any_background_and_leaves_the_rest_free():
    logits = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    words = torch.tensor([False, True, True, False])
    target = torch.tensor([[BACKGROUND, EITHER, 1, 1, EITHER], [2, BACKGROUND, BACKGROUND, EITHER, EITHER]])
    p = logits.detach().softmax(-1)
    of_words = -(p[0, 2, 1].log() + p[0, 3, 1].log() + p[1, 0, 2].log()) / 3
    silent = [p[0, 0], p[1, 1], p[1, 2]]
    of_silence = -sum((step[0] + step[3]).log() for step in silent) / 3
    loss = stream_loss(logits, target, words)
    torch.testing.assert_close(loss.detach(), (of_words + of_silence) / 2)
    loss.backward()
    assert (logits.grad.abs().sum(-1) > 0).tolist() == (target != EITHER).tolist()


def test_without_a_background_class_silence_is_free():
    logits = torch.randn(1, 3, 2, requires_grad=True)
    loss = stream_loss(logits, torch.tensor([[BACKGROUND, 1, BACKGROUND]]), torch.tensor([True, True]))
    loss.backward()
    assert torch.isfinite(loss) and (logits.grad.abs().sum(-1) > 0).tolist() == [[False, True, False]]


def test_beds_lie_below_the_words():
    torch.manual_seed(0)
    spans = torch.tensor([[100, 500], [0, 1000]])
    audio = torch.rand(2, 1000) * torch.tensor([[0.5], [0.1]])
    levels = spoken_level(audio, spans)
    np.testing.assert_allclose(levels[0], audio[0, 100:500].square().mean().sqrt(), rtol=1e-5)
    rows = Rows(torch.zeros(2, 4000), *(torch.zeros(2, 1, dtype=torch.int64) for _ in range(3)))
    noise, hum = torch.randint(-9000, 9000, (700,), dtype=torch.int16), torch.full((900,), 5000, dtype=torch.int16)
    bed = add_beds(rows, [noise, hum], levels, 10.0, 10.0)
    np.testing.assert_allclose(level(bed), levels * 10 ** (-10 / 20), rtol=1e-2)

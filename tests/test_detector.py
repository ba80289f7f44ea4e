"""The detector: probabilities in, at most one event a frame out."""

import numpy as np
import pytest

from audiossm.streaming import Detector
from audiossm.streaming.metadata import DetectorSettings

LABELS = ("yes", "no", "_other_")
FRAME = 0.02


def run(rows, smoothing=0.06, threshold=0.5, refractory=0.1, detector=None):
    """Return [(frame, label, score)] for rows of probabilities."""
    detector = detector or Detector(LABELS, DetectorSettings(smoothing, threshold, refractory), FRAME)
    found = [(i, detector.update(np.array(row, np.float32))) for i, row in enumerate(rows)]
    return [(i, event[0], pytest.approx(event[1])) for i, event in found if event]


YES, NO, OTHER = (0.9, 0.05, 0.05), (0.0, 0.8, 0.2), (0.0, 0.0, 1.0)


def test_average_must_reach_the_threshold():
    # Averages over three frames: 0, 0.3, 0.6.
    assert run([OTHER] * 3 + [YES] * 3) == [(4, "yes", 0.6)]
    assert run([OTHER] * 3 + [YES, OTHER] * 3) == [(5, "yes", 0.6)]
    assert run([OTHER] * 3 + [YES, OTHER, OTHER] * 3) == []


def test_threshold_itself_counts():
    assert run([(0.5, 0.0, 0.5)], smoothing=0, threshold=0.5) == [(0, "yes", 0.5)]


def test_nothing_before_the_window_is_full():
    assert run([YES] * 5) == [(2, "yes", 0.9)]


def test_underscore_labels_are_never_reported():
    assert run([OTHER] * 20) == []
    assert run([(0.4, 0.0, 0.6)] * 20, threshold=0.3) == [(2, "yes", 0.4)]


def test_one_long_word_is_one_event():
    assert run([YES] * 100) == [(2, "yes", 0.9)]


def test_the_same_word_again_after_a_pause():
    found = run([YES] * 10 + [OTHER] * 10 + [YES] * 10)
    assert [(i, label) for i, label, _ in found] == [(2, "yes"), (21, "yes")]


def test_refractory_holds_back_other_words():
    rows = [YES] * 3 + [NO] * 20
    assert [(i, label) for i, label, _ in run(rows, refractory=0)] == [(2, "yes"), (4, "no")]
    # 0.2 s are 10 frames: the next event comes in frame 12 at the earliest.
    assert [(i, label) for i, label, _ in run(rows, refractory=0.2)] == [(2, "yes"), (12, "no")]


def test_the_highest_wins():
    found = run([(0.4, 0.6, 0.0)] * 8, threshold=0.3, refractory=0.04)
    assert [(i, label) for i, label, _ in found] == [(2, "no"), (4, "yes")]


def test_reset_is_as_new():
    detector = Detector(LABELS, DetectorSettings(0.06, 0.5, 0.1), FRAME)
    rows = [OTHER] * 2 + [YES] * 9 + [NO] * 4
    first = run(rows, detector=detector)
    detector.reset()
    assert run(rows, detector=detector) == first != []

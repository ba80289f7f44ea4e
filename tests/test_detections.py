"""Many settings at once report what the detector reports frame by frame."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiossm.streaming import Detector
from audiossm.streaming.metadata import DetectorSettings
from audiossm.training.detections import averages, detections

LABELS = ("yes", "_other_", "no", "up")
SPEAKS = [0, 2, 3]
FRAME = 0.02


def frame_by_frame(posteriors, detector):
    found = [(i, event[0]) for i, row in enumerate(posteriors) if (event := detector.update(row))]
    return [i for i, _ in found], [label for _, label in found]


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(0, 120),
    size=st.integers(1, 6),
    threshold=st.integers(1, 16),
    refractory=st.integers(0, 12),
    hold=st.integers(1, 12),
)
def test_the_same_events(seed, frames, size, threshold, refractory, hold):
    """Posteriors are sixteenths, so that ties and averages on the threshold happen and are exact."""
    rng = np.random.default_rng(seed)
    posteriors = np.repeat(rng.integers(0, 17, (frames, len(LABELS))), hold, axis=0)[:frames] / 16
    chosen = DetectorSettings(size * FRAME, threshold / 16, refractory * FRAME)
    want = frame_by_frame(posteriors.astype(np.float32), Detector(LABELS, chosen, FRAME))
    average = averages(posteriors[:, SPEAKS], size) * size
    found, labels = detections(average, size * threshold / 16, refractory)
    assert (found.tolist(), [LABELS[SPEAKS[label]] for label in labels]) == want


def test_the_same_events_on_real_valued_posteriors():
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(0, 0.7, (20000, len(LABELS))), axis=0)
    walk -= np.array([np.convolve(column, np.ones(500) / 500, "same") for column in walk.T]).T
    posteriors = (np.exp(walk) / np.exp(walk).sum(1, keepdims=True)).astype(np.float32)
    for threshold in (0.3, 0.6, 0.9):
        want = frame_by_frame(posteriors, Detector(LABELS, DetectorSettings(0.24, threshold, 0.6), FRAME))
        found, labels = detections(averages(posteriors[:, SPEAKS], 12), threshold, 30)
        assert len(found) > 50
        assert (found.tolist(), [LABELS[SPEAKS[label]] for label in labels]) == want


def test_an_average_needs_its_frames():
    assert averages(np.ones((5, 1)), 3).ravel().tolist() == pytest.approx([0, 0, 1, 1, 1])
    assert averages(np.ones((2, 1)), 3).ravel().tolist() == [0, 0]

"""Pictures show what was measured: they are drawn from reports, and the widths of the filters are right."""

import numpy as np

from audiossm.mixers import Filterbank
from audiossm.training.pictures import bandwidths, bank_of, draw_confusion, draw_heard, response


def is_picture(path):
    return path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 5000


def test_evaluate_draws_what_it_measured(run, exported, toys, tmp_path):
    code, _, _ = run(
        "evaluate", exported, "--data", toys, "--rates", "8000,16000,48000", "--highband", "--pictures", tmp_path / "p"
    )
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["confusion.png", "filters.png", "rates.png"]
    assert all(is_picture(path) for path in (tmp_path / "p").iterdir())


def test_evaluate_draws_streams(run, exported, toys, tmp_path):
    assert run("evaluate", exported, "--data", toys, "--stream", "--pictures", tmp_path)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["misses-16000.png", "stream-16000.png"]
    assert all(is_picture(path) for path in tmp_path.iterdir())


def test_a_run_holds_a_picture_of_its_filters(trained):
    assert is_picture(trained / "filters.png")


def test_filters_begin_one_erb_wide():
    centre, width = bandwidths(response(bank_of(Filterbank(channels=20, modes=4))))
    erb = 24.7 * (4.37 * centre / 1000 + 1)
    inner = centre > 100  # at the lowest the mirror image joins in
    np.testing.assert_allclose(width[inner], erb[inner], rtol=0.05)


def test_a_confusion_and_a_stream_may_be_empty(tmp_path):
    draw_confusion(tmp_path / "c.png", {"labels": ["a", "_b_"], "counts": [[0, 0], [0, 0]]})
    draw_heard(tmp_path / "h.png", np.zeros(16000, np.float32), 16000, np.zeros((50, 2), np.float32), ["a", "_b_"])
    assert is_picture(tmp_path / "c.png") and is_picture(tmp_path / "h.png")

"""The table of mixers: one command fills it, and goes on where it stopped."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "demos" / "compare_mixers.py"
SMALL = ["--mixers", "s4d,gru", "--params", "20000", "--layers", "1", "--epochs", "1", "--seeds", "1", "--at-once", "2"]


def compare(data, out, *options):
    command = [sys.executable, DEMO, data, out, *SMALL, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=out.parent, env=environment)


def test_the_table_is_filled_once(toys, tmp_path):
    """A cell that fails is told, the others are made, and the same command makes the rest."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "gru-0").write_text("in the way")
    done = compare(toys, out)
    assert done.returncode == 1
    failed, last = done.stderr.strip().splitlines()
    assert failed.startswith("gru, train 0: ") and "gru-0 is a file" in failed and last.startswith("the table is not")
    assert list(json.loads((out / "table.json").read_text())) == ["s4d"]
    files = {path: path.stat().st_mtime_ns for path in out.glob("s4d-0/*")}
    (out / "gru-0").unlink()
    done = compare(toys, out)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in files} == files
    rows = json.loads((out / "table.json").read_text())
    assert set(rows) == {"s4d", "gru"} and all(abs(row["params"] - 20000) < 4000 for row in rows.values())
    assert done.stdout.endswith((out / "table.md").read_text() + "\n") and "| gru |" in done.stdout
    assert (out / "table.png").stat().st_size > 5000


@pytest.mark.parametrize("folder, mixer, message", (("toys", "rnn", "no mixer 'rnn'"), ("none", "gru", "none")))
def test_what_cannot_be_compared_is_said_in_a_line(toys, tmp_path, folder, mixer, message):
    data = toys if folder == "toys" else tmp_path / folder
    with pytest.raises(SystemExit, match=message) as raised:
        runpy.run_path(str(DEMO))["main"](data, tmp_path / "out", mixer)
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()

"""The table of mixers: one command fills it, and goes on where it stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[1] / "demos" / "compare_mixers.py"
SMALL = ["--mixers", "s4d,gru", "--params", "20000", "--layers", "1", "--epochs", "1", "--seeds", "1", "--at-once", "2"]


def test_the_table_is_filled_once(toys, tmp_path):
    def compare():
        command = [sys.executable, DEMO, toys, tmp_path / "out", *SMALL]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = compare()
    rows = json.loads((tmp_path / "out" / "table.json").read_text())
    assert set(rows) == {"s4d", "gru"} and all(abs(row["params"] - 20000) < 4000 for row in rows.values())
    assert said.endswith((tmp_path / "out" / "table.md").read_text() + "\n") and "| gru |" in said
    assert (tmp_path / "out" / "table.png").stat().st_size > 5000
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*")}
    (tmp_path / "out" / "gru-0" / "bench.json").unlink()
    compare()
    again = {path for path, time in files.items() if path.stat().st_mtime_ns != time}
    assert again == {tmp_path / "out" / "gru-0" / "bench.json"}

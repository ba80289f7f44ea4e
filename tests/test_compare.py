"""The table of mixers: one command fills it, and goes on where it stopped."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

DEMO = Path(__file__).parents[1] / "demos" / "compare_mixers.py"
SMALL = ["--params", "20000", "--layers", "1", "--epochs", "1", "--seeds", "1", "--lrs", "0.004"]


@pytest.fixture
def table(demo):
    """The program."""
    return demo("compare_mixers")


def compare(table, data, out, mixers):
    app = typer.Typer()
    app.command()(table.main)
    return CliRunner().invoke(app, [str(data), str(out), "--mixers", mixers, *SMALL])


@pytest.fixture
def at_hand(program, table, monkeypatch):
    """Let the program's commands run here, not in processes that import torch anew; nor in threads: torch's exporter,
    used in a thread that has ended, crashes.
    """

    def audiossm(*arguments):
        code, out, err = program(*arguments)
        if code:
            raise RuntimeError(err.strip())
        return out

    monkeypatch.setattr(table, "audiossm", audiossm)
    monkeypatch.setattr(table, "ThreadPoolExecutor", lambda at_once: nullcontext(SimpleNamespace(map=map)))


def test_the_table_is_filled_once_and_tells_what_fails(table, at_hand, toys, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "lstm-lr0.004-0").write_text("in the way of a run folder")
    done = compare(table, toys, out, "lstm,gru")
    assert done.exit_code == 1 and "lstm, learning rate 0.004, seed 0 failed: audiossm: " in done.stdout
    rows = json.loads((out / "table.json").read_text())
    assert set(rows) == {"gru"} and abs(rows["gru"]["params"] - 20000) < 4000
    assert (out / "table.md").read_text() + "\n" in done.stdout and "| gru |" in done.stdout
    assert (out / "table.png").stat().st_size > 5000

    files = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    (out / "gru-lr0.004-0" / "bench.json").unlink()
    assert compare(table, toys, out, "gru").exit_code == 0
    again = {path for path, time in files.items() if path.stat().st_mtime_ns != time}
    assert again == {out / "gru-lr0.004-0" / "bench.json"}


def test_as_a_program_whose_command_fails(toys, tmp_path):
    """All is there but the last command's file, which is none."""
    run = tmp_path / "lstm-lr0.004-0"
    run.mkdir()
    (run / "model.json").write_text(json.dumps({"training": {"val_accuracy": 50.0}}))
    for name in ("model.safetensors", "accuracy.json", "streams.json", "model.onnx"):
        (run / name).touch()
    command = [sys.executable, DEMO, toys, tmp_path, "--mixers", "lstm", *SMALL, "--at-once", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "not in the table: lstm\n", done.stderr
    assert "lstm, learning rate 0.004, seed 0 failed: audiossm: " in done.stdout


def test_an_unknown_mixer_is_one_line(table, toys, tmp_path):
    done = compare(table, toys, tmp_path / "out", "s4d,nonsense")
    assert done.exit_code == 2 and "there is no mixer 'nonsense'" in " ".join(done.stderr.split())


def test_the_other_seeds_take_the_learning_rate_that_validates_best(table, toys, tmp_path, monkeypatch):
    trained = []
    validation = {("gru", "0.004"): 80.0, ("gru", "0.001"): 90.0}

    def audiossm(command, *arguments):
        if command == "train":
            run = Path(arguments[arguments.index("--out") + 1])
            name, lr, seed = run.name.rsplit("-", 2)
            trained.append((name, lr, seed))
            run.mkdir()
            (run / "model.safetensors").touch()
            (run / "model.json").write_text(json.dumps({"training": {"val_accuracy": validation[name, lr[2:]]}}))
            return ""
        raise RuntimeError("nothing to evaluate")

    monkeypatch.setattr(table, "audiossm", audiossm)
    with pytest.raises(SystemExit):
        table.main(toys, tmp_path / "out", mixers="gru", params=20000, layers=1, seeds=3, lrs="0.004,0.001")
    assert trained == [
        ("gru", "lr0.004", "0"),
        ("gru", "lr0.001", "0"),
        ("gru", "lr0.001", "1"),
        ("gru", "lr0.001", "2"),
    ]

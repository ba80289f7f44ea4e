"""The table of generation models: equal parameters, the rate that validates best, cells that are made once."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def table(demo):
    """The program."""
    return demo("compare_generation")


@pytest.mark.parametrize("size", ["small", "middle", "published"])
def test_the_rivals_have_as_many_parameters(table, size):
    (sashimi, *rivals), width = table.models(*table.SIZES[size]), table.SIZES[size][1]
    params = sashimi[0].params(width)
    assert len(rivals) == 2
    for kind, width in rivals:
        assert kind.params(width) == pytest.approx(params, rel=0.05), kind.name


def test_the_table_has_the_rate_that_validates_best_and_makes_no_cell_twice(demo, table, tmp_path, monkeypatch):
    """The program's own commands are stood in for: what they do is tested elsewhere, and takes minutes."""
    given = []

    def audiossm(command, *arguments):
        given.append((command, *arguments))
        if command == "evaluate":
            clips = {"a": 2.8, "b": 3.2} if "sashimi" in str(arguments[0]) else {"a": 2.8, "b": 3.3}
            return json.dumps({"bits": 3.0, "ci95": [2.9, 3.1], "clips": clips})
        run, lr = (Path(arguments[arguments.index(option) + 1]) for option in ("--out", "--lr"))
        run.mkdir()
        training = {"val_bits": 4.0 if str(lr) == "0.01" else 5.0, "step_ms": 7.0, "epochs": 2.0}
        (run / "model.json").write_text(json.dumps({"training": training}))
        return ""

    for module in (table, demo("compare_mixers")):
        monkeypatch.setattr(module, "audiossm", audiossm)
    for _ in range(2):
        table.main(tmp_path, tmp_path / "out", rates="0.001,0.01", sizes="small", rate=8000)
    assert [command for command, *_ in given] == ["train"] * 6 + ["evaluate"] * 3
    assert all(arguments[arguments.index("--rate") + 1] == 8000 for command, *arguments in given[:6])
    assert {Path(arguments[1]).name for arguments in given[6:]} == {
        f"{kind}-small-0.01" for kind in ("sashimi", "wavenet", "gru")
    }
    rows = json.loads((tmp_path / "out" / "table.json").read_text())
    assert list(rows) == ["sashimi-small", "wavenet-small", "gru-small"]
    assert all(row["lr"] == "0.01" and row["bits"] == 3.0 for row in rows.values())
    assert [row["behind"] for row in rows.values()] == ["0 of 2", "1 of 2", "1 of 2"]
    assert "| gru-small | " in (tmp_path / "out" / "table.md").read_text()


def test_an_unknown_size_is_told(table, tmp_path):
    with pytest.raises(ValueError, match="there is no size huge; there are small, middle, published"):
        table.main(tmp_path, tmp_path / "out", sizes="small,huge")

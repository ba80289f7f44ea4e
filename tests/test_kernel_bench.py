"""The bench measures every operation's cases and tells what it had to leave out."""

import dataclasses
import json
import time

import pytest
import torch

from audiossm.kernels import bench

CPU = torch.device("cpu")


def clock(call):
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def missing():
    raise ImportError("No module named 'peer'")


@pytest.fixture
def case():
    return bench.Case(
        op="ssd",
        shape="B8 H8",
        dtype="float32",
        inputs=lambda device: (torch.randn(8, 8, device=device, requires_grad=True), None),
        function=lambda x, _: (x.exp(), None),
        bytes_forward=512,
        bytes_both=1024,
        forms={"eager": lambda x, _: x.exp()},
        peers={"peer": missing, "other": lambda: lambda x, _: x.exp()},
    )


def test_a_line_of_the_table(case):
    line = bench.measure(case, CPU, clock, rate=1e6)
    assert line["forward_ms"] > 0 and line["both_ms"] > 0
    assert line["floor_both_ms"] == pytest.approx(1024 / 1e6)
    assert set(line["torch"]) == {"eager"} and set(line["peers"]) == {"other"}
    assert "No module named 'peer'" in line["left_out"]["peer"]
    assert json.loads(json.dumps(line))["op"] == "ssd"


def test_the_table_as_printed(case, capsys):
    bench.print_table(bench.machine(1e6), [bench.measure(case, CPU, clock, rate=1e6)])
    out = capsys.readouterr().out
    assert "B8 H8" in out and "other" in out and "left out: peer: ImportError" in out


def test_every_operation_has_cases_that_run():
    for case in bench.cases(bench.OPS):
        assert case.op in bench.OPS and 0 < case.bytes_forward < case.bytes_both


def test_deviation():
    x = torch.ones(4)
    assert bench.deviation((x, None), (x, None)) == 0
    assert bench.deviation((x + 1,), (x,)) == pytest.approx(1)
    assert bench.deviation((x * torch.nan,), (x,)) == float("inf")


def test_what_cannot_be_tuned(case, capsys):
    bench.tune(dataclasses.replace(case, op="fft_conv"), CPU, clock)
    assert "nothing to tune" in capsys.readouterr().out


def test_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(["nothing"])
    assert stopped.value.code == 2 and "no operation nothing" in capsys.readouterr().err

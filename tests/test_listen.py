"""The commands listen, devices, bench and inspect: what they print, exit codes, errors of one line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from audiossm.cli import main
from audiossm.streaming import AudioFile

tiny = SimpleNamespace(**run_path(str(Path(__file__).with_name("tiny_model.py"))))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny.build(tmp_path_factory.mktemp("model") / "tiny.onnx"))


@pytest.fixture
def audiossm(monkeypatch, capsys):
    """Run the command line in this process: audiossm("bench", ...) -> (exit code, stdout, stderr)."""
    monkeypatch.setenv("AUDIOSSM_DEBUG", "")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["audiossm", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    return run


def recording(path, rate=44100, **options):
    """Two channels of three seconds: a tone of 500 Hz, a pause, a tone of 1500 Hz."""
    t = np.arange(3 * rate) / rate
    tone = ((t > 0.5) & (t < 0.9)) * np.sin(2 * np.pi * 500 * t)
    tone += ((t > 1.5) & (t < 1.9)) * np.sin(2 * np.pi * 1500 * t)
    soundfile.write(path, np.stack([0.3 * tone, 0.2 * tone], 1), rate, **options)
    return path


@pytest.mark.parametrize(("name", "rate"), [("a.wav", 44100), ("a.flac", 16000), ("a.ogg", 22050), ("ä ö.wav", 8000)])
def test_listen_to_a_file(audiossm, model, tmp_path, name, rate):
    code, out, err = audiossm("listen", model, "--input", recording(tmp_path / name, rate))
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert [(unit, label) for _, unit, label, _ in lines] == [("s", "low"), ("s", "high")]
    assert 0.5 < float(lines[0][0]) < 0.9 and 1.5 < float(lines[1][0]) < 1.9
    assert err.startswith("3.0 s heard, 2 keywords, real-time factor ")


def test_listen_as_json(audiossm, model, tmp_path):
    code, out, _ = audiossm("listen", model, "--input", recording(tmp_path / "a.wav"), "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [list(event) for event in events] == [["event", "label", "time", "score"]] * 2
    assert [event["label"] for event in events] == ["low", "high"]
    assert all(event["event"] == "keyword" and 0 < event["score"] <= 1 for event in events)


def test_listen_to_an_empty_file(audiossm, model, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    code, out, err = audiossm("listen", model, "--input", tmp_path / "a.wav")
    assert (code, out) == (0, "") and err.startswith("0.0 s heard, 0 keywords")


def test_file_in_blocks(tmp_path):
    path = recording(tmp_path / "a.wav", subtype="FLOAT")
    with AudioFile(path) as file:
        assert (file.rate, file.channels, file.seconds) == (44100, 2, 3.0)
        blocks = list(file.blocks(1000))
    assert [len(block) for block in blocks] == [1000] * 132 + [300]
    np.testing.assert_array_equal(np.concatenate(blocks), soundfile.read(path, dtype="float32")[0])


def test_bench(audiossm, model):
    code, out, _ = audiossm("bench", model, "--rate", 44100, "--seconds", 0.5, "--json")
    figures = json.loads(out)
    assert code == 0 and set(figures) >= {
        *(
            "real_time_factor",
            "frame_us_p50",
            "frame_us_p99",
            "latency_ms",
            "rss_mib",
            "state_bytes",
            "params",
        )
    }
    assert figures["latency_ms"] == 20 and figures["state_bytes"] == 60 and figures["params"] == 42
    assert 0 < figures["frame_us_p50"] <= figures["frame_us_p99"]
    code, out, _ = audiossm("bench", model, "--seconds", 0.2)
    assert code == 0 and "real_time_factor" in out


HOARDING = """
import numpy as np
from audiossm.streaming import KeywordStream
kept, push = [], KeywordStream.push  # 2.5 KiB a frame
KeywordStream.push = lambda stream, chunk: (kept.append(np.ones(chunk.shape)), push(stream, chunk))[1]
"""


def test_bench_shows_memory_that_grows(model):
    """And that a stream's does not. Each in a process of its own: this one holds freed memory, to be used again."""

    def growth(before=""):
        code = f"{before}\nfrom audiossm.cli import main\nmain()"
        command = [sys.executable, "-c", code, "bench", model, "--seconds", "60", "--json"]
        figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return figures["rss_growth_mib"], figures["rss_mib"]

    flat, memory = growth()
    if flat is None:
        pytest.skip("this system does not tell a process's memory")
    assert abs(flat) < 2 < memory
    assert growth(HOARDING)[0] > 5


def test_inspect(audiossm, model):
    code, out, _ = audiossm("inspect", model, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["labels"] == tiny.LABELS
    assert facts["filterbank"] == {"channels": 3, "modes": 2, "readouts": 2}
    code, out, _ = audiossm("inspect", model)
    assert code == 0 and "none [written by hand]" in out  # brackets are text, not markup


def assert_error(result, *parts, code=1):
    assert result[0] == code and result[1] == ""
    assert result[2].startswith("audiossm: ") and result[2].count("\n") == 1, result[2]
    assert all(part in result[2] for part in parts), result[2]


def test_errors_are_one_line(audiossm, model, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not audio, not a model\n" * 10)
    foreign = tiny.build(tmp_path / "foreign.onnx", key="other")
    slow = tmp_path / "slow.wav"
    soundfile.write(slow, np.zeros(100), 2000)
    for command in ("listen", "bench", "inspect"):
        assert_error(audiossm(command, tmp_path / "no.onnx"), "no.onnx", "no released model")
        assert_error(audiossm(command, text), "notes.txt is not an ONNX file")
        assert_error(audiossm(command, foreign), "not an audiossm model", "audiossm export")
    assert_error(audiossm("listen", model, "--input", tmp_path / "no.wav"), "there is no file", "no.wav")
    assert_error(audiossm("listen", model, "--input", text), "notes.txt", "no sound file")
    assert_error(audiossm("listen", model, "--input", tmp_path), "no sound file")
    assert_error(audiossm("listen", model, "--input", slow), "4000 to 192000 Hz, not 2000")
    assert_error(audiossm("bench", model, "--rate", 12), "sampling rate")
    raw = tmp_path / "a.raw"
    raw.write_bytes(bytes(100))
    assert_error(audiossm("listen", model, "--input", raw), "a.raw", "no header")


def test_bad_usage(audiossm, model):
    for arguments in (
        ["listen"],
        ["bench"],
        ["listen", model, "--device", "x", "--input", "y"],
        ["bench", model, "--rate", "x"],
    ):
        code, out, err = audiossm(*arguments)
        assert code == 2 and out == "" and err.startswith("audiossm: ") and "--help" in err


@pytest.mark.parametrize("command", ["listen", "devices", "bench", "inspect"])
def test_help_has_an_example(audiossm, command):
    code, out, _ = audiossm(command, "--help")
    assert code == 0 and "Example" in out and f"audiossm {command}" in out


def test_each_event_is_written_at_once(model, tmp_path):
    """A pipe's reader sees a keyword while the listener still waits for the rest of its input."""
    program = (
        "import sys, audiossm.streaming.audiofile as a\n"
        "blocks = a.AudioFile.blocks\n"
        "def slow(self, samples=4096):\n"
        "    for i, block in enumerate(blocks(self)):\n"
        "        yield block\n"
        "        if i == 12: sys.stdin.readline()\n"  # after 1.2 s; go on when the reader has seen the event
        "a.AudioFile.blocks = slow\n"
        "from audiossm.cli import main; main()\n"
    )
    path = recording(tmp_path / "a.wav")
    process = subprocess.Popen(
        [sys.executable, "-c", program, "listen", model, "--input", path, "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
    )
    assert json.loads(process.stdout.readline())["label"] == "low"
    _, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0 and "2 keywords" in err

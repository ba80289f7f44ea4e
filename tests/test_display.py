"""What the live display shows for given levels and words, and what it costs to draw."""

import io
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from audiossm.cli import display
from audiossm.cli.display import Display, Status, line, panel
from audiossm.streaming import Back, Event, Level, Lost

STATUS = Status(
    model="keywords",
    device="USB Microphone",
    rate=44100,
    time=83.456,
    level=-30.0,
    peak=-6.2,
    words=[("stop", 0.97), ("go", 0.25), ("_other_", 0.01)],
    real_time_factor=0.0042,
    behind=0.012,
    dropped=0.0,
    latency=0.02,
    device_latency=0.0427,
)


def drawn(what, width=80, styles=False):
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(what, highlight=False)
    return console.export_text(styles=styles)


def test_the_whole_screen():
    rows = [row.strip("│ ") for row in drawn(panel(STATUS)).splitlines()]
    assert "keywords" in rows[0] and all(len(row) == 80 for row in drawn(panel(STATUS)).splitlines())
    assert rows[1].startswith("USB Microphone at 44100 Hz") and rows[1].endswith("0:01:23.45")
    assert rows[2].startswith("level") and rows[2].endswith("-30 dBFS, peak -6")
    assert [row.split()[0] for row in rows[3:6]] == ["stop", "go", "_other_"]
    assert [row.split()[-1] for row in rows[3:6]] == ["0.97", "0.25", "0.01"]
    assert rows[6].split("   ") == ["real-time factor 0.004", "behind by 12 ms", "dropped 0.0 s"]
    assert rows[7] == "latency 20 ms and 43 ms in the device"


def test_bars_are_as_long_as_what_they_show():
    for width in (60, 80, 133):
        room = width - 4 - display.LABEL - display.FIGURES - 2
        rows = drawn(panel(STATUS), width).splitlines()
        assert [row.count("█") for row in rows[2:6]] == [round(share * room) for share in (0.5, 0.97, 0.25, 0.01)]
    loudest = drawn(panel(replace(STATUS, level=0.0, peak=3.0))).splitlines()[2]
    assert "█│ " in loudest and loudest.count("█") == 80 - 4 - display.LABEL - display.FIGURES - 2 - 1
    silent = drawn(panel(replace(STATUS, level=-120.0, peak=-120.0))).splitlines()[2]
    assert "█" not in silent and silent.count("│") == 2


def test_trouble_is_red():
    def red(status):
        return "".join(part for part in drawn(panel(status), styles=True).split("\x1b[") if part.startswith("1;31m"))

    assert red(STATUS) == ""
    assert "behind by 400 ms" in red(replace(STATUS, behind=0.4))
    assert "dropped 1.5 s" in red(replace(STATUS, dropped=1.5))
    waiting = replace(STATUS, waiting=True)
    assert "USB Microphone is lost: waiting for it" in red(waiting) and "behind" not in drawn(panel(waiting))


@pytest.mark.parametrize("width", [12, 30, 47])
def test_a_narrow_terminal_cuts_what_does_not_fit(width):
    rows = drawn(panel(replace(STATUS, device="[bold]A microphone with a long name")), width).splitlines()
    assert len(rows) == 9 and all(len(row) <= width for row in rows)


def test_the_log():
    assert drawn(line(Event("stop", 3723.5, 0.943))) == "1:02:03.50  stop  0.94\n"
    assert drawn(line(Lost("[Mic]", 1.0))) == "0:00:01.00  lost [Mic]: waiting for it\n"
    assert drawn(line(Back("Mic", 48000, 2.0))) == "0:00:02.00  back: Mic at 48000 Hz\n"


def test_drawing_is_bounded_and_keeps_the_log_above(monkeypatch):
    """However often it is called it draws ten times a second."""
    now, asked = 0.0, []
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(display, "status", lambda *_: asked.append(now) or STATUS)
    out = io.StringIO()
    console = Console(width=80, file=out, force_terminal=True, color_system=None)
    with Display(None, None, console) as screen:
        for block in range(300):  # three seconds in blocks of 10 ms
            now = block / 100
            if block == 200:
                screen.tell(Event("stop", 2.0, 0.9))
            screen.draw()
    assert 28 <= len(asked) <= 31
    text = out.getvalue()
    assert "0:00:02.00  stop  0.90\n" in text and text.index("stop  0.90") < text.rindex("real-time factor")


def test_level():
    level, t = Level(16000), np.arange(16000) / 16000
    assert (level.rms, level.peak) == (-120, -120)
    for block in np.split(0.5 * np.sin(2 * np.pi * 1000 * t), 100):
        level.add(block[:, None])
    assert level.rms == pytest.approx(20 * math.log10(0.5) - 3.01, abs=0.05)
    assert level.peak == pytest.approx(20 * math.log10(0.5), abs=0.01)
    for bad in (np.nan, np.inf, 1e30):
        level.add(np.full((160, 2), bad, np.float32))
    for _ in range(50):
        level.add(np.zeros((160, 1), np.float32))
    assert level.rms < -20 and level.peak == pytest.approx(-6.02, abs=0.01)  # the peak is held
    for _ in range(120):
        level.add(np.zeros((160, 1), np.float32))
    assert level.peak == -120

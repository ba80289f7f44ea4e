"""The live display of `audiossm listen`: what one sees of a listener on a terminal."""

import os
import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from audiossm.streaming import Event, Listener, Lost, Microphone, News

PERIOD = 0.1  # seconds between two drawings
WORDS = 5  # how many words have a bar
QUIETEST = -60.0  # dBFS: where the meter begins
LOUD = -3.0  # dBFS: a peak above it is red
LATE = 0.25  # seconds behind, shown in red from here


@dataclass(frozen=True)
class Status:
    """What the display shows. Levels in dBFS, times in seconds; words are (label, probability), the likeliest first."""

    model: str
    device: str
    rate: int
    time: float
    level: float
    peak: float
    words: list[tuple[str, float]]
    real_time_factor: float
    behind: float
    dropped: float
    latency: float
    device_latency: float
    waiting: bool = False


def status(listener: Listener, microphone: Microphone) -> Status:
    """Look at a listener to a microphone."""
    meta, stream = listener.model.metadata, listener.stream
    words = sorted(zip(meta.labels, map(float, stream.posteriors), strict=True), key=lambda word: -word[1])
    return Status(
        model=listener.model.name,
        device=microphone.device.name,
        rate=microphone.rate,
        time=listener.time,
        level=listener.level.rms,
        peak=listener.level.peak,
        words=words[:WORDS],
        real_time_factor=listener.real_time_factor,
        behind=microphone.behind,
        dropped=microphone.dropped,
        latency=meta.latency / meta.rate,
        device_latency=microphone.latency,
        waiting=listener.waiting,
    )


def panel(now: Status) -> RenderableType:
    """Draw the part that changes: where it listens, the meter, the likeliest words, and how well it keeps up."""
    where = Text(f"{now.device} at {now.rate} Hz", "bold")
    if now.waiting:
        where = Text(f"{now.device} is lost: waiting for it", "bold red")
    head = Table.grid(expand=True)
    head.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    head.add_column(justify="right", no_wrap=True)
    head.add_row(where, clock(now.time))

    rows = Table.grid(padding=(0, 1), expand=True)
    rows.add_column(min_width=8, no_wrap=True)
    rows.add_column(ratio=1)
    rows.add_column(justify="right", no_wrap=True, min_width=23)
    meter = Bar(_place(now.level), "red" if now.peak > LOUD else "green", mark=_place(now.peak))
    rows.add_row("level", meter, Text(f"{now.level:.0f} dBFS, peak {now.peak:.0f}"))
    for label, probability in now.words:
        style = "bright_black" if label.startswith("_") else "cyan"
        rows.add_row(Text(label, style), Bar(probability, style), Text(f"{probability:.2f}", style))

    behind = "waiting" if now.waiting else f"behind by {1000 * now.behind:.0f} ms"
    health = Text.assemble(
        f"real-time factor {now.real_time_factor:.3f}   ",
        (behind, "bold red" if now.waiting or now.behind > LATE else ""),
        "   ",
        (f"dropped {now.dropped:.1f} s", "bold red" if now.dropped else ""),
        f"\nlatency {1000 * now.latency:.0f} ms and {1000 * now.device_latency:.0f} ms in the device",
        no_wrap=True,
        overflow="ellipsis",
    )
    return Panel(Group(head, rows, health), title=Text(now.model), title_align="left", border_style="bright_black")


def line(news: News) -> Text:
    """One line of the log above the panel."""
    stamp = Text(f"{clock(news.time)}  ", "dim")
    if isinstance(news, Event):
        return stamp.append(news.label, "bold green").append(f"  {news.score:.2f}", "default")
    if isinstance(news, Lost):
        return stamp.append(f"lost {news.device}: waiting for it", "bold red")
    return stamp.append(f"back: {news.device} at {news.rate} Hz", "bold")


class Display:
    """Draw a listener on a terminal, at most ten times a second, and keep a log of what it recognised above."""

    def __init__(self, listener: Listener, microphone: Microphone, console: Console) -> None:
        self._listener, self._microphone = listener, microphone
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = float("-inf")

    def tell(self, news: News) -> None:
        """Add a line to the log."""
        self._live.console.print(line(news), highlight=False)

    def draw(self) -> None:
        """Draw what is now, unless that was done a moment ago. Call it as often as you like."""
        now = time.monotonic()
        if now - self._drawn >= PERIOD:
            self._drawn = now
            self._live.update(panel(status(self._listener, self._microphone)), refresh=True)

    def __enter__(self) -> "Display":
        # The sound libraries write on stderr when a device goes, which would leave rubbish in the drawing.
        self._stderr = os.dup(2)
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        os.dup2(self._stderr, 2)
        os.close(self._stderr)


@dataclass(frozen=True)
class Bar:
    """A bar as wide as there is room: `value` and the place of a `mark` from 0 to 1."""

    value: float
    style: str
    mark: float = 0.0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        cells = ["█" if cell < round(self.value * width) else " " for cell in range(width)]
        if self.mark:
            cells[round(self.mark * (width - 1))] = "│"
        yield Text("".join(cells), self.style, no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(4, options.max_width)


def _place(level: float) -> float:
    """Where a level in dBFS is on the meter, from 0 to 1."""
    return min(1.0, max(0.0, 1 - level / QUIETEST))


def clock(seconds: float) -> str:
    """Hours, minutes and seconds to a hundredth: 0:01:23.45."""
    hundredths = int(seconds * 100)
    return f"{hundredths // 360000}:{hundredths // 6000 % 60:02}:{hundredths // 100 % 60:02}.{hundredths % 100:02}"

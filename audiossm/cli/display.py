"""The live display of `audiossm listen`: what one sees of a listener on a terminal."""

import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from audiossm.streaming import Event, Listener, Lost, Microphone, News

PERIOD = 0.1  # seconds between two drawings
WORDS = 5  # how many words have a bar
LABEL, FIGURES = 10, 18  # columns left and right of the bars
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


@dataclass(frozen=True)
class Screen:
    """The part that changes: where it listens, the meter, the likeliest words, and how well it keeps up."""

    now: Status

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now, width = self.now, options.max_width
        if now.waiting:
            where = (f"{now.device} is lost: waiting for it", "bold red")
        else:
            where = (f"{now.device} at {now.rate} Hz", "bold")
        yield spread(Text.assemble(where), clock(now.time), width)

        room = width - LABEL - FIGURES - 2
        style = "red" if now.peak > LOUD else "green"
        meter = bar(place(now.level), room, mark=place(now.peak))
        yield row("level", meter, f"{now.level:.0f} dBFS, peak {now.peak:.0f}", style)
        for label, probability in now.words:
            style = "bright_black" if label.startswith("_") else "cyan"
            yield row(label, bar(probability, room), f"{probability:.2f}", style)

        behind = "waiting" if now.waiting else f"behind by {1000 * now.behind:.0f} ms"
        keeping_up = Text.assemble(
            f"real-time factor {now.real_time_factor:.3f}   ",
            (behind, "bold red" if now.waiting or now.behind > LATE else ""),
            "   ",
            (f"dropped {now.dropped:.1f} s", "bold red" if now.dropped else ""),
        )
        yield spread(keeping_up, "", width)
        latency = f"latency {1000 * now.latency:.0f} ms and {1000 * now.device_latency:.0f} ms in the device"
        yield spread(Text(latency), "", width)


def panel(now: Status) -> RenderableType:
    """Draw the display's lower part, as wide as the terminal."""
    return Panel(Screen(now), title=Text(now.model), title_align="left", border_style="bright_black")


def line(news: News) -> Text:
    """One line of the log above the panel."""
    stamp = (f"{clock(news.time)}  ", "dim")
    if isinstance(news, Event):
        return Text.assemble(stamp, (news.label, "bold green"), f"  {news.score:.2f}")
    if isinstance(news, Lost):
        return Text.assemble(stamp, (f"lost {news.device}: waiting for it", "bold red"))
    return Text.assemble(stamp, (f"back: {news.device} at {news.rate} Hz", "bold"))


class Drawing(ABC):
    """Draw what `look` returns on a terminal, at most ten times a second."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = float("-inf")

    @abstractmethod
    def look(self) -> RenderableType:
        """Return what is to be seen now."""

    def draw(self) -> None:
        """Draw what is now, unless that was done a moment ago. Call it as often as you like."""
        now = time.monotonic()
        if now - self._drawn >= PERIOD:
            self._drawn = now
            self._live.update(self.look(), refresh=True)

    def __enter__(self) -> Self:
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


class Display(Drawing):
    """Draw a listener, and keep a log of what it recognised above."""

    def __init__(self, listener: Listener, microphone: Microphone, console: Console) -> None:
        super().__init__(console)
        self._listener, self._microphone = listener, microphone

    def tell(self, news: News) -> None:
        """Add a line to the log."""
        self._live.console.print(line(news), highlight=False)

    def look(self) -> RenderableType:
        """Look at the listener."""
        return panel(status(self._listener, self._microphone))


def row(label: str, middle: str, figures: str, style: str) -> Text:
    """A line of the panel: what it is about, a bar, and its figures at the right."""
    name = Text(label)
    name.truncate(LABEL, overflow="ellipsis", pad=True)
    return Text.assemble(name, " ", (middle, style), " ", figures.rjust(FIGURES), no_wrap=True)


def spread(left: Text, right: str, width: int) -> Text:
    """A line with text at both ends; the left one is cut where they do not fit."""
    left.truncate(max(0, width - len(right)), overflow="ellipsis", pad=True)
    left.no_wrap = True
    return left.append(right)


def bar(value: float, width: int, mark: float = 0.0) -> str:
    """A bar as long as `value`, from 0 to 1 of the width, and a mark."""
    cells = ["█" if cell < round(value * width) else " " for cell in range(width)]
    if mark and cells:
        cells[round(mark * (width - 1))] = "│"
    return "".join(cells)


def place(level: float) -> float:
    """Where a level in dBFS is on the meter, from 0 to 1."""
    return min(1.0, max(0.0, 1 - level / QUIETEST))


def clock(seconds: float) -> str:
    """Hours, minutes and seconds to a hundredth: 0:01:23.45."""
    hundredths = int(seconds * 100)
    return f"{hundredths // 360000}:{hundredths // 6000 % 60:02}:{hundredths // 100 % 60:02}.{hundredths % 100:02}"

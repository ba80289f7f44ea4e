"""`audiossm denoise --live`: what one sees and can press."""

import json
from contextlib import ExitStack
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.panel import Panel
from rich.text import Text

from audiossm.cli.display import FIGURES, LABEL, LOUD, Drawing, bar, clock, place, row, spread
from audiossm.cli.keys import keys
from audiossm.cli.lines import remark
from audiossm.streaming import Enhancer, Level, Microphone
from audiossm.streaming.enhancement.live import Live


@dataclass(frozen=True)
class Meters:
    """Where it hears and plays, both levels, how late it is and how well it keeps up."""

    live: Live

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        live, width = self.live, options.max_width
        where = (f"{route(live)} is lost: waiting for it", "bold red") if live.waiting else (route(live), "bold")
        yield spread(Text.assemble(where), clock(live.heard), width)
        yield meter("in", live.level_in, width)
        yield meter("out", live.level_out, width)
        yield spread(
            Text.assemble(
                f"latency {1000 * live.latency:.0f} ms, {1000 * live.delay:.0f} with the devices   "
                f"real-time factor {live.real_time_factor:.3f}   ",
                *trouble(live),
            ),
            "",
            width,
        )
        bypass = ("b: BYPASSED, b cleans again", "bold yellow") if live.bypassed else ("b: bypass", "dim")
        yield spread(Text.assemble(bypass, ("   q: end", "dim")), "", width)


def route(live: Live) -> str:
    """Where it hears and plays."""
    return f"{live.microphone.device.name} to {live.playback.device.name} at {live.stream.rate} Hz"


def meter(name: str, level: Level, width: int) -> Text:
    """A level as a bar."""
    style = "red" if level.peak > LOUD else "green"
    shown = bar(place(level.rms), width - LABEL - FIGURES - 2, mark=place(level.peak))
    return row(name, shown, f"{level.rms:.0f} dBFS, peak {level.peak:.0f}", style)


def trouble(live: Live) -> list[tuple[str, str]]:
    """Say what went wrong so far, red."""
    counts = {
        f"stuttered {live.stuttered} times": live.stuttered,
        f"passed {live.passed:.1f} s": live.passed,
        f"dropped {live.microphone.dropped:.1f} s": live.microphone.dropped,
    }
    return [(f"{text}   ", "bold red") for text, count in counts.items() if count]


class Screen(Drawing):
    """The meters on a terminal."""

    def __init__(self, live: Live, console: Console) -> None:
        super().__init__(console)
        self._shown = live

    def look(self) -> RenderableType:
        """Look at the meters."""
        title = Text(self._shown.model.name)
        return Panel(Meters(self._shown), title=title, title_align="left", border_style="bright_black")


def run_live(
    model: Enhancer, device: str | None, output: str | None, latency: float, strength: float, as_json: bool
) -> None:
    """Clean the microphone until Ctrl-C or q; then say how it went."""
    console = Console()
    with ExitStack() as opened:
        microphone = opened.enter_context(Microphone(device, buffer=0.5))
        live = opened.enter_context(Live(model, microphone, output, latency, strength))
        screen = None
        if console.is_terminal and not console.is_dumb_terminal and not as_json:
            screen = opened.enter_context(Screen(live, console))
        else:
            remark(f"{route(live)}; Ctrl-C ends")
        lost = False
        pressed = opened.enter_context(keys())
        try:
            for _ in live.turns():
                key = pressed()
                if key == "b":
                    live.bypassed = not live.bypassed
                elif key == "q":
                    break
                if screen:
                    screen.draw()
                elif live.waiting != lost:
                    lost = live.waiting
                    remark("a device is lost: waiting for it, Ctrl-C ends" if lost else f"{route(live)} again")
        except KeyboardInterrupt:
            pass  # the way to end it, not an error
    facts = {
        "seconds": live.heard,
        "real_time_factor": live.real_time_factor,
        "latency_ms": 1000 * live.latency,
        "rate": live.stream.rate,
        "stuttered": live.stuttered,
        "passed_seconds": live.passed,
        "dropped_seconds": microphone.dropped,
        "losses": live.losses,
    }
    if as_json:
        print(json.dumps(facts))
        return
    print(
        f"{live.heard:.1f} s cleaned, latency {1000 * live.latency:.0f} ms and the devices', "
        f"real-time factor {live.real_time_factor:.4f}"
        + "".join(f", {text.strip()}" for text, _ in trouble(live))
        + (f", a device lost {live.losses} times" if live.losses else "")
    )

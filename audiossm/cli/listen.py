"""`audiossm listen`: report the keywords in live audio or in a file."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from audiossm.cli.app import app

if TYPE_CHECKING:
    from audiossm.cli.display import Display
    from audiossm.streaming import Listener, Microphone


@app.command()
def listen(
    model: Annotated[str, typer.Argument(help="A model file, or a released model's name.")],
    device: Annotated[
        str | None,
        typer.Option(help="The microphone: an index or a part of its name (see `audiossm devices`)."),
    ] = None,
    input: Annotated[str | None, typer.Option(help="Listen to this sound file instead.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Report the keywords heard by a microphone, or in a file, as they are detected. Ctrl-C ends it.

    On a terminal a microphone is shown live: its level, the likeliest words, and how well this machine keeps up.
    A microphone that is unplugged is waited for.

    Examples: `audiossm listen kw.onnx`, `audiossm listen kw.onnx --input speech.wav --json`
    """
    from audiossm.cli.lines import Lines, remark
    from audiossm.streaming import AudioFile, Event, Listener, Lost, Microphone, load_keywords

    if device is not None and input is not None:
        raise typer.BadParameter("give --device or --input, not both")
    loaded = load_keywords(model)
    source: AudioFile | Microphone = AudioFile(input) if input is not None else Microphone(device)
    listener = Listener(loaded, source)
    lines, display = Lines(as_json), None
    keywords = losses = 0
    try:
        with ExitStack() as opened:
            opened.enter_context(source)
            if isinstance(source, Microphone):
                if not as_json:
                    display = opened.enter_context(on_terminal(listener, source))
                if display is None:
                    remark(f"listening to {source.device.name} at {source.rate} Hz; Ctrl-C ends")
            for turn in listener.news():
                for news in turn:
                    keywords += isinstance(news, Event)
                    losses += isinstance(news, Lost)
                    (display or lines).tell(news)
                if display:
                    display.draw()
    except KeyboardInterrupt:
        pass  # the way to end it, not an error
    summary = f"{listener.heard:.1f} s heard, {keywords} keywords, real-time factor {listener.real_time_factor:.4f}"
    if isinstance(source, Microphone):
        if source.dropped:
            summary += f", {source.dropped:.1f} s dropped: this machine is too slow"
        if source.overflows:
            summary += f", input lost {source.overflows} times"
        if losses:
            summary += f", device lost {losses} times"
    remark(summary)


def on_terminal(listener: "Listener", microphone: "Microphone") -> "AbstractContextManager[Display | None]":
    """Give the live display where there is a screen to draw on, else nothing."""
    from rich.console import Console

    from audiossm.cli.display import Display

    console = Console()
    if console.is_terminal and not console.is_dumb_terminal:
        return Display(listener, microphone, console)
    return nullcontext()

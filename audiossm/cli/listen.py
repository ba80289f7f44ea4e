"""`audiossm listen`: report the keywords in live audio or in a file."""

import json
import sys
import time
from typing import Annotated

import typer

from audiossm.cli.app import app


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

    Examples: `audiossm listen kw.onnx`, `audiossm listen kw.onnx --input speech.wav --json`
    """
    from audiossm.streaming import AudioFile, Event, Microphone, load

    if device is not None and input is not None:
        raise typer.BadParameter("give --device or --input, not both")
    loaded = load(model)

    def show(events: list[Event]) -> int:
        for event in events:
            if as_json:
                fields = {"label": event.label, "time": round(event.time, 3), "score": round(event.score, 4)}
                line = json.dumps({"event": "keyword", **fields})
            else:
                line = f"{event.time:7.2f} s  {event.label}  {event.score:.2f}"
            print(line, flush=True)
        return len(events)

    source: AudioFile | Microphone = AudioFile(input) if input is not None else Microphone(device)
    stream = loaded.stream(source.rate)
    heard, keywords, cpu = 0.0, 0, time.process_time()
    try:
        with source:
            if isinstance(source, Microphone):
                where = f"listening to {source.device.name} at {source.rate} Hz; Ctrl-C ends"
                print(where, file=sys.stderr, flush=True)
            for chunk in source.blocks():
                keywords += show(stream.push(chunk))
                heard = stream.seconds
            keywords += show(stream.flush())
    except KeyboardInterrupt:
        pass  # the way to end it, not an error
    factor = (time.process_time() - cpu) / heard if heard else 0.0
    summary = f"{heard:.1f} s heard, {keywords} keywords, real-time factor {factor:.4f}"
    if isinstance(source, Microphone) and source.dropped:
        summary += f", {source.dropped:.1f} s dropped: this machine is too slow"
    if isinstance(source, Microphone) and source.overflows:
        summary += f", input lost {source.overflows} times"
    print(summary, file=sys.stderr)

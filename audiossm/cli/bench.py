"""`audiossm bench`: measure a model on this machine."""

import json
from typing import Annotated

import typer

from audiossm.cli.app import app

UNITS = {
    "real_time_factor": "CPU time / audio time",
    "frame_us_p50": "us a frame, median",
    "frame_us_p99": "us a frame, 99 of 100 are faster",
    "latency_ms": "ms, of the algorithm",
    "rss_mib": "MiB, of this process",
    "rss_growth_mib": "MiB more than after the first two seconds",
    "state_bytes": "bytes a stream remembers",
    "params": "trained parameters",
    "rate": "Hz",
    "seconds": "s of audio measured",
}


@app.command()
def bench(
    model: Annotated[str, typer.Argument(help="A model file, or a released model's name.")],
    rate: Annotated[
        int | None, typer.Option(help="Sampling rate of the audio in Hz; the model's own if left out.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of audio to measure.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure how fast a model runs on this machine, one thread, frame by frame, and what memory it needs.

    Example: `audiossm bench kw.onnx --rate 44100 --json`

    Does its memory grow? An hour of audio takes some twenty seconds: `audiossm bench kw.onnx --seconds 3600`
    """
    from rich.console import Console
    from rich.table import Table

    from audiossm.streaming import load, measure

    figures = measure(load(model), rate, seconds)
    if as_json:
        print(json.dumps(figures))
        return
    table = Table("figure", "value", "unit", title=model)
    for name, value in figures.items():
        table.add_row(
            name,
            "unknown" if value is None else f"{value:,.5g}" if isinstance(value, float) else f"{value:,}",
            UNITS[name],
        )
    Console().print(table)

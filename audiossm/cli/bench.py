"""`audiossm bench`: measure a model on this machine."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiossm.cli.app import app

if TYPE_CHECKING:
    from audiossm.streaming import Generator

UNITS = {
    "engine": "runs it fastest here; below its figures",
    "real_time_factor": "CPU time / audio time",
    "samples_per_second": "of all streams together",
    "sample_us": "us a sample",
    "sample_us_p50": "us, one sample asked for alone: median",
    "sample_us_p99": "us, 99 of 100 are faster",
    "batch": "streams at once",
    "frame_us_p50": "us a frame, median",
    "frame_us_p99": "us a frame, 99 of 100 are faster",
    "frame_us_p999": "us a frame, 999 of 1000 are faster",
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
    batch: Annotated[int, typer.Option(min=1, help="Streams at once, of a model that generates.")] = 1,
    runaway: Annotated[
        int, typer.Option(min=0, help="Also generate so many minutes, and count those whose level leaves its range.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure how fast a model runs on this machine, one thread, frame by frame, and what memory it needs.

    Example: `audiossm bench kw.onnx --rate 44100 --json`

    Does its memory grow? An hour of audio takes some twenty seconds: `audiossm bench kw.onnx --seconds 3600`
    """
    from audiossm.streaming import Generator, load, measure

    loaded = load(model)
    if isinstance(loaded, Generator):
        if rate is not None:
            raise typer.BadParameter("a model that generates has its own rate: leave out --rate")
        generation(loaded, seconds, batch, runaway, as_json)
        return
    if batch > 1 or runaway:
        raise typer.BadParameter(f"{model} does not generate: leave out --batch and --runaway")
    figures = measure(loaded, rate, seconds)
    if as_json:
        print(json.dumps(figures))
    else:
        show(model, figures)


def generation(model: "Generator", seconds: float, batch: int, runaway: int, as_json: bool) -> None:
    """Measure a model that generates."""
    from audiossm.cli.waiting import bar
    from audiossm.streaming.generation.measure import measure_generation, measure_runaway

    figures = measure_generation(model, seconds, batch)
    if runaway:
        with bar("minutes", 60 * runaway, 1) as tell:
            figures["runaway"] = measure_runaway(model, runaway, tell=tell)
    if as_json:
        print(json.dumps(figures))
        return
    engines, ran = figures.pop("engines"), figures.pop("runaway", None)
    show(model.name, figures)
    for name, each in engines.items():
        print(f"{name}: {each['sample_us']:.1f} us a sample, real-time factor {each['real_time_factor']:.3f}")
    if ran:
        sure = "95 % interval {:.0f} to {:.0f} %".format(*(100 * x for x in ran["ci95"]))
        print(f"{ran['left']} of {ran['n']} minutes left the level of the training data ({sure})")


def show(model: str, figures: dict[str, Any]) -> None:
    """Print figures as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value", "unit", title=model)
    for name, value in figures.items():
        text = f"{value:,.5g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
        table.add_row(name, "unknown" if value is None else text, UNITS[name])
    Console().print(table)

"""`audiossm evaluate`: how well a model does, at any sampling rate."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from audiossm.cli.app import app


@app.command()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Run folder, ONNX file or released model's name; several seeds of a recipe give their mean."
        ),
    ],
    data: Annotated[Path, typer.Option(help="A folder per word, or manifest.csv.")],
    rates: Annotated[str, typer.Option(help="Sampling rates in Hz, separated by commas.")] = "16000",
    split: Annotated[str, typer.Option(help="Which clips; a folder without splits is used whole.")] = "test",
    label_column: Annotated[str, typer.Option(help="The manifest's column that holds the labels.")] = "label",
    highband: Annotated[
        bool, typer.Option("--highband", help="At rates above the model's, also add sound that only they can hold.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure accuracy at each sampling rate, with a 95 % interval and beside resampling first.

    "decimated" takes every k-th sample with no filter, the literature's test; "over native" is the difference to the
    model's own rate on the same clips, with its 95 % interval.

    Example: audiossm evaluate runs/kw --data speech_commands/ --rates 8000,16000,44100
    """
    from audiossm.training.evaluate import evaluate_model

    try:
        asked = [int(rate) for rate in rates.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{rates!r} is not a list of rates in Hz such as 8000,16000") from None
    console = Console(stderr=True)
    with console.status("evaluating"):
        report = evaluate_model(models, data, asked, split, label_column, highband, console.print)
    if as_json:
        typer.echo(json.dumps(report))
        return
    title = f"{', '.join(models)} on {report['n']} clips: accuracy in %"
    table = Table(title=title)
    for column in ("rate", "accuracy", "95 % interval", "over native", "decimated", "resampled first", "highband"):
        table.add_column(column, justify="right")
    for rate, row in report["rates"].items():
        low, high = row["ci95"]
        gain = row["over_native"]
        table.add_row(
            f"{rate} Hz",
            f"{row['accuracy']:.2f}",
            f"{low:.1f} – {high:.1f}",
            f"{gain['points']:+.2f} ({gain['ci95'][0]:+.1f} – {gain['ci95'][1]:+.1f})",
            *("" if row[name] is None else f"{row[name]:.2f}" for name in ("decimated", "resampled_first", "highband")),
        )
    Console().print(table)

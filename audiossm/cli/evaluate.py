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
    model: Annotated[str, typer.Argument(help="Run folder, ONNX file or released model's name.")],
    data: Annotated[Path, typer.Option(help="A folder per word, or manifest.csv.")],
    rates: Annotated[str, typer.Option(help="Sampling rates in Hz, separated by commas.")] = "16000",
    split: Annotated[str, typer.Option(help="Which clips; a folder without splits is used whole.")] = "test",
    label_column: Annotated[str, typer.Option(help="The manifest's column that holds the labels.")] = "label",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure accuracy at each sampling rate, with a 95 % interval and beside resampling first.

    "decimated" takes every k-th sample with no filter, the literature's test.

    Example: audiossm evaluate runs/kw --data speech_commands/ --rates 8000,16000,44100
    """
    from audiossm.training.evaluate import evaluate_model

    try:
        asked = [int(rate) for rate in rates.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{rates!r} is not a list of rates in Hz such as 8000,16000") from None
    console = Console(stderr=True)
    with console.status("evaluating"):
        report = evaluate_model(model, data, asked, split, label_column, say=console.print)
    if as_json:
        typer.echo(json.dumps(report))
        return
    table = Table(title=f"{model} on {report['n']} clips: accuracy in %")
    for column in ("rate", "accuracy", "95 % interval", "decimated", "resampled first"):
        table.add_column(column, justify="right")
    for rate, row in report["rates"].items():
        low, high = row["ci95"]
        plain = "" if row["decimated"] is None else f"{row['decimated']:.2f}"
        table.add_row(
            f"{rate} Hz",
            f"{row['accuracy']:.2f}",
            f"{low:.1f} – {high:.1f}",
            plain,
            f"{row['resampled_first']:.2f}",
        )
    Console().print(table)

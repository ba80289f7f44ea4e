"""`audiossm tune`: choose a model file's detector on validation data."""

import json
from pathlib import Path
from typing import Annotated

import typer

from audiossm.cli.app import app


@app.command()
def tune(
    model: Annotated[Path, typer.Argument(help="ONNX file to change.")],
    data: Annotated[Path, typer.Option(help="A folder per word, or manifest.csv.")],
    noise: Annotated[
        list[Path] | None, typer.Option(help="Folder of recordings without any keyword; may be given several times.")
    ] = None,
    speech: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of other speech, best without the keywords; may be given several times."),
    ] = None,
    false_alarms: Annotated[float, typer.Option(help="Events an hour to allow where no word is said.")] = 0.5,
    split: Annotated[str, typer.Option(help="Which clips; a folder without splits is used whole.")] = "val",
    label_column: Annotated[str, typer.Option(help="The manifest's column that holds the labels.")] = "label",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Choose smoothing, threshold and refractory time on long streams of validation clips, and store them in the file.

    Example: audiossm tune kw.onnx --data speech_commands/ --noise noise/ --speech talks/
    """
    from rich.console import Console

    from audiossm.training.tune import tune

    console = Console(stderr=True, soft_wrap=True)
    with console.status("listening"):
        done = tune(model, data, split, noise or [], speech or [], false_alarms, label_column, say=console.print)
    if as_json:
        typer.echo(json.dumps(done))
        return
    chosen = done["detector"]
    typer.echo(
        f"{model}: smoothing {chosen['smoothing']:g} s, threshold {chosen['threshold']:g}, "
        f"refractory {chosen['refractory']:g} s; on {split} {done['miss_rate']:.1f} % of {done['words']} words missed, "
        f"{done['false_alarms']} false alarms in {done['hours']:.2f} h"
    )

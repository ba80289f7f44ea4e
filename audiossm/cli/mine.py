"""`audiossm mine`: hard negatives out of long recordings."""

import json
from pathlib import Path
from typing import Annotated

import typer

from audiossm.cli.app import app


@app.command()
def mine(
    model: Annotated[str, typer.Argument(help="ONNX file or released model's name.")],
    recordings: Annotated[Path, typer.Option(help="Folder of recordings in which no keyword is said.")],
    out: Annotated[Path, typer.Option(help="Data folder; the clips go to its `_other_`.")],
    score: Annotated[float, typer.Option(help="Smoothed probability from which on a label counts as heard.")] = 0.3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Cut out every second that the model takes for a keyword, to train on as other sound.

    A keyword that is really said in the recordings would be learnt as none: give recordings that hold none.

    Example: audiossm mine kw.onnx --recordings radio/ --out mined/
    """
    from rich.console import Console
    from rich.progress import Progress

    from audiossm.training.mine import mine

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("listening", total=None)
        found = mine(model, recordings, out, score, lambda seconds, of: bar.update(task, completed=seconds, total=of))
    labels = dict(found.labels.most_common())
    if as_json:
        report = {"folder": str(found.folder), "clips": found.clips, "labels": labels}
        typer.echo(json.dumps(report | {"seconds": round(found.seconds, 3)}))
        return
    typer.echo(f"{found.clips} clips from {found.seconds / 60:.1f} min in {found.folder}")
    for label, clips in labels.items():
        typer.echo(f"{clips:6d}  {label}")

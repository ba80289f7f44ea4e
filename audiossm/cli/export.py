"""`audiossm export`: a run folder becomes a model file."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from audiossm.cli.app import app


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder that `audiossm train` left.")],
    out: Annotated[Path, typer.Option(help="ONNX file to write.")],
    rate: Annotated[
        int | None,
        typer.Option(
            help="Bake in another rate in Hz: for engines that cannot exchange constants, and for models on the raw "
            "waveform, whose file hears one rate alone."
        ),
    ] = None,
    data_terms: Annotated[
        str, typer.Option(help="What the training data's licence permits; kept in the file.")
    ] = "not stated",
    golden: Annotated[
        Path | None, typer.Option(help="Also write golden vectors (JSON), to check an embedding in another language.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write one ONNX file that hears every sampling rate, verified frame by frame against the module.

    A model on the raw waveform (recipe paper-s4d) becomes a file for one rate. One that generates becomes a file for
    each of its tiers, gen.onnx, gen.tier1.onnx ..., which stay together.

    Example: audiossm export runs/kw --out kw.onnx
    """
    from audiossm.export import export_enhancement, export_generation, export_keywords, write_golden
    from audiossm.streaming.metadata import COMMANDS
    from audiossm.tasks.checkpoint import task_of

    task = task_of(run)
    if task != "keywords" and rate is not None:
        raise typer.BadParameter(f"{run} is a model for {task}: leave out --rate, which is for keywords")
    if task == "keywords":
        done = export_keywords(run, out, rate, data_terms)
    else:
        done = (export_generation if task == "generation" else export_enhancement)(run, out, data_terms)
    if golden is not None:
        write_golden(out, golden)
    if as_json:
        typer.echo(json.dumps(asdict(done) | {"path": str(done.path)}))
    else:
        typer.echo(
            f"{done.path}: {done.bytes / 1e6:.1f} MB, {done.nodes} nodes, equal to the module to {done.error:.0e}; "
            f"try: {COMMANDS[task].format(out)}"
        )

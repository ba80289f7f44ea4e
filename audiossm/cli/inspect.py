"""`audiossm inspect`: show what a model file says about itself."""

import json
from typing import Annotated, Any

import typer

from audiossm.cli.app import app


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A model file, or a released model's name.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what a model file holds: task, labels, rates, latency, state, training and the terms of its data.

    Example: `audiossm inspect kw.onnx`
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from audiossm.streaming import Generator, load

    loaded = load(model)
    facts = loaded.facts.summary() if isinstance(loaded, Generator) else loaded.metadata.summary()
    if as_json:
        print(json.dumps(facts))
        return
    table = Table("key", "value", title=model, show_lines=True)
    for name, value in facts.items():
        table.add_row(name, Text(_text(value)))
    Console().print(table)


def _text(value: Any) -> str:
    """Lists in a line, dicts and lists of dicts a line each."""
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_text(part)}" for name, part in value.items())
    if isinstance(value, list):
        joint = "\n" if any(isinstance(part, dict) for part in value) else ", "
        return joint.join(
            "  ".join(f"{k} {v}" for k, v in part.items()) if isinstance(part, dict) else str(part) for part in value
        )
    return str(value)

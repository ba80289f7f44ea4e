"""`audiossm devices`: list the microphones, or the speakers."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from audiossm.cli.app import app


@app.command()
def devices(
    output: Annotated[bool, typer.Option("--output", help="Those that play, for `audiossm denoise --output`.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list.")] = False,
) -> None:
    """List the input devices that `audiossm listen --device` can use.

    Example: `audiossm devices`
    """
    from rich.console import Console
    from rich.table import Table

    from audiossm.streaming import input_devices, output_devices

    found = output_devices() if output else input_devices()
    if as_json:
        print(json.dumps([asdict(device) for device in found]))
        return
    if not found:
        print("no output device: connect a speaker" if output else "no input device: connect a microphone")
        return
    table = Table("index", "name", "sound system", "channels", "rate", "default")
    for device in found:
        table.add_row(
            str(device.index),
            device.name,
            device.host,
            str(device.channels),
            f"{device.rate} Hz",
            "yes" if device.default else "",
        )
    Console().print(table)

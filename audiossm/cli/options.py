"""Options whose text holds more than a word or a number."""

from pathlib import Path

import typer


def whole_numbers(text: str) -> tuple[int, ...]:
    """Read '4,4'; 'none' is no number."""
    try:
        return () if text == "none" else tuple(int(number) for number in text.replace(",", " ").split())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of pools such as 4,4, nor 'none'") from None


def column_value(text: str) -> tuple[str, str]:
    """Read 'column=value'."""
    column, equals, value = text.partition("=")
    if not (column and equals and value):
        raise typer.BadParameter(f"--where takes column=value, such as language=en, not {text!r}")
    return column, value


def span(text: str | None) -> tuple[float, float] | None:
    """Read '-5,20', from low to high; None stays."""
    if text is None:
        return None
    try:
        low, high = (float(number) for number in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a range from low to high, such as -5,20") from None
    return low, high


def named_folders(texts: list[str] | None) -> dict[str, Path]:
    """Read 'NAME=DIR', several."""
    found = {}
    for text in texts or ():
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise typer.BadParameter(f"--beside takes NAME=DIR, not {text!r}")
        if name in ("noisy", "model"):
            raise typer.BadParameter(f"--beside cannot be named {name!r}: that row is there already")
        found[name] = Path(folder)
    return found

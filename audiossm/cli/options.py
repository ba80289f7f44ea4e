"""Options whose text holds more than a word or a number."""

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

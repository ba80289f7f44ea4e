"""What a command does while one waits: a progress bar in seconds of audio, and how it is stopped."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(what: str, samples: int, rate: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show how much of `samples` is done, on a terminal; yields what is to be told the number."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(what), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal), transient=True) as progress:
        task = progress.add_task(what, total=samples, text="")

        def tell(made: int) -> None:
            text = f"{made / rate:.1f} of {samples / rate:.1f} s"
            progress.update(task, completed=made, text=text)

        yield tell


@contextmanager
def stopped_as_by_hand() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, so that no half a file stays."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

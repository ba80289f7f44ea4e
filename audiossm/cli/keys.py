"""Single keys from a terminal, without waiting for them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def keys() -> Iterator[Callable[[], str]]:
    """Yield a function that returns the key pressed since it was last asked, "" if none, as ever without a terminal."""
    if not sys.stdin or not sys.stdin.isatty():
        yield lambda: ""
    elif sys.platform == "win32":
        import msvcrt

        yield lambda: msvcrt.getwch() if msvcrt.kbhit() else ""
    else:
        import os
        import select
        import termios
        import tty

        place = sys.stdin.fileno()

        def pressed() -> str:
            return os.read(place, 1).decode(errors="replace") if select.select([place], [], [], 0)[0] else ""

        before = termios.tcgetattr(place)
        tty.setcbreak(place)  # Ctrl-C goes on working
        try:
            yield pressed
        finally:
            termios.tcsetattr(place, termios.TCSADRAIN, before)

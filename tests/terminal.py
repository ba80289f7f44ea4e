"""A program in a terminal of its own: what it shows, keys for it, and how it leaves the terminal."""

import contextlib
import os
import pty
import subprocess
import threading
import time


class Terminal:
    """Runs a command; `process` is it. The environment is added to by TERM and the terminal's size."""

    def __init__(self, command, environment, columns):
        self.own, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command,
            env=environment | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "30"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self.seen = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        with contextlib.suppress(OSError):  # the other side is closed
            while piece := os.read(self.own, 65536):
                self.seen.append(piece)

    def wait_for(self, text, seconds=60):
        end = time.monotonic() + seconds
        while text not in b"".join(self.seen).decode(errors="replace"):
            assert time.monotonic() < end, (text, b"".join(self.seen)[-3000:])
            time.sleep(0.05)

    def press(self, key):
        os.write(self.own, key)

    def check(self, *wanted):
        """What the program, which has ended, has shown, and that the cursor is back."""
        self.reader.join(60)
        text = b"".join(self.seen).decode()
        for words in wanted:
            assert words in text, text[-3000:]
        assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l") and "Traceback" not in text

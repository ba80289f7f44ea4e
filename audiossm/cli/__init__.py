"""The command line: each command parses, calls the library and prints; it holds no logic of its own."""

from audiossm.cli.app import app, main

__all__ = ["app", "main"]

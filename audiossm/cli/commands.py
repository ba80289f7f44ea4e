"""Every command, imported so that it registers itself. A command imports what is heavy inside its function."""

from audiossm.cli import synth  # noqa: F401

"""Every command, imported so that it registers itself. A command imports what is heavy inside its function."""

from audiossm.cli import (  # noqa: F401
    bench,
    devices,
    inspect,
    listen,
    synth,
)

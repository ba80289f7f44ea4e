"""Every command, imported so that it registers itself. A command imports what is heavy inside its function."""

from audiossm.cli import (  # noqa: F401
    bench,
    denoise,
    devices,
    evaluate,
    export,
    generate,
    inspect,
    listen,
    mine,
    synth,
    train,
    tune,
)

"""Every command, imported so that it registers itself. A command imports what is heavy inside its function."""

from audiossm.cli import bench, devices, evaluate, export, generate, inspect, listen, mine, synth, train, tune  # noqa: F401

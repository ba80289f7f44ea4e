"""Every command, imported so that it registers itself. A command imports what is heavy inside its function."""

from audiossm.cli import bench, devices, evaluate, export, inspect, listen, synth, train  # noqa: F401

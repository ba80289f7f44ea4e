"""Real-time audio built on state space models. See README.md; the edge runtime is `audiossm.streaming`."""

__version__ = "0.1.0"

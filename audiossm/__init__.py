"""Real-time audio built on state space models. See README.md; the edge runtime is `audiossm.streaming`."""

import os

__version__ = "0.1.0"

# ONNX Runtime's official builds send telemetry to Microsoft unless told before they are imported. What listens in a
# home sends nothing unasked; ORT_DISABLE_TELEMETRY=0 in the environment leaves it to ONNX Runtime.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

"""Print keywords as they are spoken into the default microphone: the runtime's whole API in a dozen lines.

    python demos/live_microphone.py [MODEL] [DEVICE]

MODEL is a file or a released model's name (default: keywords), DEVICE an index or part of a name. Ctrl-C ends it.
"""

import sys

import audiossm.streaming
from audiossm.streaming import Microphone


def main(name: str = "keywords", device: str | None = None) -> None:
    """Listen until interrupted."""
    model = audiossm.streaming.load(name)
    words = [label for label in model.metadata.labels if not label.startswith("_")]
    with Microphone(device) as microphone:
        stream = model.stream(rate=microphone.rate)  # whatever the device delivers: the model hears any rate
        print(f"listening at {microphone.rate} Hz for: {', '.join(words)}")
        for block in microphone.blocks():
            for event in stream.push(block):
                print(f"{event.time:8.2f} s  {event.label}  ({event.score:.2f})", flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"live_microphone: {error}")

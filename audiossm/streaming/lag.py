"""How far a sound card falls behind the clock."""

from collections import deque

WINDOW = 10.0  # seconds


class Lag:
    """Compare the audio that has come with the time that has passed.

    A sound card that is not served in time loses audio, and PortAudio often says nothing of it. What it delivers
    then falls short of the clock. The lag is that shortfall against its least over the last ten seconds: no start
    has to be known, and two clocks that run apart by a hundredth of a per cent make 1 ms of it.
    """

    def __init__(self) -> None:
        self._past: deque[tuple[float, float]] = deque()

    def read(self, now: float, heard: float) -> float:
        """Seconds of lag at the time `now` (seconds, monotonic), when `heard` seconds of audio have come."""
        short = now - heard
        self._past.append((now, short))
        while self._past[0][0] < now - WINDOW:
            self._past.popleft()
        return short - min(value for _, value in self._past)

"""Play audio on the sound card as it is made."""

from types import TracebackType

import numpy as np

from audiossm.streaming.devices import portaudio


class Speaker:
    """The default output device: `with Speaker(rate) as speaker: speaker.play(block)`.

    rate: Hz. stuttered: how often a block came too late.
    """

    def __init__(self, rate: int) -> None:
        sd = portaudio()
        try:
            self._stream = sd.OutputStream(samplerate=rate, channels=1, dtype="float32", latency="high")
        except (sd.PortAudioError, ValueError) as error:
            raise OSError(
                f"cannot play at {rate} Hz on the default output device ({error}): connect one, or leave out --play"
            ) from None
        self.stuttered, self._begun = 0, False

    def play(self, block: np.ndarray) -> None:
        """Play a block (n,) after those before it; returns when the device has room for it."""
        late = self._stream.write(np.ascontiguousarray(block, np.float32)[:, None])
        self.stuttered += self._begun and late  # before the first block the device has nothing to play
        self._begun = True

    def __enter__(self) -> "Speaker":
        self._stream.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._stream.stop()  # waits until all is heard
        self._stream.close()

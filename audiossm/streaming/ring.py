"""A fixed store of audio blocks between the sound card's callback and the program."""

import threading

import numpy as np


class Ring:
    """Blocks pass from one writer to one reader. When it is full the oldest block is dropped and counted.

    All memory is taken here, at the start: `put` copies and returns, as a sound card's callback must.

    blocks: how many it holds. shape: of a block, (samples, channels).
    """

    def __init__(self, blocks: int, shape: tuple[int, int]) -> None:
        self._store = np.zeros((blocks, *shape), np.float32)
        self._length = [0] * blocks  # samples in each block: a device may deliver a shorter one
        self._ready = threading.Condition()
        self._written = 0
        self._read = 0
        self.dropped = 0
        """Samples lost because the reader was too slow."""

    @property
    def waiting(self) -> int:
        """Samples that have come and were not taken yet, to within a block."""
        return (self._written - self._read) * self._store.shape[1]

    def put(self, block: np.ndarray) -> None:
        """Copy in a block (n, channels), n at most the ring's."""
        with self._ready:
            size = len(self._store)
            if self._written - self._read == size:
                self.dropped += self._length[self._read % size]
                self._read += 1
            slot = self._written % size
            self._store[slot, : len(block)] = block
            self._length[slot] = len(block)
            self._written += 1
            self._ready.notify()

    def get(self, timeout: float) -> np.ndarray | None:
        """Take the oldest block (n, channels) as a copy; None if none comes within `timeout` seconds."""
        with self._ready:
            if not self._ready.wait_for(lambda: self._written > self._read, timeout):
                return None
            slot = self._read % len(self._store)
            self._read += 1
            return self._store[slot, : self._length[slot]].copy()

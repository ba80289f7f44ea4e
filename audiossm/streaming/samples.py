"""The audio that a stream is given: what it may be, and what in it is no audio."""

import numpy as np

# 120 dB above full scale. Such a sample is no audio, and its square could overflow inside the model.
ABSURD = 1e6
FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}
ACCEPTED = FLOATS | {np.dtype(np.int16)}


def checked(chunk: np.ndarray) -> np.ndarray:
    """Return the chunk if a stream can hear it, else raise a ValueError that says what it must be."""
    chunk = np.asarray(chunk)
    if chunk.ndim not in (1, 2) or (chunk.ndim == 2 and chunk.shape[1] == 0):
        raise ValueError(f"a chunk must have shape (samples,) or (samples, channels), not {chunk.shape}")
    if chunk.dtype not in ACCEPTED:
        raise ValueError(f"a chunk must be float32, float64 or int16, not {chunk.dtype}")
    return chunk


def cleaned(chunk: np.ndarray) -> tuple[np.ndarray, int]:
    """Return audio of an accepted type as floats, and how many values were no audio: each is replaced by 0."""
    if chunk.dtype not in FLOATS:  # a set finds it at once, where == takes 2 us
        return chunk * np.float64(1 / 32768), 0
    if np.vdot(chunk, chunk) <= ABSURD:
        return chunk, 0
    bad = ~(np.abs(chunk) <= ABSURD)  # rare: NaN, infinity or far beyond full scale somewhere
    return np.where(bad, chunk.dtype.type(0), chunk), int(np.count_nonzero(bad))

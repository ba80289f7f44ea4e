"""The filterbank at the microphone's rate: which samples each tick reads, and with which weights.

A tick is 5 ms whatever the rate, so ticks may begin between two samples. A rate is rounded to a multiple of
25 Hz; tick k then begins at sample k f / 200, a multiple of 1/8, and all positions here are integers in
eighths of a sample. `models/FORMAT.md` derives the weights.

Glossary: f rate in Hz, C channels, M modes a channel, R read-outs a tick, W samples a tick's window, K
columns, P phases: ticks of a frame that begin differently between two samples (1, 2 or 4).
"""

from dataclasses import dataclass

import numpy as np

from audiossm.streaming.metadata import Filterbank

TICKS_PER_SECOND = 200
FRAME_TICKS = 4
LOWEST, HIGHEST = 4000, 192000


@dataclass(frozen=True)
class FrameClock:
    """Where frames begin and end in the samples of a stream at `rate` Hz (the rounded rate is `grid`).

    Frame j holds the samples from floor(j f / 50) up to ceil((j + 1) f / 50): a sample that straddles two
    frames belongs to both. Every second frame is alike, so frame j reads with the taps of frame j mod
    `period`.
    """

    rate: int

    def __post_init__(self) -> None:
        if isinstance(self.rate, bool) or not isinstance(self.rate, (int, np.integer)):
            raise ValueError(f"the sampling rate must be a whole number of Hz, not {self.rate!r}")
        if not LOWEST <= self.rate <= HIGHEST:
            raise ValueError(f"the sampling rate must be {LOWEST} to {HIGHEST} Hz, not {self.rate}")

    @property
    def grid(self) -> int:
        """The rate rounded to a multiple of 25 Hz, by which the ticks are laid out."""
        return (2 * int(self.rate) + 25) // 50 * 25

    @property
    def tick(self) -> int:
        """Length of a tick in eighths of a sample."""
        return self.grid // 25

    @property
    def samples(self) -> int:
        """Samples of a frame, a straddling one counted in full."""
        return -(-FRAME_TICKS * self.tick // 8)

    @property
    def period(self) -> int:
        """1 if all frames begin on a sample, 2 if every second one begins half-way between two."""
        return 1 if self.tick % 2 == 0 else 2

    def shared(self, frame: int) -> int:
        """Samples (0 or 1) that this frame's end shares with the next frame's beginning."""
        return (frame + 1) % self.period

    def seconds(self, frames: int) -> float:
        """Seconds of input, at the true rate, that this many whole frames span."""
        return frames * self.grid / (50 * int(self.rate))


def _phases(clock: FrameClock, frame: int) -> np.ndarray:
    """Where each tick of a frame begins between two samples, in eighths: the first P of the 4 that then repeat."""
    phases = (np.arange(FRAME_TICKS) + frame % clock.period * FRAME_TICKS) * clock.tick % 8
    for count in (1, 2):
        if (phases[:-count] == phases[count:]).all():
            return phases[:count]
    return phases


def windows(clock: FrameClock, frame: int = 0) -> np.ndarray:
    """The samples of `audio` that each tick's taps read: (4, W) int64."""
    begin = (np.arange(FRAME_TICKS) + frame % clock.period * FRAME_TICKS) * clock.tick
    first = begin // 8 - begin[0] // 8  # (4,)
    width = -(-clock.tick // 8) + 1
    return np.minimum(first[:, None] + np.arange(width), clock.samples - 1).astype(np.int64)


def taps(bank: Filterbank, clock: FrameClock, frame: int = 0) -> np.ndarray:
    """The weights of a window's samples in the modes and the channels' outputs: (P, W, K) float32.

    Columns: the modes at the tick's end as ([re, im], M, C), then the channels' outputs as (R, [re, im], C).
    """
    return np.stack([_tick_taps(bank, clock, int(phase)) for phase in _phases(clock, frame)])


def rate_constants(bank: Filterbank, clock: FrameClock, frame: int = 0) -> dict[str, np.ndarray]:
    """What depends on the rate in a model file: `windows` (4, W), `taps` (W, P K) and `picked` (4,) int64.

    All phases' taps are one matrix, since ONNX Runtime lays out a constant matrix beforehand and multiplies by it
    three times faster than by several. Row P i + p of the product is tick i with phase p; `picked` is the row it takes.
    """
    phase = taps(bank, clock, frame)  # (P, W, K)
    tick = np.arange(FRAME_TICKS)
    return {
        "windows": windows(clock, frame),
        "taps": np.ascontiguousarray(phase.swapaxes(0, 1).reshape(phase.shape[1], -1)),
        "picked": len(phase) * tick + tick % len(phase),
    }


def _tick_taps(bank: Filterbank, clock: FrameClock, phase: int) -> np.ndarray:
    """Taps of a tick that begins `phase` eighths of a sample after a sample: (W, K) float32."""
    rate, poles = float(clock.grid), bank.poles
    width = -(-clock.tick // 8) + 1
    # Sample w is held over [from_, until) in seconds after the tick's start.
    from_ = (8 * np.arange(width) - phase) / (8 * rate)  # (W,)
    until = (8 * np.arange(1, width + 1) - phase) / (8 * rate)

    centre = np.abs(poles.imag.mean(axis=1)) / (2 * np.pi)  # (C,) Hz
    gain = np.where(centre < rate / 2, 1 / np.sinc(np.minimum(centre / rate, 0.5)), 0.0)

    modes = np.zeros((0,))
    outputs = []
    for r in range(1, bank.readouts + 1):
        tau = r / (bank.readouts * TICKS_PER_SECOND)
        a, b = np.clip(from_, 0, tau), np.clip(until, 0, tau)
        modes = _held(poles, (tau - b)[:, None, None], (b - a)[:, None, None]) * gain[:, None]  # (W, C, M)
        outputs.append((modes * bank.weights).sum(axis=-1))  # (W, C)
    # The last read-out is the tick's end, where the state of the modes is taken.
    columns = [_planes(modes.swapaxes(1, 2)), *(_planes(output) for output in outputs)]
    return np.concatenate(columns, axis=1).astype(np.float32)


def _held(pole: np.ndarray, since: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The answer of x' = p x + u to a unit input held for `length` seconds that ended `since` seconds ago.

    The integral is exp(p since) (exp(p length) - 1) / p; expm1 keeps it exact where p length is small.
    """
    return np.exp(pole * since) * np.expm1(pole * length) / pole


def _planes(values: np.ndarray) -> np.ndarray:
    """(W, ...) complex -> (W, 2 ...) real: all real parts, then all imaginary parts."""
    return np.stack([values.real, values.imag], axis=1).reshape(len(values), -1)

"""The any-rate encoder: a continuous-time filterbank that reads audio at any rate and answers on a fixed clock.

Each of C channels is a band-pass filter, the weighted sum of M complex modes x' = p x + u, y = sum_m w_m x_m.
A sample u_n is held over [t_n, t_n+1) (zero-order hold, forward: no read-out waits for a sample that has not come), so
that between any two times the modes move exactly by

    x(t + s) = e^{p s} x(t) + sum_n u_n (e^{p (t + s - a_n)} - e^{p (t + s - b_n)}) / p

where [a_n, b_n] is the part of sample n's hold inside [t, t + s]. Ticks need not fall on samples. Within a tick the
channels are read R times and their power |y|² is averaged; log(1 + power / floor), 0 in silence, is the output.
models/FORMAT.md gives the same formulas for those who embed a model.

Glossary: B batch, L samples, T ticks, C channels, M modes a channel, R read-outs a tick, W samples that a tick reads,
P phases (positions of a tick between two samples), K = 2 C M + 2 C R columns of the taps.
"""

import math

import torch
from scipy.signal import besselap
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.kernels import channelwise, decay_scan, pairs
from audiossm.mixers.base import Mixer, State, slow

TICKS_PER_SECOND = 200
TICK = 1 / TICKS_PER_SECOND  # seconds
RATE_STEP = 25  # Hz: at a multiple of it a tick begins on a multiple of 1/8 sample
POWER_FLOOR = 1e-9  # power that counts as silence; full scale is about 0.25


def clock_rate(rate: int) -> int:
    """Return the nearest rate in Hz at which at most eight phases occur. Every customary rate is one already."""
    return max(RATE_STEP, round(rate / RATE_STEP) * RATE_STEP)


def phases(rate: int) -> int:
    """Return P, the number of phases that ticks take between two samples at a clock rate in Hz."""
    return TICKS_PER_SECOND // math.gcd(rate, TICKS_PER_SECOND)


class Filterbank(Mixer):
    """C band-pass channels, from audio (B, L, 1) at any rate to log-power (B, T, C) at 200 ticks a second.

    Poles start as those of a Bessel low-pass prototype, whose answer to a click is a smooth bump like a gammatone's,
    shifted to each channel's centre and scaled to its bandwidth; both poles and weights are trained. A rate that is no
    multiple of 25 Hz is rounded to one.

    Args:
        channels: C, spaced evenly on the ERB scale (Glasberg and Moore 1990).
        modes: M, the order of the filters.
        readouts: R, times in a tick at which the power is read.
        native_rate: rate in Hz of the input when none is given.
        low, high: centres of the first and last channel in Hz.
    """

    any_rate = True
    native_rate: int
    width_in_erb = 0.5  # half-width at half power: the channel passes one ERB
    centre: Tensor
    width: Tensor

    def __init__(
        self,
        channels: int = 64,
        modes: int = 4,
        readouts: int = 2,
        native_rate: int = 16000,
        low: float = 60.0,
        high: float = 7600.0,
    ):
        super().__init__()
        self.channels, self.modes, self.readouts, self.native_rate = channels, modes, readouts, native_rate
        centre = torch.tensor(erb_space(low, high, channels))  # Hz
        width = self.width_in_erb * 24.7 * (4.37 * centre / 1000 + 1)
        self.register_buffer("centre", (2 * math.pi * centre).float())  # (C,) rad/s
        self.register_buffer("width", (2 * math.pi * width).float())
        _, poles, gain = besselap(modes, norm="mag")
        residues = [gain / math.prod(complex(p - q) for q in poles if q != p) for p in poles]
        pole = torch.view_as_real(torch.tensor(poles, dtype=torch.complex128)).float()  # (M, 2)
        weight = torch.view_as_real(torch.tensor(residues, dtype=torch.complex128)).float()
        self.log_decay = slow(nn.Parameter((-pole[:, 0]).log().repeat(channels, 1)))  # (C, M)
        self.detuning = slow(nn.Parameter(pole[:, 1].repeat(channels, 1)))
        self.weight = slow(nn.Parameter(weight.repeat(channels, 1, 1)))  # (C, M, 2)

    def poles(self) -> Tensor:
        """Return the poles (C, M, 2) in rad/s."""
        width, centre = self.width.unsqueeze(-1), self.centre.unsqueeze(-1)
        return pairs.pair(-width * self.log_decay.exp(), centre + width * self.detuning)

    def weights(self) -> Tensor:
        """Return the weights (C, M, 2) of the modes in their channel, in rad/s: a filter passes its centre as it is."""
        return self.weight * self.width[:, None, None]

    def taps(self, rate: int) -> Tensor:
        """Return what each sample of a tick's window adds to modes and read-outs, (P, W, K), at a clock rate."""
        poles, weights = self.poles(), self.weights()
        count, span = phases(rate), rate / TICKS_PER_SECOND
        phase = torch.arange(count, device=poles.device).double() * span % 1  # of tick i, in samples
        sample = torch.arange(math.ceil(span) + 1, device=poles.device).double()
        begin = (sample - phase.unsqueeze(1)).unsqueeze(-1) / rate  # (P, W, 1) seconds from the tick's start
        tau = TICK * torch.arange(1, self.readouts + 1, device=poles.device).double() / self.readouts  # (R,)
        a = torch.minimum(begin.clamp(min=0), tau)  # (P, W, R)
        b = torch.minimum((begin + 1 / rate).clamp(min=0), tau)
        after, held = (t[..., None, None, None].to(poles) for t in (tau - b, b - a))
        # (e^{p (tau - a)} - e^{p (tau - b)}) / p without the difference: (P, W, R, C, M, 2)
        reach = pairs.div(pairs.mul(pairs.exp(poles * after), pairs.expm1(poles * held)), poles)
        reach = reach * self.gain(rate)[:, None, None]
        heard = pairs.mul(weights, reach).sum(-2)  # (P, W, R, C, 2)
        to_modes = reach[:, :, -1].permute(0, 1, 4, 3, 2)  # (P, W, 2, M, C)
        return torch.cat((to_modes.flatten(2), heard.transpose(3, 4).flatten(2)), dim=-1)

    def gain(self, rate: int) -> Tensor:
        """Return the gain (C,) that undoes the hold's droop at each centre, and silences channels above rate / 2."""
        centre = self.poles()[..., 1].mean(-1).abs() / (2 * math.pi * rate)
        return torch.where(centre < 0.5, 1 / torch.sinc(centre), 0)

    def initial_state(self, batch: int, rate: int | None = None) -> State:
        """Return the empty state: modes, the samples that the next tick still needs, and the clock.

        "modes" (batch, C, M, 2); "held" (batch, W) the latest samples; "clock" (1,) samples since a tick fell on a
        sample, an integer below one period.
        """
        window = math.ceil(clock_rate(rate or self.native_rate) / TICKS_PER_SECOND) + 1
        zeros = self.weight.new_zeros
        return {
            "modes": zeros(batch, self.channels, self.modes, 2),
            "held": zeros(batch, window),
            "clock": zeros(1, dtype=torch.int64),
        }

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map audio u (B, L, 1) in [-1, 1] at `rate` Hz to log-power (B, T, C) of the T ticks that it completes."""
        rate = clock_rate(rate or self.native_rate)
        now = 0 if state is None else int(state["clock"])  # samples received, modulo the period
        state = state or self.initial_state(u.shape[0], rate)
        first = now * TICKS_PER_SECOND // rate  # the next tick to complete
        last = (now + u.shape[1]) * TICKS_PER_SECOND // rate
        origin = first * rate // TICKS_PER_SECOND  # the sample in which that tick begins
        window = state["held"].shape[1]
        waiting = now - origin
        audio = torch.cat((state["held"][:, window - waiting :], u[..., 0]), dim=1)
        held = torch.cat((state["held"], u[..., 0]), dim=1)[:, -window:]
        audio = F.pad(audio, (0, window))  # the last window may reach past its tick, where its taps are zero
        tick = torch.arange(first, last, device=u.device)
        index = (tick * rate // TICKS_PER_SECOND - origin).unsqueeze(1) + torch.arange(window, device=u.device)
        y, modes = self.ticks(audio[:, index], self.taps(rate), state["modes"], first)
        clock = torch.full_like(state["clock"], (now + u.shape[1]) % (phases(rate) * rate // TICKS_PER_SECOND))
        return y, {"modes": modes, "held": held, "clock": clock}

    def ticks(self, windows: Tensor, taps: Tensor, modes: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """Advance by whole ticks.

        Args:
            windows: (B, T, W) the samples that each tick reads.
            taps: (P, W, K).
            modes: (B, C, M, 2) at the start of the first tick.
            first: index of the first tick, which decides its phase.

        Returns:
            log-power (B, T, C) and the modes at the end of the last tick.
        """
        count = taps.shape[0]
        if count == 1:
            return self.read(windows @ taps[0], modes)
        seen = windows.new_empty(*windows.shape[:2], taps.shape[-1])
        for i in range(min(count, windows.shape[1])):
            seen[:, i::count] = windows[:, i::count] @ taps[(first + i) % count]
        return self.read(seen, modes)

    def read(self, seen: Tensor, modes: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by whole ticks, given each tick's window times its taps, (B, T, K); modes as in `ticks`."""
        y, planes = self.advance(seen, modes.permute(0, 3, 2, 1).flatten(1))
        return y, planes.unflatten(1, (2, self.modes, self.channels)).permute(0, 3, 2, 1)

    def advance(self, seen: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Do the same with the modes (B, 2 M C) as planes (2, M, C) in a row, as a file keeps them.

        The first 2 M C columns of `seen` are what the window adds to the modes, as such planes; the other 2 R C what it
        adds to the channels at each read-out, as (R, 2, C).
        """
        batch, length, _ = seen.shape
        c, m, r = self.channels, self.modes, self.readouts
        added, local = seen.split((2 * m * c, 2 * r * c), dim=-1)
        log_decay = self.poles().transpose(0, 1).flatten(0, 1) * TICK  # (M C, 2)
        steps = decay_scan(log_decay, added.reshape(batch, length, 2, m * c), first.unflatten(1, (2, m * c)))
        path = torch.cat((first, steps.flatten(1)), dim=1)  # the modes at the ticks' edges
        starts, final = path.split((length * 2 * m * c, 2 * m * c), dim=1)
        y = channelwise(self.readout_matrix(), starts.reshape(batch * length, 2 * m, c))
        y = y + local.reshape(batch * length, 2 * r, c)
        mean = y.new_full((1, 2 * r), 2 / POWER_FLOOR / (2 * r))  # of |y|² over the read-outs, in floors
        return (mean @ y.square() + 1).log().reshape(batch, length, c), final

    def readout_matrix(self) -> Tensor:
        """Return the matrix from a tick's first modes, planes (2, M), to its read-outs (R, 2), for each channel.

        Read-out r is y = sum_m w_m e^{p_m tau_r} x_m, in real numbers: (2 R, 2 M, C).
        """
        read = torch.arange(1, self.readouts + 1, device=self.weight.device, dtype=self.weight.dtype)
        tau = TICK * read / self.readouts
        rotated = pairs.mul(self.weights().unsqueeze(-2), pairs.exp(self.poles().unsqueeze(-2) * tau.unsqueeze(-1)))
        re, im = rotated.permute(3, 2, 1, 0)  # each (R, M, C)
        return torch.stack((torch.cat((re, -im), dim=1), torch.cat((im, re), dim=1)), dim=1).flatten(0, 1)


def erb_space(low: float, high: float, count: int) -> list[float]:
    """Return `count` frequencies in Hz, evenly spaced on the ERB-number scale (Glasberg and Moore 1990)."""
    number = [21.4 * math.log10(4.37 * f / 1000 + 1) for f in (low, high)]
    step = (number[1] - number[0]) / max(1, count - 1)
    return [(10 ** ((number[0] + i * step) / 21.4) - 1) * 1000 / 4.37 for i in range(count)]

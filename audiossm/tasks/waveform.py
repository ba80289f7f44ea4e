"""The literature's classifier up to its pooling: S4D layers, or their like, at the sample rate, on the raw waveform.

S4D (Gu, Gupta, Goel and Ré 2022, arXiv 2206.11893), as trained on Speech Commands: audio normalised, one linear layer,
blocks with BatchNorm before and GELU and GLU behind each S4D-Lin, whose step scales by the rate. There the layers hear
the clip from both ends and their outputs are averaged over it. Here they hear the past alone and are averaged over each
frame, of which all that follows makes its own mean, so that the model can be heard live.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn

from audiossm.backbones import ChannelNorm, hybrid_stack
from audiossm.mixers.base import Mixer, State, part, whole
from audiossm.mixers.catalog import build_mixer
from audiossm.mixers.filterbank import clock_rate

SSM_LR = 0.002  # for 64 clips a step, which is the paper's 0.001 for its 16
AT_ONCE = 2**18  # samples of all streams together that are run at once, outside of training


class WaveformEncoder(Mixer):
    """Audio (B, L, 1) at any rate to the means (B, T, H) of a stack of S4D layers over each frame.

    Frames end where every fourth tick of the filterbank does, the rate rounded as it rounds it; a sample that straddles
    two of them counts in the earlier one, which waits for it.

    Args:
        pattern: what the layers are (`audiossm.backbones.hybrid`); all must be able to change their rate.
        d_model, layers, d_state: H, the number of layers, and N, real state dimensions a channel (None: its own).
        dropout: share of channels left out in training.
        native_rate: rate in Hz of the input when none is given, at which the steps are meant.
        frames_per_second: of the output, whatever the rate.
    """

    any_rate = True
    native_rate: int

    def __init__(
        self,
        pattern: str,
        d_model: int,
        layers: int,
        d_state: int | None,
        dropout: float,
        native_rate: int,
        frames_per_second: int,
    ):
        super().__init__()
        self.native_rate, self.frames_per_second = native_rate, frames_per_second
        self.norm = ChannelNorm(1)
        self.widen = nn.Linear(1, d_model)
        make = partial(build_mixer, d_model=d_model, d_state=d_state, native_rate=native_rate, lr=SSM_LR)
        self.stack = hybrid_stack(pattern, d_model, layers, make, dropout)
        if not self.stack.any_rate:
            raise ValueError(f"{pattern!r} cannot change its rate, which the raw waveform needs: leave it to s4d or s4")

    def initial_state(self, batch: int, rate: int | None = None) -> State:
        """Return the empty state: the stack's, the sum over a frame that has begun, and the clock.

        "sum" (batch, H); "clock" (1,) samples since a frame began on a sample, an integer below one period.
        """
        zeros = self.widen.weight.new_zeros
        pending = {"sum": zeros(batch, self.widen.out_features), "clock": zeros(1, dtype=torch.int64)}
        return whole({"stack": self.stack.initial_state(batch)}) | pending

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map audio u (B, L, 1) in [-1, 1] at `rate` Hz to the means (B, T, H) of the T frames that it completes.

        Long audio is heard in pieces, so that memory does not grow with it: the law says that nothing changes.
        """
        now = 0 if state is None else int(state["clock"])  # samples received, modulo the period
        state = state or self.initial_state(u.shape[0])
        stack, pending, means = part(state, "stack"), state["sum"], []
        longest = u.shape[1] if self.training else AT_ONCE // u.shape[0]
        for piece in u.split(max(1, longest), dim=1):
            h, stack = self.samples(piece, stack, rate)
            mean, pending = self.average(h, pending, now, rate)
            means.append(mean)
            now += piece.shape[1]
        grid = clock_rate(rate or self.native_rate)
        clock = torch.full_like(state["clock"], now % (grid // math.gcd(grid, self.frames_per_second)))
        return torch.cat(means, dim=1), whole({"stack": stack}) | {"sum": pending, "clock": clock}

    def samples(self, u: Tensor, state: State, rate: int | None) -> tuple[Tensor, State]:
        """Map audio u (B, L, 1) to the stack's output (B, L, H); `state` is the stack's."""
        return self.stack(self.widen(self.norm(u)), state, rate=rate)

    def average(self, h: Tensor, pending: Tensor, now: int, rate: int | None) -> tuple[Tensor, Tensor]:
        """Map samples h (B, L, H) to the means (B, T, H) of the frames that they complete.

        `now` counts the samples before them; `pending` (B, H) is the sum over the frame at hand, before and after.
        """
        grid, each = clock_rate(rate or self.native_rate), self.frames_per_second
        first, last = (count * each // grid for count in (now, now + h.shape[1]))  # the frame at hand
        frame = (now + torch.arange(h.shape[1], device=h.device)) * each // grid - first  # of each sample
        sums = torch.cat((pending.unsqueeze(1), h.new_zeros(h.shape[0], last - first, h.shape[2])), dim=1)
        sums = sums.index_add(1, frame, h)
        edge = -(-torch.arange(first, last + 1, device=h.device) * grid // each)  # the first sample of each frame
        return sums[:, :-1] / edge.diff().to(h).unsqueeze(1), sums[:, -1]

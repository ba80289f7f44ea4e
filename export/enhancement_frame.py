"""One frame of an enhancement model as a function of tensors: what an exported file computes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.backbones.places import EveryPlace
from audiossm.export.packing import Packing, reverse
from audiossm.export.short_time import ShortTime
from audiossm.export.stack import JointSystem
from audiossm.kernels.channelwise import add_rows
from audiossm.mixers import S4D, MinGRU
from audiossm.mixers.base import Mixer, State, part
from audiossm.tasks.enhancement import FEATURES, EnhancementModel, SpectralMask


def frame_of(model: EnhancementModel) -> "SpectralFrame | SampleFrame":
    """Return the frame of a model, with its `packing` of states and `pack`, which packs a state of the model."""
    network = model.network
    return SpectralFrame(network) if isinstance(network, SpectralMask) else SampleFrame(network)


class SpectralFrame(nn.Module):
    """A frame of a mask on a spectrum: (audio (B, frame), state (B, S)) to (audio_out (B, frame), state_out).

    State: past (W - frame) the samples before the frame, that of the blocks, tail (frame).
    """

    def __init__(self, network: SpectralMask):
        super().__init__()
        self.network = network
        blocks: list[Any] = list(network.blocks.layers)
        self.blocks = OneSystem(blocks) if isinstance(blocks[0].mixer, S4D) else OneByOne(blocks)
        self.past = network.analysis.window - network.frame
        self.packing = Packing(self.kept(network.initial_state(1)))
        self.short_time = ShortTime(network.analysis.window, network.frame)
        place, bands = self.short_time.frequency, len(network.spread)
        # The first bands of all places, then the second ones ...: bands as a matrix have the places as columns.
        self.order = torch.arange(bands).view(network.places, -1).T.flatten()
        self.gather = network.gather[place][:, self.order] * self.short_time.once[:, None]
        self.spread = network.spread[self.order][:, place] * self.short_time.stands_for
        # A single number up to 1e-8 counts as zero for the exporter, which leaves out its addition.
        self.quiet = torch.full(place.shape, network.compression.floor)

    def kept(self, state: State) -> State:
        """Return a model's state after whole frames as the file keeps it."""
        past = state["analysis.held"][:, -self.past :]
        return {"past": past, **self.blocks.kept(part(state, "blocks")), "tail": state["synthesis.tail"]}

    def pack(self, state: State) -> Tensor:
        """Return a model's state as (B, S)."""
        return self.packing.pack(self.kept(state))

    def forward(self, audio: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run a frame."""
        before = self.packing.unpack(state)
        heard = torch.cat((before["past"], audio), dim=1)
        spectrum = self.short_time.spectrum(heard)  # (B, 1, 2, F)
        u, after = self.blocks(self.widened(spectrum), before)
        start, end = self.short_time.audio(spectrum, self.gains(u)).chunk(2, dim=1)
        _, past = heard.split([audio.shape[1], self.past], dim=1)  # cheaper than a slice
        return start + before["tail"], torch.cat((past, *after, end), dim=1)

    def widened(self, spectrum: Tensor) -> Tensor:
        """Return what the blocks hear, (B, P, C)."""
        network, power = self.network, self.network.compression.power
        squares = add_rows(spectrum * spectrum) + self.quiet  # (B, 1, 1, F)
        features = torch.cat((squares.sqrt(), spectrum), 2) * squares ** ((power - 1) / 2)  # (B, 1, 3, F)
        scale, shift = (constant.view(FEATURES, -1)[:, self.order] for constant in network.norm.constants())
        constant = network.widen(self.by_place(shift)) + network.place
        return self.by_place((features @ self.gather) * scale) @ network.widen.weight.T + constant

    def by_place(self, features: Tensor) -> Tensor:
        """Return features of bands (B, 1, 3, bands) as those of places, (B, P, 3 fold)."""
        return features.reshape(-1, self.network.widen.in_features, self.network.places).mT

    def gains(self, u: Tensor) -> Tensor:
        """Return the complex gain of each frequency, times how many it stands for: (B, 2, 1, F)."""
        network = self.network
        gains = network.head.weight @ u.mT + (network.head.bias + network.head_place).T  # (B, 2 fold, P)
        gains = gains.reshape(-1, 2, 1, len(self.spread))
        # What lets the floor pass is a constant too, and 1 - floor goes into the matrix.
        share = 1 - network.floor
        return (gains.tanh() + network.passing.unsqueeze(1) / share) @ (share * self.spread)


class OneSystem(nn.Module):
    """A step of blocks of S4D: their systems run as one (`JointSystem`), a block's norm goes into its system's gain.

    State: x (2, N, blocks, P C).
    """

    def __init__(self, blocks: list[Any]):
        super().__init__()
        self.layers = nn.ModuleList(blocks)
        self.system = JointSystem([block.mixer for block in blocks])

    def kept(self, state: State) -> State:
        """Return the blocks' states as the file keeps them."""
        return {"x": torch.stack([reverse(x) for x in state.values()], dim=3)}

    def forward(self, u: Tensor, before: State) -> tuple[Tensor, Sequence[Tensor]]:
        """Run a step, u (B, P, C); return the blocks' output and the states afterwards, flat."""
        blocks: list[Any] = list(self.layers)
        x, count, inputs = before["x"], len(blocks), []
        scale, shift = (torch.cat(parts) for parts in zip(*(block.norm.constants() for block in blocks), strict=True))
        gains, ahead = self.system.gain * scale, self.system.free(x) + self.system.gain * shift
        for block, gain, free in zip(blocks, gains.chunk(count), ahead.chunk(count, dim=1), strict=True):
            inputs.append(u.flatten(1))
            u = behind(block, u, (block.apart(gain) * u + block.apart(free)).flatten(0, 1))
        return u, self.system.after(x, torch.cat(inputs, dim=1) * scale + shift)


class OneByOne(nn.Module):
    """A step of blocks with the same mixer at all places. State: that of block i as "blocks.i. ..."."""

    def __init__(self, blocks: list[Any]):
        super().__init__()
        self.layers = nn.ModuleList(blocks)

    def kept(self, state: State) -> State:
        """Return the blocks' states as the file keeps them."""
        return {f"blocks.{name}": value for name, value in state.items()}

    def forward(self, u: Tensor, before: State) -> tuple[Tensor, Sequence[Tensor]]:
        """Run a step, u (B, P, C); return the blocks' output and the states afterwards, flat."""
        kept = []
        blocks: list[Any] = list(self.layers)
        for i, block in enumerate(blocks):
            rows, like = part(before, f"blocks.{i}"), block.initial_state(1)
            state = {name: row.unflatten(1, like[name].shape[1:]) for name, row in rows.items()}
            y, after = all_places(block, u, state)
            u = behind(block, u, y)
            kept += [value.reshape(-1, rows[name].shape[1]) for name, value in after.items()]
        return u, kept


def all_places(block: Any, u: Tensor, state: State) -> tuple[Tensor, State]:
    """Return what the block's mixer of all places makes of a frame u (B, P, C), as rows (B P, C), and its state."""
    every: EveryPlace = block.mixer
    scale, shift = (block.apart(constant) for constant in block.norm.constants())
    if isinstance(every.mixer, MinGRU):
        return min_gru(every.mixer, u, scale, shift, state["h"].flatten(0, 1))
    y, after = every.mixer((u * scale + shift).flatten(0, 1).unsqueeze(1), every.apart(state))
    return y.squeeze(1), every.together(after)


def min_gru(mixer: MinGRU, u: Tensor, scale: Tensor, shift: Tensor, h: Tensor) -> tuple[Tensor, State]:
    """Return output and state (B P, C) each of a step, of u (B, P, C) normed by scale and shift (P, C), and of h.

    The skip's gain d goes into the norm, and out of the weights: y = h + x, x = d (scale u + shift). A gain of nothing
    counts as a millionth.
    """
    d = torch.where(mixer.d < 0, -1.0, 1.0) * mixer.d.abs().clamp(min=1e-6)
    x = (u * (scale * d) + shift * d).flatten(0, 1)
    step, v = two_products(x, mixer.select.weight / d, mixer.select.bias)
    h = h + step.sigmoid() * (v - h)
    return h + x, {"h": h}


def behind(block: Any, u: Tensor, y: Tensor) -> Tensor:
    """Return what a block makes of its input u (B, P, C) and of what its mixer says of it, rows y (B P, C)."""
    value, gate = two_products(F.gelu(y), block.gate.weight, block.gate.bias)
    u = u + (value * gate.sigmoid()).unflatten(0, (-1, block.bands))
    scale, shift = (block.apart(constant) for constant in block.band_norm.constants())
    return u + block.across @ F.gelu(u * scale + shift)


def two_products(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two halves (N, C) of a linear layer's output for rows x (N, K).

    As products of rows with their own bias, which a runtime runs as one operator each, a sigmoid behind it included.
    """
    (w1, w2), (b1, b2) = weight.chunk(2), bias.chunk(2)
    return torch.addmm(b1, x, w1.T), torch.addmm(b2, x, w2.T)


class SampleFrame(nn.Module):
    """A frame of a model on samples, in block form: (audio (B, frame), state (B, S)) to (audio_out, state_out).

    What counts within a frame is 0 where frames are whole, and is left out of the file.
    """

    def __init__(self, network: Mixer):
        super().__init__()
        self.network = network
        self.counts = {name: value for name, value in network.initial_state(1).items() if not value.is_floating_point()}
        self.packing = Packing(self.kept(network.initial_state(1)))

    def kept(self, state: State) -> State:
        """Return a model's state after whole frames as the file keeps it."""
        return {name: reverse(value) for name, value in state.items() if name not in self.counts}

    def pack(self, state: State) -> Tensor:
        """Return a model's state as (B, S)."""
        return self.packing.pack(self.kept(state))

    def forward(self, audio: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run a frame."""
        kept = self.packing.shaped(self.packing.unpack(state))
        before = {name: reverse(value) for name, value in kept.items()} | self.counts
        y, after = self.network(audio.unsqueeze(-1), before)
        return y.squeeze(-1), torch.cat([value.flatten(1) for value in self.kept(after).values()], dim=1)

"""One frame of an enhancement model as a function of tensors: what an exported file computes."""

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.backbones.places import EveryPlace
from audiossm.export.packing import Packing, reverse
from audiossm.export.stack import JointSystem
from audiossm.mixers import S4D, MinGRU
from audiossm.mixers.base import Mixer, State, part
from audiossm.tasks.enhancement import EnhancementModel, SpectralMask


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
        # A single number up to 1e-8 counts as zero for the exporter, which leaves out its addition.
        self.compression = copy(network.compression)
        self.compression.floor = torch.full((network.spread.shape[1],), network.compression.floor)  # type: ignore[assignment]

    def kept(self, state: State) -> State:
        """Return a model's state after whole frames as the file keeps it."""
        past = state["analysis.held"][:, -self.past :]
        return {"past": past, **self.blocks.kept(part(state, "blocks")), "tail": state["synthesis.tail"]}

    def pack(self, state: State) -> Tensor:
        """Return a model's state as (B, S)."""
        return self.packing.pack(self.kept(state))

    def forward(self, audio: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run a frame."""
        network, before = self.network, self.packing.unpack(state)
        heard = torch.cat((before["past"], audio), dim=1)
        spectrum = network.analysis.spectra(heard)  # (B, 2, F)
        u, after = self.blocks(self.widened(spectrum), before)
        enhanced = self.masked(spectrum, self.gains(u)).flatten(1) @ network.synthesis.matrix
        start, end = enhanced[:, : network.frame], enhanced[:, network.frame :]
        kept = heard[:, -self.past :]
        return start + before["tail"], torch.cat((kept, *after, end), dim=1)

    def widened(self, spectrum: Tensor) -> Tensor:
        """Return what the blocks hear, (B, P, C)."""
        network = self.network
        scale, shift = network.norm.constants()
        features = (self.compression(spectrum) @ network.gather).flatten(1) * scale + shift
        grouped = features.unflatten(-1, (3, network.places, -1)).transpose(1, 2).flatten(2)  # (B, P, 3 fold)
        return network.widen(grouped) + network.place

    def gains(self, u: Tensor) -> Tensor:
        """Return the complex gain of each frequency, (B, 2, F)."""
        network = self.network
        gains = network.head(u) + network.head_place  # (B, P, 2 fold)
        return network.bounded(gains.unflatten(-1, (2, -1)).transpose(1, 2).flatten(2)) @ network.spread

    def masked(self, spectrum: Tensor, gains: Tensor) -> Tensor:
        """Return the product of complex numbers (B, 2, F)."""
        return self.network.apply_mask(spectrum.unsqueeze(1), gains.unsqueeze(1)).squeeze(1)


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
            u = behind(block, u, block.apart(gain) * u + block.apart(free))
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
            scale, shift = (block.apart(constant) for constant in block.norm.constants())
            rows, like = part(before, f"blocks.{i}"), block.initial_state(1)
            state = {name: row.unflatten(1, like[name].shape[1:]) for name, row in rows.items()}
            y, after = all_places(block.mixer, u * scale + shift, state)
            u = behind(block, u, y)
            kept += [value.flatten(1) for value in after.values()]
        return u, kept


def all_places(mixer: EveryPlace, u: Tensor, state: State) -> tuple[Tensor, State]:
    """Return what the mixer of all places makes of a frame u (B, P, C), and its state; nothing is turned in memory."""
    if isinstance(mixer.mixer, MinGRU):  # is elementwise but for its linear layer: places need not become rows
        y, h = mixer.mixer.step(u, state["h"])
        return y, {"h": h}
    y, after = mixer.mixer(u.flatten(0, 1).unsqueeze(1), mixer.apart(state))
    return y.unflatten(0, (-1, mixer.places)).squeeze(2), mixer.together(after)


def behind(block: Any, u: Tensor, y: Tensor) -> Tensor:
    """Return what a block makes of its input u and of what its mixer says of it, y, each (B, P, C)."""
    y = F.gelu(y)
    # Two products in place of one that is then split: fewer operators.
    value, gate = (
        F.linear(y, *half) for half in zip(block.gate.weight.chunk(2), block.gate.bias.chunk(2), strict=True)
    )
    u = u + value * gate.sigmoid()
    scale, shift = (block.apart(constant) for constant in block.band_norm.constants())
    return u + block.across @ F.gelu(u * scale + shift)


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

"""One frame of an enhancement model as a function of tensors: what an exported file computes."""

from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.export.packing import Packing, reverse
from audiossm.export.stack import JointSystem
from audiossm.mixers.base import Mixer, State, part
from audiossm.tasks.enhancement import EnhancementModel, SpectralMask


def frame_of(model: EnhancementModel) -> "SpectralFrame | SampleFrame":
    """Return the frame of a model, with its `packing` of states and `pack`, which packs a state of the model."""
    network = model.network
    return SpectralFrame(network) if isinstance(network, SpectralMask) else SampleFrame(network)


class SpectralFrame(nn.Module):
    """A frame of a mask on a spectrum: (audio (B, frame), state (B, S)) to (audio_out (B, frame), state_out).

    The systems of all blocks run as one (`JointSystem`), and a block's norm goes into its system's gain.

    State: past (W - frame) the samples before the frame, x (2, N, blocks, P C), tail (frame).
    """

    def __init__(self, network: SpectralMask):
        super().__init__()
        self.network = network
        self.system = JointSystem([block.mixer for block in network.blocks.layers])  # type: ignore[misc]
        self.past = network.analysis.window - network.frame
        self.packing = Packing(self.kept(network.initial_state(1)))
        # A single number up to 1e-8 counts as zero for the exporter, which leaves out its addition.
        self.compression = copy(network.compression)
        self.compression.floor = torch.full((network.spread.shape[1],), network.compression.floor)  # type: ignore[assignment]

    def kept(self, state: State) -> State:
        """Return a model's state after whole frames as the file keeps it."""
        systems = [reverse(x) for x in part(state, "blocks").values()]
        past = state["analysis.held"][:, -self.past :]
        return {"past": past, "x": torch.stack(systems, dim=3), "tail": state["synthesis.tail"]}

    def pack(self, state: State) -> Tensor:
        """Return a model's state as (B, S)."""
        return self.packing.pack(self.kept(state))

    def forward(self, audio: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run a frame."""
        network, before = self.network, self.packing.unpack(state)
        heard = torch.cat((before["past"], audio), dim=1)
        spectrum = network.analysis.spectra(heard)  # (B, 2, F)
        u, systems = self.blocks(self.widened(spectrum), before["x"])
        enhanced = self.masked(spectrum, self.gains(u)).flatten(1) @ network.synthesis.matrix
        start, end = enhanced[:, : network.frame], enhanced[:, network.frame :]
        kept = heard[:, -self.past :]
        return start + before["tail"], torch.cat((kept, *systems, end), dim=1)

    def widened(self, spectrum: Tensor) -> Tensor:
        """Return what the blocks hear, (B, P C)."""
        network = self.network
        scale, shift = network.norm.constants()
        features = (self.compression(spectrum) @ network.gather).flatten(1) * scale + shift
        grouped = features.unflatten(-1, (3, network.places, -1)).transpose(1, 2).flatten(2)  # (B, P, 3 fold)
        return (network.widen(grouped) + network.place).flatten(1)

    def blocks(self, u: Tensor, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run a step of the blocks, u (B, P C); return their output and the states afterwards."""
        blocks: list[Any] = list(self.network.blocks.layers)
        count, inputs = len(blocks), []
        scale, shift = (torch.cat(parts) for parts in zip(*(block.norm.constants() for block in blocks), strict=True))
        gains, ahead = self.system.gain * scale, self.system.free(x) + self.system.gain * shift
        for block, gain, free in zip(blocks, gains.chunk(count), ahead.chunk(count, dim=1), strict=True):
            inputs.append(u)
            y = block.apart(F.gelu(gain * u + free))
            # Two products in place of one that is then split: fewer operators.
            value, gate = (
                F.linear(y, *half) for half in zip(block.gate.weight.chunk(2), block.gate.bias.chunk(2), strict=True)
            )
            u = u + (value * gate.sigmoid()).flatten(1)
            band_scale, band_shift = block.band_norm.constants()
            u = u + (block.across @ block.apart(F.gelu(u * band_scale + band_shift))).flatten(1)
        return u, self.system.after(x, torch.cat(inputs, dim=1) * scale + shift)

    def gains(self, u: Tensor) -> Tensor:
        """Return the complex gain of each frequency, (B, 2, F)."""
        network = self.network
        gains = network.head(u.unflatten(-1, (network.places, -1))) + network.head_place  # (B, P, 2 fold)
        return gains.unflatten(-1, (2, -1)).transpose(1, 2).flatten(2).tanh() @ network.spread

    def masked(self, spectrum: Tensor, gains: Tensor) -> Tensor:
        """Return the product of complex numbers (B, 2, F)."""
        return self.network.apply_mask(spectrum.unsqueeze(1), gains.unsqueeze(1)).squeeze(1)


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

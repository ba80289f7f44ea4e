"""One step of a stack of layers with S4D mixers, with all its layers' systems run as one.

A linear system answers with its free response to the state plus its forced response to the input, and no input of this
step changes the first. So the L layers of H channels are one S4D of L H channels for all that concerns states; what is
left in each layer is a gain for its input, and what follows the mixer. A frame takes a third of the operators that way.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.backbones import Block, SaShiMiLayer, Stack
from audiossm.export.packing import Packing, reverse
from audiossm.kernels import pairs
from audiossm.kernels.channelwise import add_rows
from audiossm.kernels.ssm import ssm_block
from audiossm.mixers import S4D
from audiossm.mixers.base import State


def is_one_system(stack: Stack) -> bool:
    """Say whether a stack can be run so: blocks, or SaShiMi's layers, with S4D mixers of one size, and nothing else."""
    kinds = {type(layer) for layer in stack.layers}
    mixers: list[Any] = [getattr(layer, "mixer", None) for layer in stack.layers]
    one_kind = len(kinds) == 1 and kinds <= {Block, SaShiMiLayer}
    return one_kind and all(isinstance(m, S4D) for m in mixers) and len({m.c.shape for m in mixers}) == 1


class JointSystem(nn.Module):
    """The S4D systems of L layers side by side: L H channels of N modes, all that depends on parameters computed.

    A state holds 2 N rows in a row: all real parts, then all imaginary parts, of L H channels each.

    Attributes:
        gain: (L H) of a layer's present input.
        reads: (2 N, L H) of its state.
        re, im: (N L H) of the decay.
    """

    gain: Tensor
    reads: Tensor
    re: Tensor
    im: Tensor

    def __init__(self, mixers: Sequence[S4D]):
        super().__init__()
        with torch.no_grad():
            log_a, c = (torch.cat(parts) for parts in zip(*(mixer.discrete() for mixer in mixers), strict=True))
            gain, reads, _ = ssm_block(log_a, c, torch.cat([mixer.d for mixer in mixers]), 1)
            re, im = pairs.exp(log_a).permute(2, 1, 0).flatten(1)
            tensors = {"gain": gain.flatten(), "reads": reads[..., 0].T, "re": re, "im": im}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.contiguous())
        self.modes = log_a.shape[1]

    def free(self, x: Tensor) -> Tensor:
        """Return what the states x (B, 2 N L H) answer with no input, (B, L H)."""
        return add_rows(self.reads * x.unflatten(1, self.reads.shape)).flatten(1)

    def after(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return real and imaginary parts of the states after the inputs v (B, L H), (B, N L H) each."""
        every_mode = torch.cat([v] * self.modes, dim=1)
        x_re, x_im = x.chunk(2, dim=1)
        return x_re * self.re - x_im * self.im + every_mode, x_re * self.im + x_im * self.re


class StackStep(nn.Module):
    """A step of blocks: (u (B, H), x (B, 2 N L H)) to (y (B, H), real and imaginary parts of x afterwards).

    A block's norm is a constant gain and shift, and goes into its system's.
    """

    def __init__(self, stack: Stack):
        super().__init__()
        self.blocks = stack.layers
        self.system = JointSystem([block.mixer for block in self.blocks])  # type: ignore[misc]

    def forward(self, u: Tensor, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the stack. All that depends on parameters alone becomes a constant of the file."""
        blocks: list[Any] = list(self.blocks)
        scale, shift = (torch.cat(parts) for parts in zip(*(b.norm.constants() for b in blocks), strict=True))
        gain = self.system.gain  # of a layer's normed input v = scale u + shift
        free = self.system.free(x) + gain * shift
        count, inputs = len(blocks), []
        for block, k, ahead in zip(blocks, (gain * scale).chunk(count), free.chunk(count, dim=1), strict=True):
            inputs.append(u)
            h = F.gelu(k * u + ahead)
            # A GLU in two products: a runtime runs the gate's sigmoid with its product, and has nothing to take apart.
            value, gate = zip(block.gate.weight.chunk(2), block.gate.bias.chunk(2), strict=True)
            u = u + F.linear(h, *value) * F.linear(h, *gate).sigmoid()
        return u, self.system.after(x, torch.cat(inputs, dim=1) * scale + shift)


class SaShiMiStep(nn.Module):
    """A step of SaShiMi's layers, with the arguments and results of `StackStep`.

    What it computes with has fixed names in the file, system.* and layers.i.*, for runtimes that run the step
    themselves.
    """

    def __init__(self, stack: Stack):
        super().__init__()
        self.layers = nn.ModuleList(SaShiMiLayerStep(layer) for layer in stack.layers)  # type: ignore[arg-type]
        self.system = JointSystem([layer.mixer for layer in stack.layers])  # type: ignore[misc]

    def forward(self, u: Tensor, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the stack."""
        layers: list[Any] = list(self.layers)
        count, inputs = len(layers), []
        free, gain = self.system.free(x), self.system.gain
        for layer, k, ahead in zip(layers, gain.chunk(count), free.chunk(count, dim=1), strict=True):
            v = layer.norm(u)
            inputs.append(v)
            u = layer(u, F.gelu(k * v + ahead))
        return u, self.system.after(x, torch.cat(inputs, dim=1))


class SaShiMiLayerStep(nn.Module):
    """What follows the mixer in a layer of SaShiMi, its gated linear layer as two."""

    def __init__(self, layer: SaShiMiLayer):
        super().__init__()
        assert layer.gate is not None
        self.norm, self.ff_norm, self.ff_in, self.ff_out = layer.norm, layer.ff_norm, layer.ff_in, layer.ff_out
        weights, biases = layer.gate.weight.detach().chunk(2), layer.gate.bias.detach().chunk(2)
        self.value, self.gate = linear(weights[0], biases[0]), linear(weights[1], biases[1])

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        """Return the layer's output (B, H) for its input u and the mixer's output behind GELU, h."""
        u = u + self.value(h) * self.gate(h).sigmoid()
        if self.ff_norm is None or self.ff_in is None or self.ff_out is None:
            return u
        return u + self.ff_out(F.gelu(self.ff_in(self.ff_norm(u))))


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return the linear layer that a weight (out, in) and a bias make."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


class StackFrame(nn.Module):
    """A step of any stack on a packed state: (u (B, H), state (B, S)) to (y (B, H), state afterwards)."""

    def __init__(self, stack: Stack):
        super().__init__()
        one, blocks = is_one_system(stack), isinstance(stack.layers[0], Block)
        self.step = (StackStep(stack) if blocks else SaShiMiStep(stack)) if one else None
        self.stack = None if one else stack
        self.packing = Packing(self.kept(stack.initial_state(1)))

    def kept(self, state: State) -> State:
        """Return a stack's state as the file keeps it: channels last, one system's layers side by side."""
        reversed_parts = {name: reverse(value) for name, value in state.items()}
        return reversed_parts if self.step is None else {"x": torch.stack(list(reversed_parts.values()), dim=3)}

    def pack(self, state: State) -> Tensor:
        """Return a stack's state as (B, S)."""
        return self.packing.pack(self.kept(state))

    def forward(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run one step."""
        if self.step is not None:
            y, parts = self.step(u, state)
            return y, torch.cat(parts, dim=1)
        assert self.stack is not None
        before = {name: reverse(value) for name, value in self.packing.shaped(self.packing.unpack(state)).items()}
        y, after = self.stack(u.unsqueeze(1), before)
        return y.squeeze(1), torch.cat([reverse(value).flatten(1) for value in after.values()], dim=1)

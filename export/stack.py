"""One step of a stack of S4D blocks, with all its layers' systems run as one.

A linear system answers with its free response to the state plus its forced response to the input, and no input of this
step changes the first. So the L layers of H channels are one S4D of L H channels for all that concerns states; what is
left in each layer is a gain for its input and the gate. A frame takes a third of the operators that way.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.backbones import Block, Stack
from audiossm.kernels import channelwise, pairs
from audiossm.kernels.ssm import ssm_block
from audiossm.mixers import S4D


def is_one_system(stack: Stack) -> bool:
    """Say whether a stack can be run so: blocks with S4D mixers of one size, and nothing else."""
    mixers = [layer.mixer for layer in stack.layers if isinstance(layer, Block)]
    sizes = {mixer.c.shape for mixer in mixers if isinstance(mixer, S4D)}
    return len(mixers) == len(stack.layers) and len(sizes) == 1 and all(isinstance(m, S4D) for m in mixers)


class StackStep(nn.Module):
    """A step of a stack: (u (B, H), x (B, 2 N L H)) to (y (B, H), real and imaginary parts of x afterwards).

    x holds 2 N rows in a row: all real parts, then all imaginary parts, of the layers' states side by side.
    """

    def __init__(self, stack: Stack):
        super().__init__()
        self.blocks = stack.layers

    def forward(self, u: Tensor, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the stack. All that depends on parameters alone becomes a constant of the file."""
        blocks: list[Any] = list(self.blocks)
        log_a, c = (torch.cat(parts) for parts in zip(*(b.mixer.discrete() for b in blocks), strict=True))
        scale, shift = (torch.cat(parts) for parts in zip(*(b.norm.constants() for b in blocks), strict=True))
        gain, reads, _ = ssm_block(log_a, c, torch.cat([block.mixer.d for block in blocks]), 1)
        gain = gain.flatten()  # of a layer's normed input v = scale u + shift, (L H)
        free = channelwise(reads.permute(2, 1, 0), x.unflatten(1, (-1, len(gain)))).flatten(1) + gain * shift
        count, inputs = len(blocks), []
        for block, k, ahead in zip(blocks, (gain * scale).chunk(count), free.chunk(count, dim=1), strict=True):
            inputs.append(u)
            h = F.gelu(k * u + ahead)
            # A GLU in two products: a runtime runs the gate's sigmoid with its product, and has nothing to take apart.
            value, gate = zip(block.gate.weight.chunk(2), block.gate.bias.chunk(2), strict=True)
            u = u + F.linear(h, *value) * F.linear(h, *gate).sigmoid()
        re, im = pairs.exp(log_a).permute(2, 1, 0).flatten(1)  # a, each (N L H)
        v = torch.cat([torch.cat(inputs, dim=1) * scale + shift] * log_a.shape[1], dim=1)  # for each of N
        x_re, x_im = x.chunk(2, dim=1)
        return u, (x_re * re - x_im * im + v, x_re * im + x_im * re)

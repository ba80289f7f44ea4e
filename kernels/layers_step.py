"""One step of a whole stack of S4D layers, as few launches as it takes: raw audio sample by sample.

A layer is S4D's residual block and a feed-forward block (S4, Gu et al. 2022, appendix; SaShiMi, Goel et al. 2022):

    v = norm(u)       x <- a x + v        g = gelu(Re(c · x) + d v)        u <- u + (W_1 g + b_1) sigmoid(W_2 g + b_2)
                                          u <- u + W_out gelu(W_in norm(u) + b_in) + b_out

and around all layers is a skip: what comes in is added to what comes out.

A step is a chain of small products, which leaves a GPU idle but for the time each launch takes; so one launch does all
layers, and a row of the batch is a program's own. Only what trains no more is stepped: there is no backward.

Glossary: B batch, H channels, N complex modes a channel, F channels inside the feed-forward block, M layers. Planes are
the real and the imaginary parts, on an axis of 2 before (H, N).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from audiossm.kernels.dispatch import on_gpu


class Layers(NamedTuple):
    """The numbers of M layers. Matrices are (inputs, outputs), so that outputs lie side by side in memory."""

    a: Tensor  # (M, 2, H, N) decays
    c: Tensor  # (M, 2, H, N) output weights: input step and the factor 2 folded in
    d: Tensor  # (M, H)
    norm: Tensor  # (M, 2, H) the first norm's scale and shift
    gate: Tensor  # (M, H, H, 2) W_1 and W_2, their outputs side by side
    gate_bias: Tensor  # (M, H, 2)
    ff_norm: Tensor  # (M, 2, H) the second's
    ff_in: Tensor  # (M, H, F)
    ff_in_bias: Tensor  # (M, F)
    ff_out: Tensor  # (M, F, H)
    ff_out_bias: Tensor  # (M, H)


def layers_step_reference(
    u: Tensor, state: Tensor, layers: Layers, added: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Compute `layers_step` as its definition says; return the outputs and the states behind it."""
    first = u = u if added is None else u + added
    states = []
    for m in range(len(layers.d)):
        here = Layers(*(numbers[m] for numbers in layers))
        v = F.layer_norm(u, u.shape[-1:], here.norm[0], here.norm[1], eps)
        (a_re, a_im), (c_re, c_im), (x_re, x_im) = here.a, here.c, state[m].unbind(1)
        x_re, x_im = a_re * x_re - a_im * x_im + v.unsqueeze(-1), a_re * x_im + a_im * x_re
        states.append(torch.stack((x_re, x_im), dim=1))
        g = F.gelu((c_re * x_re - c_im * x_im).sum(-1) + here.d * v)
        value, opening = ((g @ here.gate.flatten(1)).unflatten(-1, (-1, 2)) + here.gate_bias).unbind(-1)
        u = u + value * opening.sigmoid()
        v = F.layer_norm(u, u.shape[-1:], here.ff_norm[0], here.ff_norm[1], eps)
        u = u + F.gelu(v @ here.ff_in + here.ff_in_bias) @ here.ff_out + here.ff_out_bias
    return first + u, torch.stack(states)


def layers_step(u: Tensor, state: Tensor, layers: Layers, added: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Run M layers one step on, with a skip around them all, and change `state` in place, as a CUDA graph wants.

    Args:
        u: (B, H) inputs, channels side by side.
        state: (M, B, 2, H, N) planes, contiguous: the states before the step, and after it those behind it.
        layers: the layers' numbers.
        added: (B, H) to add to u before anything else; None: nothing.
        eps: of the norms.

    Returns:
        (B, H).
    """
    if on_gpu(u, state, layers.ff_in):
        from audiossm.kernels.gpu.layers_step import layers_step as in_triton

        return in_triton(u, state, layers, added, eps)
    y, behind = layers_step_reference(u, state, layers, added, eps)
    state.copy_(behind)
    return y

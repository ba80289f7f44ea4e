"""The next symbol of an autoregressive model: read out, drawn, and its row of a table fetched, in one launch."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from audiossm.kernels.dispatch import on_gpu


class Readout(NamedTuple):
    """What turns H channels into the logits of K symbols: W norm(y) + b."""

    weight: Tensor  # (H, K)
    bias: Tensor  # (K,)
    norm: Tensor | None = None  # (2, H) a LayerNorm's scale and shift; None: there is none


def draw_reference(
    y: Tensor, readout: Readout, uniform: Tensor, temperature: float = 1.0, top_p: float = 1.0, eps: float = 1e-5
) -> Tensor:
    """Return the symbols that `draw` draws, as its definition says."""
    if readout.norm is not None:
        y = F.layer_norm(y, y.shape[-1:], readout.norm[0], readout.norm[1], eps)
    logits = (y @ readout.weight + readout.bias) / temperature
    p = logits.softmax(-1)
    other = p.unsqueeze(-2)  # (B, 1, K) against (B, K, 1)
    more_probable = torch.where(other > p.unsqueeze(-1), other, 0).sum(-1)
    p = torch.where(more_probable < top_p, p, 0)
    path = p.cumsum(-1)
    last = torch.where(p > 0, torch.arange(p.shape[-1], device=p.device), 0).amax(-1)
    return (path <= uniform[:, None] * path[:, -1:]).sum(-1).minimum(last)


def draw(
    y: Tensor,
    readout: Readout,
    uniform: Tensor,
    table: Tensor,
    to: Tensor,
    symbols: Tensor,
    temperature: float = 1.0,
    top_p: float = 1.0,
    added: Tensor | None = None,
    eps: float = 1e-5,
) -> None:
    """Draw a symbol for each row of y into `symbols`, and its row of a table into `to`: what the model hears next.

    The distribution is softmax(logits / temperature), of which the most probable symbols are kept, as few as have
    top_p of the whole together (nucleus sampling: Holtzman et al. 2020, arXiv 1904.09751): those than which less than
    top_p is more probable. The symbol is where the sum of what is kept, in the order of the symbols, passes the uniform
    number's share of it.

    Args:
        y: (B, H), contiguous.
        readout: how it becomes logits.
        uniform: (B,) random numbers in [0, 1).
        table: (at least K, H) rows.
        to: (B, H), channels side by side: gets the rows.
        symbols: (B,) int64, in any layout: gets the symbols.
        temperature: above 0; 0 stands for the most probable symbol.
        top_p: above 0; 1 keeps all.
        added: (B, H), added to the rows.
        eps: of the norm.

    Raises:
        ValueError: temperature below 0, or top_p outside (0, 1].
    """
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature is at least 0 and top_p above 0, at most 1; not {temperature} and {top_p}")
    if temperature == 0:
        temperature, top_p = 1.0, 1e-9
    if on_gpu(y, readout.weight, table):
        from audiossm.kernels.gpu.draw import draw as in_triton

        in_triton(y, readout, uniform, table, to, symbols, temperature, top_p, added, eps)
        return
    symbols.copy_(draw_reference(y, readout, uniform, temperature, top_p, eps))
    to.copy_(table[symbols] if added is None else table[symbols] + added)

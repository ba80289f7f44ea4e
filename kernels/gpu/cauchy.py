"""`cauchy` on a GPU: poles in a loop, nothing of size N L in memory.

With p = 1 / (z - w), q = 1 / (z - w̄), y = v p + v̄ q and g the gradient of y,

    dv = sum_l g p̄ + ḡ q          dw = v̄ sum_l (g p̄² + ḡ q²)

so that the backward makes both sums over the nodes at once, for all rows of weights.

Glossary: R rows of weights, H channels, N pairs of poles, L nodes, S parts of the nodes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import on_device

CONFIGS: dict[str, dict[str, int]] = {
    "sums": {"BL": 256, "num_warps": 4},
    "gradients": {"BL": 16, "NODES": 2048, "num_warps": 4},
}


def candidates() -> dict[str, list[dict[str, int]]]:
    """Return what `python -m audiossm.kernels.bench cauchy --tune` times."""
    sums = [{"BL": n, "num_warps": w} for n in (128, 256, 512) for w in (2, 4, 8)]
    nodes = [(16, 1024), (16, 2048), (16, 4096), (32, 2048), (32, 4096)]
    return {"sums": sums, "gradients": [{"BL": n, "NODES": s, "num_warps": w} for n, s in nodes for w in (4, 8)]}


@triton.jit
def reciprocal(re, im):
    """Return 1 / (re + i im)."""
    scale = 1.0 / (re * re + im * im)
    return re * scale, -im * scale


@triton.jit
def sums(v, z, w, y, channels, modes, nodes, R: tl.constexpr, BR: tl.constexpr, BL: tl.constexpr):
    """Write y (R, H, L, 2) of one channel at BL nodes."""
    blocks = tl.cdiv(nodes, BL)
    h = tl.program_id(0) // blocks
    at = (tl.program_id(0) % blocks) * BL + tl.arange(0, BL)[None, :]
    r = tl.arange(0, BR)[:, None]
    inside, row = at < nodes, r < R
    z_re, z_im = tl.load(z + 2 * at, inside, 1.0), tl.load(z + 2 * at + 1, inside, 0.0)
    y_re, y_im = tl.zeros((BR, BL), tl.float32), tl.zeros((BR, BL), tl.float32)
    v += (r * channels + h) * modes * 2
    w += h * modes * 2
    for _ in range(modes):
        w_re, w_im = tl.load(w), tl.load(w + 1)
        p_re, p_im = reciprocal(z_re - w_re, z_im - w_im)
        q_re, q_im = reciprocal(z_re - w_re, z_im + w_im)
        v_re, v_im = tl.load(v, row, 0.0), tl.load(v + 1, row, 0.0)
        y_re += v_re * (p_re + q_re) - v_im * (p_im - q_im)
        y_im += v_re * (p_im + q_im) + v_im * (p_re - q_re)
        v += 2
        w += 2
    y += ((r.to(tl.int64) * channels + h) * nodes + at) * 2
    tl.store(y, y_re, row & inside)
    tl.store(y + 1, y_im, row & inside)


@triton.jit
def gradients(
    g, z, w, parts, channels, modes, nodes, R: tl.constexpr, BN: tl.constexpr, BL: tl.constexpr, NODES: tl.constexpr
):
    """Write both sums over NODES nodes, of one channel and BN poles, (S, 2, R, H, N, 2)."""
    blocks = tl.cdiv(modes, BN)
    h, n = tl.program_id(0) // blocks, (tl.program_id(0) % blocks) * BN + tl.arange(0, BN)
    inside = n < modes
    w_re = tl.load(w + (h * modes + n) * 2, inside, 1.0)[:, None]
    w_im = tl.load(w + (h * modes + n) * 2 + 1, inside, 0.0)[:, None]
    first = tl.program_id(1) * NODES
    zero = tl.zeros((BN, BL), tl.float32)
    acc = ()
    for _ in tl.static_range(4 * R):
        acc = acc + (zero,)  # type: ignore  # noqa: RUF005
    for begin in range(first, min(first + NODES, nodes), BL):
        at = begin + tl.arange(0, BL)
        there = at < nodes
        z_re, z_im = tl.load(z + 2 * at, there, 0.0)[None, :], tl.load(z + 2 * at + 1, there, 0.0)[None, :]
        p_re, p_im = reciprocal(z_re - w_re, z_im - w_im)
        q_re, q_im = reciprocal(z_re - w_re, z_im + w_im)
        pp_re, pp_im = p_re * p_re - p_im * p_im, 2 * p_re * p_im
        qq_re, qq_im = q_re * q_re - q_im * q_im, 2 * q_re * q_im
        more = ()
        for r in tl.static_range(R):
            of_y = g + ((r * channels + h).to(tl.int64) * nodes + at) * 2
            g_re, g_im = tl.load(of_y, there, 0.0)[None, :], tl.load(of_y + 1, there, 0.0)[None, :]
            more = more + (  # type: ignore  # noqa: RUF005
                acc[4 * r] + g_re * (p_re + q_re) + g_im * (p_im + q_im),
                acc[4 * r + 1] + g_im * (p_re - q_re) - g_re * (p_im - q_im),
                acc[4 * r + 2] + g_re * (pp_re + qq_re) + g_im * (pp_im + qq_im),
                acc[4 * r + 3] + g_im * (pp_re - qq_re) - g_re * (pp_im - qq_im),
            )
        acc = more
    for r in tl.static_range(R):
        for k in tl.static_range(2):
            to = parts + ((((tl.program_id(1) * 2 + k) * R + r) * channels + h) * modes + n) * 2
            tl.store(to, tl.sum(acc[4 * r + 2 * k], 1), inside)
            tl.store(to + 1, tl.sum(acc[4 * r + 2 * k + 1], 1), inside)


@torch.library.custom_op("audiossm::cauchy", mutates_args=())
def cauchy(v: Tensor, z: Tensor, w: Tensor) -> Tensor:
    """See `audiossm.kernels.cauchy`; nothing is empty, all is float32."""
    (rows, channels, modes, _), nodes, config = v.shape, len(z), CONFIGS["sums"]
    y = v.new_empty(rows, channels, nodes, 2)
    with on_device(v):
        sums[(channels * triton.cdiv(nodes, config["BL"]),)](
            v.contiguous(), z.contiguous(), w.contiguous(), y, channels, modes, nodes,
            R=rows, BR=triton.next_power_of_2(rows), **config,
        )  # fmt: skip
    return y


@torch.library.custom_op("audiossm::cauchy_backward", mutates_args=())
def cauchy_backward(v: Tensor, z: Tensor, w: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of v and w, given that of y."""
    (rows, channels, modes, _), nodes, config = v.shape, len(z), CONFIGS["gradients"]
    width = min(32, triton.next_power_of_2(modes))
    parts = v.new_empty(triton.cdiv(nodes, config["NODES"]), 2, rows, channels, modes, 2)
    with on_device(v):
        gradients[channels * triton.cdiv(modes, width), len(parts)](
            g.contiguous(), z.contiguous(), w.contiguous(), parts, channels, modes, nodes, R=rows, BN=width, **config
        )
    of_v, squares = parts.sum(0)
    product = torch.view_as_complex(v.contiguous()).conj() * torch.view_as_complex(squares)
    return of_v.clone(), torch.view_as_real(product.sum(0))


@cauchy.register_fake
def _(v: Tensor, z: Tensor, w: Tensor) -> Tensor:
    return v.new_empty(*v.shape[:2], z.shape[0], 2)


@cauchy_backward.register_fake
def _(v: Tensor, z: Tensor, w: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v, memory_format=torch.contiguous_format), w.new_empty(w.shape)


def remember(ctx, inputs: tuple, output: Tensor) -> None:
    """Keep the inputs."""
    ctx.save_for_backward(*inputs)


def backward(ctx, g: Tensor) -> tuple[Tensor, None, Tensor]:
    """See `cauchy_backward`."""
    of_v, of_w = cauchy_backward(*ctx.saved_tensors, g)
    return of_v, None, of_w


cauchy.register_autograd(backward, setup_context=remember)

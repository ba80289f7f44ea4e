"""`ssd` on a GPU: chunks of Q steps on the tensor cores, the state walked from chunk to chunk.

With c_i the sum of a chunk's log decays dt A up to step i, c_Q that of all, H the chunk's first state (P, N) and the
decayed sum over earlier steps written with v_j = dt_j x_j,

    y_i = exp(c_i) H C_i + sum_{j<=i} exp(c_i - c_j) (C_i·B_j) v_j            (`outputs`)
    H'  = exp(c_Q) H + sum_j exp(c_Q - c_j) v_j B_jᵀ                          (`states`: H' is the next chunk's H)

C_i·B_j is the same for all heads of a group and computed once (`products`). Every exponent is at most 0.

The adjoint is the same system with time turned round: the gradient of v_j is y of a walk from the end to the start in
which the gradient of y enters with C and is read with B, and where c counts the decays after a step instead of up to
it. So the backward runs the same three kernels on reversed strides. Let g be the gradient of y and G the adjoint state
behind a chunk. What else the backward needs is, with M_ij = exp(c_i - c_j) (v_j·g_i),

    dC_i = sum_heads exp(c_i) Hᵀ g_i + sum_j (sum_heads M_ij) B_j             (`pair_gradients`, then
    dB_j = sum_heads exp(c_Q - c_j) Gᵀ v_j + sum_i (sum_heads M_ij) C_i        `vector_gradients` once each way)
    d(dt A)_k = sum_{j<k<=i} M_ij (C_i·B_j) + sum_{i>=k} exp(c_i) g_i·H C_i
              + sum_{j<k} exp(c_Q - c_j) v_j·G B_j + exp(c_Q) <G, H>          (`finish`)

where the last is made of terms that do cross step k only, so that fast decays do not cancel.

Memory: H and G are kept a chunk, (B, K, H, P, N), while an operation runs; the forward leaves nothing behind.

Glossary: B batch, L length, H heads, P channels a head, G groups, N state, Q chunk, K chunks. A walk sees time s, which
is t or, turned, counts from the end; chunks are the same both ways, so a turned walk skips what the last chunk lacks.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import INTERPRETED, on_device
from audiossm.kernels.gpu.ssd_gradients import finish, pair_gradients, vector_gradients
from audiossm.kernels.gpu.ssd_walks import decays, outputs, products, states

# Chunk lengths of half and of float32 tensors, then what each kernel is launched with.
CONFIGS: dict[str, dict[str, int]] = {
    "chunk": {"half": 128, "float": 64},
    "states": {"BP": 64, "BN": 64, "PROGRAMS": 256, "num_warps": 4, "num_stages": 3},
    "products": {"BN": 64, "num_warps": 8, "num_stages": 2},
    "outputs": {"BI": 64, "BP": 64, "BN": 128, "num_warps": 4, "num_stages": 1, "maxnreg": 128},
    "turned_outputs": {"BI": 64, "BP": 64, "BN": 128, "num_warps": 4, "num_stages": 1, "maxnreg": 168},
    "pair_gradients": {"BI": 64, "BP": 64, "BN": 64, "num_warps": 4, "num_stages": 3},
    "vector_gradients": {"BI": 64, "BP": 64, "BN": 128, "num_warps": 4, "num_stages": 3},
}
SHARED = 150_000  # bytes a program may load ahead


def candidates() -> dict[str, list[dict[str, int]]]:
    """Return what `python -m audiossm.kernels.bench ssd --tune` times."""
    warps = [{"num_warps": w, "num_stages": s} for w in (4, 8) for s in (1, 2, 3)]
    read_out = [{"BI": i, "num_warps": i // 16, "maxnreg": most} for i in (32, 64, 128) for most in (128, 168, 255)]
    return {
        "chunk": [{"half": 128, "float": 64}, {"half": 64, "float": 64}, {"half": 128, "float": 128}],
        "states": [{"BN": n, **w} for n in (64, 128) for w in warps] + [{"PROGRAMS": n} for n in (512, 1024)],
        "products": warps,
        "outputs": read_out,
        "turned_outputs": read_out,
        "pair_gradients": [*warps, *({"num_warps": 4, "num_stages": s, "maxnreg": 168} for s in (1, 2))],
        "vector_gradients": [{"BI": i, "BN": n, **w} for i in (64, 128) for n in (64, 128) for w in warps],
    }


def precision(dtype: torch.dtype) -> str:
    """Return how float32 numbers are multiplied: as torch's own switch says.

    "highest" is three TF32 products, which together keep float32's digits; plain products fill up the registers. TF32
    holds all of a float16.
    """
    exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return "tf32x3" if exact else "tf32"


def block(limit: int, size: int) -> int:
    """Return a power of two that covers a size, up to a limit; the tensor cores want 16."""
    return min(limit, max(16, triton.next_power_of_2(size)))


def lanes(x: Tensor) -> Tensor:
    """Return x such that neighbours on the last axis are neighbours in memory."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


@dataclass(frozen=True)
class Shape:
    """What all kernels of a call share."""

    batch: int
    length: int
    heads: int
    width: int  # P
    groups: int
    n: int
    dtype: torch.dtype

    @staticmethod
    def of(x: Tensor, w: Tensor) -> "Shape":
        """Read it off x and B."""
        batch, length, heads, width = x.shape
        return Shape(batch, length, heads, width, w.shape[2], w.shape[3], x.dtype)

    @property
    def q(self) -> int:
        """Chunk length."""
        longest = CONFIGS["chunk"]["half" if self.dtype == torch.bfloat16 else "float"]
        return block(longest, self.length)

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return triton.cdiv(self.length, self.q)

    @property
    def share(self) -> int:
        """Heads a group."""
        return self.heads // self.groups

    @property
    def held(self) -> torch.dtype:
        """How states and products lie in memory: bfloat16 only of bfloat16, float16 has too short a range."""
        return torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float32

    def config(self, kernel: str) -> dict[str, int]:
        """Return a kernel's constants, blocks no wider than what they cover."""
        most = {"BP": self.width, "BN": self.n, "BI": self.q}
        blocks = {name: block(v, most[name]) if name in most else v for name, v in CONFIGS[kernel].items()}
        if self.held == torch.float32:  # three TF32 products take as many registers as there are
            blocks.pop("maxnreg", None)
        if "num_stages" in blocks:  # what is loaded ahead, at most x and a state of 128 by head, has to fit
            each = (64 + 128) * max(64, self.width) * self.held.itemsize
            blocks["num_stages"] = min(blocks["num_stages"], max(1, SHARED // each))
        sizes = {"N": self.n} if kernel == "products" else {"P": self.width, "N": self.n}
        return {**blocks, **sizes}

    def products(self) -> dict[str, object]:
        """Return the constants of all kernels with matrix products."""
        operand = (
            tl.bfloat16 if self.held == torch.bfloat16 and not INTERPRETED else tl.float32
        )  # it cannot multiply them
        return {"Q": self.q, "DOT": operand, "PRECISION": precision(self.dtype)}


@dataclass(frozen=True)
class Walk:
    """A direction of time with its decays: see `decays`."""

    turned: bool
    skip: int  # steps that the first chunk lacks
    weight: Tensor
    cum: Tensor
    enter: Tensor
    total: Tensor

    def sees(self, x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Return where a sequence (B, L, ...) begins and its strides by row, step and head or group."""
        row, step, head = x.stride()[:3]
        return (x[:, -1:], (row, -step, head)) if self.turned else (x, (row, step, head))


def walk(shape: Shape, dt: Tensor, A: Tensor, turned: bool) -> Walk:
    """Compute a direction's decays."""
    each = (shape.batch, shape.heads, shape.chunks)
    weight, cum, enter = (A.new_empty(*each, shape.q) for _ in range(3))
    total = A.new_empty(each)
    way = Walk(turned, shape.chunks * shape.q - shape.length if turned else 0, weight, cum, enter, total)
    seen, strides = way.sees(dt)
    decays[(shape.chunks * shape.heads, shape.batch)](
        seen, A, weight, cum, enter, total, shape.length, way.skip, shape.chunks, shape.heads, *strides,
        Q=shape.q, TURNED=turned, num_warps=1,
    )  # fmt: skip
    return way


def multiply(shape: Shape, way: Walk, r: Tensor, w: Tensor) -> Tensor:
    """Launch `products`."""
    out = r.new_empty(shape.batch, shape.chunks, shape.groups, shape.q, shape.q, dtype=shape.held)
    config = shape.config("products")
    (r, of_r), (w, of_w) = way.sees(r), way.sees(w)
    products[(shape.chunks * shape.groups, shape.batch)](
        r, w, out, shape.length, way.skip, shape.chunks, shape.groups, *of_r, *of_w,
        **shape.products(), **config,
    )  # fmt: skip
    return out


def carry(
    shape: Shape, way: Walk, v: Tensor, w: Tensor, first: Tensor, other: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch `states`: return those at the chunks' starts, the last one and, beside `other`, the inner products."""
    config = shape.config("states")
    blocks = triton.cdiv(shape.width, config["BP"]) * triton.cdiv(shape.n, config["BN"])
    programs, wanted = blocks * shape.heads * shape.batch, config.pop("PROGRAMS")
    span = triton.cdiv(shape.chunks, max(1, min(wanted // programs, shape.chunks // 4)))
    spans = triton.cdiv(shape.chunks, span)
    size = (shape.heads, shape.width, shape.n)
    out = first.new_empty(shape.batch, shape.chunks, *size, dtype=shape.held)
    final, ends = torch.empty_like(first), first.new_empty(shape.batch, spans if spans > 1 else 0, *size)
    energy = first.new_empty(blocks if other is not None else 0, shape.batch, shape.heads, shape.chunks)
    (v, of_v), (w, of_w) = way.sees(v), way.sees(w)
    for only_ends in (True, False) if spans > 1 else (False,):
        states[(blocks * shape.heads * (spans - only_ends), shape.batch)](
            v, w, way.enter, way.total, first, ends, out, final, out if other is None else other, energy,
            shape.length, way.skip, shape.chunks, shape.heads, shape.share, span, *of_v, *of_w,
            ENDS=only_ends, ENERGY=other is not None and not only_ends,
            **shape.products(), **config,
        )  # fmt: skip
    return out, final, energy


def read_out(
    shape: Shape, way: Walk, v: Tensor, r: Tensor, pairs: Tensor, start: Tensor, D: Tensor | None, x: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch `outputs`: return y or the gradient of x, and parts of those of dt and D."""
    config = shape.config("turned_outputs" if way.turned else "outputs")
    blocks = triton.cdiv(shape.width, config["BP"])
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    parts = (blocks if way.turned else 0, shape.batch, shape.heads, shape.chunks)
    direct, entering = (way.cum.new_empty(*parts, shape.q) for _ in range(2))
    tiles = shape.q // config["BI"]
    D_part = way.cum.new_empty(*parts, tiles)
    (v, of_v), (r, of_r), (to, of_y), (x, of_x) = way.sees(v), way.sees(r), way.sees(y), way.sees(x)
    outputs[(tiles * blocks * shape.heads * shape.chunks, shape.batch)](
        v, r, pairs, start, way.weight, way.cum, way.cum if D is None else D, to, x, direct, entering, D_part,
        shape.length, way.skip, shape.chunks, shape.heads, shape.share,
        *of_v, *of_r, *of_y, *of_x, SKIP=D is not None, TURNED=way.turned, **shape.products(), **config,
    )  # fmt: skip
    return y, direct, entering, D_part


def vectors(
    shape: Shape, way: Walk, v: Tensor, r: Tensor, w: Tensor, start: Tensor, pairs: Tensor
) -> tuple[Tensor, Tensor]:
    """Launch `vector_gradients`: return the gradient of r, which is C or B, and the inner products by head."""
    config = shape.config("vector_gradients")
    blocks, tiles = triton.cdiv(shape.n, config["BN"]), shape.q // config["BI"]
    out = torch.empty_like(r, memory_format=torch.contiguous_format)
    inner = way.cum.new_empty(0 if way.turned else blocks, *way.cum.shape)
    (v, of_v), (r, of_r), (w, of_w), (to, of_out) = way.sees(v), way.sees(r), way.sees(w), way.sees(out)
    vector_gradients[(tiles * blocks * shape.groups * shape.chunks, shape.batch)](
        v, r, w, start, pairs, way.weight, way.cum, to, inner,
        shape.length, way.skip, shape.chunks, shape.heads, shape.share,
        *of_v, *of_r, *of_w, *of_out, TURNED=way.turned, **shape.products(), **config,
    )  # fmt: skip
    return out, inner


@torch.library.custom_op("audiossm::ssd", mutates_args=())
def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """See `audiossm.kernels.ssd`; nothing is empty, dt is as used, A, D and the state are float32."""
    shape, x, B, C = Shape.of(x, B), lanes(x), lanes(B), lanes(C)
    with on_device(x):
        way = walk(shape, dt, A, turned=False)
        start, final, _ = carry(shape, way, x, B, state.contiguous())
        y, *_ = read_out(shape, way, x, C, multiply(shape, way, C, B), start, D, x)
    return y, final


@torch.library.custom_op("audiossm::ssd_backward", mutates_args=())
def ssd_backward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor, g: Tensor, last: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of all inputs, given those of y and of the last state; that of no D is of size 0."""
    shape, x, B, C, g = Shape.of(x, B), lanes(x), lanes(B), lanes(C), lanes(g)
    with on_device(x):
        way, back = walk(shape, dt, A, turned=False), walk(shape, dt, A, turned=True)
        start, _, _ = carry(shape, way, x, B, state.contiguous())
        adjoint, of_state, energy = carry(shape, back, g, C, last.contiguous(), start)
        of_x, direct, entering, D_part = read_out(shape, back, g, B, multiply(shape, back, B, C), adjoint, D, x)

        config = shape.config("pair_gradients")
        tiles = shape.q // config["BI"]
        pairs = x.new_empty(shape.batch, shape.chunks, shape.groups, shape.q, shape.q, dtype=shape.held)
        later, earlier = (way.cum.new_empty(tiles, *way.cum.shape) for _ in range(2))
        pair_gradients[(tiles**2 * shape.groups * shape.chunks, shape.batch)](
            g, x, C, B, way.weight, way.cum, pairs, later, earlier,
            shape.length, shape.chunks, shape.heads, shape.share,
            *g.stride()[:3], *x.stride()[:3], *C.stride()[:3], *B.stride()[:3], **shape.products(), **config,
        )  # fmt: skip
        of_C, leaving = vectors(shape, way, g, C, B, start, pairs)
        of_B, _ = vectors(shape, back, x, B, C, adjoint, pairs)

        of_dt, A_part = torch.empty(dt.shape, dtype=torch.float32, device=dt.device), torch.empty_like(way.total)
        finish[(shape.chunks * shape.heads, shape.batch)](
            later, earlier, leaving, entering, energy, direct, way.weight, A, of_dt, A_part,
            shape.length, shape.chunks, shape.heads, tiles, leaving.shape[0], direct.shape[0], energy.shape[0],
            Q=shape.q, num_warps=1,
        )  # fmt: skip
    of_D = A.new_empty(0) if D is None else D_part.sum((0, 1, 3, 4))
    return of_x, of_dt.to(dt.dtype), A_part.sum((0, 2)), of_B, of_C, of_D, of_state


@ssd.register_fake
def _(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(state)


@ssd_backward.register_fake
def _(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor, g: Tensor, last: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    of_x, of_dt, of_B, of_C = (torch.empty_like(v, memory_format=torch.contiguous_format) for v in (x, dt, B, C))
    return (
        of_x,
        of_dt,
        torch.empty_like(A),
        of_B,
        of_C,
        A.new_empty(0 if D is None else D.shape),
        torch.empty_like(state),
    )


def remember(ctx, inputs: tuple, output: tuple) -> None:
    """Keep the inputs: states are computed again, they would take as much memory as x."""
    ctx.save_for_backward(*inputs)


def backward(ctx, g: Tensor, last: Tensor) -> tuple[Tensor | None, ...]:
    """See `ssd_backward`."""
    grads = ssd_backward(*ctx.saved_tensors, g, last)
    return *grads[:5], None if ctx.saved_tensors[5] is None else grads[5], grads[6]


ssd.register_autograd(backward, setup_context=remember)

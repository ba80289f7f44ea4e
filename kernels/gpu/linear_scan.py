"""`linear_scan` on a GPU: a program walks one row in tiles of T steps, each summed up in parallel.

Every tensor is read once and written once, which is the floor: three of them forward, five backward. Where rows are few
and long, a row is cut into K chunks of Q steps, a program each. A first pass composes each chunk to one map, and a
chunk's program begins with the composition of those before it (Blelloch 1990): a and b are read twice.

The adjoint is the same scan with time turned round, of the gradients g_t with decay ā_{t+1}, which is 1 after the last
step, where the gradient of the final state comes in: l_t = g_t + ā_{t+1} l_{t+1}; see `linear_scan.Prefixes`.

Glossary: R rows (B batch times C channels), L steps, T steps a tile, K chunks of Q steps. A complex row is two planes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import on_device
from audiossm.kernels.gpu.complex import times
from audiossm.kernels.gpu.layout import along_time

CONFIGS = {"scan": {"T": 2048, "num_warps": 4}}
ENOUGH = 1024  # programs that fill a GPU
MOST = 256  # chunks of a row: each chunk's program reads the maps of all before it


def candidates() -> dict[str, list[dict[str, int]]]:
    """Return what the constants of each kernel could be."""
    sizes = ((512, 1), (512, 2), (1024, 1), (1024, 2), (1024, 4), (2048, 2), (2048, 4), (2048, 8), (4096, 4), (4096, 8))
    return {"scan": [{"T": steps, "num_warps": warps} for steps, warps in (*sizes, (8192, 8), (8192, 16))]}


@triton.jit
def compose(a, b, c, d):
    """Map h -> a h + b, then h -> c h + d."""
    return c * a, c * b + d


@triton.jit
def compose_complex(a_re, a_im, b_re, b_im, c_re, c_im, d_re, d_im):
    """Do the same in complex numbers."""
    re, im = times(c_re, c_im, a_re, a_im)
    x_re, x_im = times(c_re, c_im, b_re, b_im)
    return re, im, x_re + d_re, x_im + d_im


@triton.jit
def read(at, plane, inside, other, COMPLEX: tl.constexpr):
    """Load real and imaginary parts in float32, a real number as both. `other` stands outside, a real number.

    So code that treats both parts alike needs no case for real numbers: what it does twice is compiled once.
    """
    re = tl.load(at, inside, other).to(tl.float32)
    im = re
    if COMPLEX:
        im = tl.load(at + plane, inside, 0.0).to(tl.float32)
    return re, im


@triton.jit
def write(at, plane, re, im, inside, COMPLEX: tl.constexpr):
    """Store what `read` loads."""
    tl.store(at, re, inside)
    if COMPLEX:
        tl.store(at + plane, im, inside)


@triton.jit
def product(a_re, a_im, x_re, x_im, COMPLEX: tl.constexpr):
    """Return a x."""
    if COMPLEX:
        re, im = times(a_re, a_im, x_re, x_im)
    else:
        re, im = a_re * x_re, a_im * x_im
    return re, im


@triton.jit
def maps(a_re, a_im, b_re, b_im, COMPLEX: tl.constexpr):
    """Compose each step with all before it."""
    if COMPLEX:
        p_re, p_im, h_re, h_im = tl.associative_scan((a_re, a_im, b_re, b_im), 0, compose_complex)
    else:
        p_re, h_re = tl.associative_scan((a_re, b_re), 0, compose)
        p_im, h_im = p_re, h_re
    return p_re, p_im, h_re, h_im


@triton.jit
def pick(re, im, here):
    """Return the one element that is marked."""
    return tl.sum(tl.where(here, re, 0.0)), tl.sum(tl.where(here, im, 0.0))


@triton.jit
def fours(x):
    """Split x (M, 4) into its four columns: a row lies in one thread."""
    even, odd = tl.split(x.reshape(x.shape[0], 2, 2))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def line(x0, x1, x2, x3):
    """Join four columns (M) to M rows."""
    return tl.join(tl.join(x0, x2), tl.join(x1, x3)).reshape(x0.shape[0], 4)


@triton.jit
def turn(x):
    """Turn each four (M, 4) round.

    The last four is loaded first: so time is turned, and loads are still of 16 bytes. (The compiler's reverse scan
    exchanges every element between threads.)
    """
    x0, x1, x2, x3 = fours(x)
    return line(x3, x2, x1, x0)


@triton.jit
def turn_later(x, after):
    """Turn time round, at each step its next step's x; `after` (M) is what comes after each four."""
    _, x1, x2, x3 = fours(x)
    return line(after, x3, x2, x1)


@triton.jit
def turn_earlier(x, before):
    """Turn time round, at each step the x of the step before; `before` (M) is what comes before each four."""
    x0, x1, x2, _ = fours(x)
    return line(x2, x1, x0, before)


@triton.jit
def turned_steps(begin, T: tl.constexpr):
    """Return where each four of a tile begins (M), the last first, and its steps (M, 4)."""
    four = begin + 4 * (T // 4 - 1 - tl.arange(0, T // 4))
    return four, four[:, None] + tl.arange(0, 4)[None, :]


@triton.jit
def read_adjoint(a, grad, begin, length, a_plane, g_plane, COMPLEX: tl.constexpr, T: tl.constexpr):
    """Load ā_{t+1} and g_t of a tile, time turned round; ā is 1 after the last step."""
    four, t = turned_steps(begin, T)
    a_re, a_im = read(a + t, a_plane, t < length, 1.0, COMPLEX)
    after_re, after_im = read(a + four + 4, a_plane, four + 4 < length, 1.0, COMPLEX)
    g_re, g_im = read(grad + t, g_plane, t < length, 0.0, COMPLEX)
    a_re, a_im = turn_later(a_re, after_re), turn_later(a_im, after_im)
    if COMPLEX:
        a_im = -a_im
    return a_re.reshape(T), a_im.reshape(T), turn(g_re).reshape(T), turn(g_im).reshape(T)


@triton.jit
def first_state(first, ends, row, rows, own, K, COMPLEX: tl.constexpr, CHUNKS: tl.constexpr):
    """Return the state in which chunk `own` begins: that at the very start, mapped by all chunks before it."""
    PLANES: tl.constexpr = 2 if COMPLEX else 1
    h_re, h_im = read(first + row * PLANES, 1, True, 0.0, COMPLEX)
    if CHUNKS > 1:
        chunk = tl.arange(0, CHUNKS)
        at, part, before = ends + row * K + chunk, rows * K, chunk < own
        a_re, a_im = read(at, part, before, 1.0, COMPLEX)
        b_re, b_im = read(at + PLANES * part, part, before, 0.0, COMPLEX)
        a_re, a_im, b_re, b_im = maps(a_re, a_im, b_re, b_im, COMPLEX)
        re, im = product(a_re, a_im, h_re, h_im, COMPLEX)
        h_re, h_im = pick(re + b_re, im + b_im, chunk == CHUNKS - 1)
    return h_re, h_im


@triton.jit
def row_of(x, channels, x_batch, x_channel):
    """Return where this program's row begins."""
    row = tl.program_id(0)
    return x + (row // channels).to(tl.int64) * x_batch + (row % channels).to(tl.int64) * x_channel


@triton.jit
def chunk_ends(
    a, b, ends, length, channels, Q, a_batch, a_channel, a_plane, b_batch, b_channel, b_plane,
    COMPLEX: tl.constexpr, TURNED: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Write each chunk's map, (planes of a, then of b; R, K).

    Turned, it is the adjoint's map, and chunks count from the end.
    """
    row, chunk, K = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    PLANES: tl.constexpr = 2 if COMPLEX else 1
    a, b, step = row_of(a, channels, a_batch, a_channel), row_of(b, channels, b_batch, b_channel), tl.arange(0, T)
    tiles = tl.cdiv(min(Q, length - chunk * Q), T)
    p_re, p_im, h_re, h_im = 1.0, 0.0, 0.0, 0.0
    for tile in range(tiles):
        if TURNED:
            begin = chunk * Q + (tiles - 1 - tile) * T
            a_re, a_im, b_re, b_im = read_adjoint(a, b, begin, length, a_plane, b_plane, COMPLEX, T)
        else:
            t = chunk * Q + tile * T + step
            a_re, a_im = read(a + t, a_plane, t < length, 1.0, COMPLEX)
            b_re, b_im = read(b + t, b_plane, t < length, 0.0, COMPLEX)
        a_re, a_im, b_re, b_im = maps(a_re, a_im, b_re, b_im, COMPLEX)
        a_re, a_im = pick(a_re, a_im, step == T - 1)
        b_re, b_im = pick(b_re, b_im, step == T - 1)
        h_re, h_im = product(a_re, a_im, h_re, h_im, COMPLEX)
        h_re, h_im = h_re + b_re, h_im + b_im
        p_re, p_im = product(a_re, a_im, p_re, p_im, COMPLEX)
    at = ends + row * K + (K - 1 - chunk if TURNED else chunk)
    part = tl.num_programs(0).to(tl.int64) * K
    write(at, part, p_re, p_im, True, COMPLEX)
    write(at + PLANES * part, part, h_re, h_im, True, COMPLEX)


@triton.jit
def states(
    a, b, first, ends, out, last, length, channels, Q, a_batch, a_channel, a_plane, b_batch, b_channel, b_plane,
    COMPLEX: tl.constexpr, CHUNKS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Write all states (B, C, planes, L) and the last one (B, C, planes)."""
    row, chunk, K = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    PLANES: tl.constexpr = 2 if COMPLEX else 1
    h_re, h_im = first_state(first, ends, row, tl.num_programs(0).to(tl.int64), chunk, K, COMPLEX, CHUNKS)
    a, b, step = row_of(a, channels, a_batch, a_channel), row_of(b, channels, b_batch, b_channel), tl.arange(0, T)
    out += row * PLANES * length
    for begin in range(chunk * Q, min(chunk * Q + Q, length), T):
        t = begin + step
        a_re, a_im = read(a + t, a_plane, t < length, 1.0, COMPLEX)
        b_re, b_im = read(b + t, b_plane, t < length, 0.0, COMPLEX)
        a_re, a_im, b_re, b_im = maps(a_re, a_im, b_re, b_im, COMPLEX)
        re, im = product(a_re, a_im, h_re, h_im, COMPLEX)
        re, im = re + b_re, im + b_im
        write(out + t, length, re, im, t < length, COMPLEX)
        h_re, h_im = pick(re, im, step == T - 1)
    if chunk == K - 1:
        write(last + row * PLANES, 1, h_re, h_im, True, COMPLEX)


@triton.jit
def adjoints(
    a, h, grad, first, first_grad, last_grad, ends, a_grad, b_grad,
    length, channels, Q, a_batch, a_channel, a_plane, g_batch, g_channel, g_plane,
    COMPLEX: tl.constexpr, CHUNKS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a and b (B, C, planes, L) and of the first state, from those of h and the last state."""
    row, chunk, K = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    PLANES: tl.constexpr = 2 if COMPLEX else 1
    rows = tl.num_programs(0).to(tl.int64)
    l_re, l_im = first_state(last_grad, ends, row, rows, K - 1 - chunk, K, COMPLEX, CHUNKS)
    start_re, start_im = read(first + row * PLANES, 1, True, 0.0, COMPLEX)
    a, grad = row_of(a, channels, a_batch, a_channel), row_of(grad, channels, g_batch, g_channel)
    a_grad += row * PLANES * length
    b_grad += row * PLANES * length
    h += row * PLANES * length
    tiles = tl.cdiv(min(Q, length - chunk * Q), T)
    for tile in range(tiles):
        begin = chunk * Q + (tiles - 1 - tile) * T
        a_re, a_im, g_re, g_im = read_adjoint(a, grad, begin, length, a_plane, g_plane, COMPLEX, T)
        four, t = turned_steps(begin, T)
        h_re, h_im = read(h + t, length, t < length, 0.0, COMPLEX)
        before_re, before_im = read(h + four - 1, length, (four > 0) & (four < length), 0.0, COMPLEX)
        a_re, a_im, g_re, g_im = maps(a_re, a_im, g_re, g_im, COMPLEX)
        re, im = product(a_re, a_im, l_re, l_im, COMPLEX)
        re, im = re + g_re, im + g_im
        l_re, l_im = pick(re, im, tl.arange(0, T) == T - 1)
        re, im = re.reshape(T // 4, 4), im.reshape(T // 4, 4)
        write(b_grad + t, length, turn(re), turn(im), t < length, COMPLEX)
        before_re, before_im = tl.where(four == 0, start_re, before_re), tl.where(four == 0, start_im, before_im)
        h_re, h_im = turn_earlier(h_re, before_re), turn_earlier(h_im, before_im)
        if COMPLEX:
            h_im = -h_im
        re, im = product(h_re, h_im, re, im, COMPLEX)
        write(a_grad + t, length, turn(re), turn(im), t < length, COMPLEX)
    if chunk == 0:
        a_re, a_im = read(a, a_plane, True, 0.0, COMPLEX)
        if COMPLEX:
            a_im = -a_im
        l_re, l_im = product(a_re, a_im, l_re, l_im, COMPLEX)
        write(first_grad + row * PLANES, 1, l_re, l_im, True, COMPLEX)


def strides(x: Tensor) -> tuple[int, int, int]:
    """Return the distances of batch rows, channels and planes."""
    return x.stride(0), x.stride(1), x.stride(2) if x.ndim == 4 else 0


class Plan:
    """How a scan of (B, C, L) or (B, C, 2, L) is cut: rows and chunks, and the constants of the kernels."""

    def __init__(self, x: Tensor) -> None:
        batch, self.channels, length = x.shape[0], x.shape[1], x.shape[-1]
        config = CONFIGS["scan"]
        rows = batch * self.channels
        tile = min(config["T"], max(16, triton.next_power_of_2(length)))
        if rows < ENOUGH:  # few rows: shorter tiles, so that there is something to cut
            tile = min(tile, 512)
        wanted = min(triton.cdiv(ENOUGH, rows), MOST, triton.cdiv(length, tile))
        self.steps = triton.cdiv(triton.cdiv(length, wanted), tile) * tile  # Q
        self.grid = (rows, triton.cdiv(length, self.steps))
        warps = max(1, min(config["num_warps"], config["num_warps"] * tile // config["T"]))
        self.constants = {"COMPLEX": x.ndim == 4, "T": tile, "num_warps": warps}

    def ends(self, x: Tensor) -> Tensor:
        """Return room for the chunks' maps."""
        return x.new_empty(2 * (2 if x.ndim == 4 else 1), *self.grid, dtype=torch.float32)

    @property
    def chunks(self) -> int:
        """The number of chunks, up to a power of two."""
        return triton.next_power_of_2(self.grid[1])


@torch.library.custom_op("audiossm::linear_scan", mutates_args=())
def linear_scan(a: Tensor, b: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """See `audiossm.kernels.linear_scan`; b is not empty, the state is float32."""
    plan, a, b, state = Plan(b), along_time(a), along_time(b), state.contiguous()
    out, last, ends = torch.empty(b.shape, dtype=b.dtype, device=b.device), torch.empty_like(state), plan.ends(b)
    sizes = (b.shape[-1], plan.channels, plan.steps, *strides(a), *strides(b))
    with on_device(b):
        if plan.chunks > 1:
            chunk_ends[plan.grid](a, b, ends, *sizes, TURNED=False, **plan.constants)
        states[plan.grid](a, b, state, ends, out, last, *sizes, CHUNKS=plan.chunks, **plan.constants)
    return out, last


@torch.library.custom_op("audiossm::linear_scan_backward", mutates_args=())
def linear_scan_backward(
    a: Tensor, h: Tensor, state: Tensor, grad: Tensor, last_grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a, b and the state, given all states h and the gradients of h and of the last state."""
    plan, a, grad, state, last_grad = (
        Plan(h),
        along_time(a),
        along_time(grad),
        state.contiguous(),
        last_grad.contiguous(),
    )
    a_grad, b_grad = torch.empty(h.shape, dtype=a.dtype, device=a.device), torch.empty_like(h)
    first_grad, ends = torch.empty_like(state), plan.ends(h)
    sizes = (h.shape[-1], plan.channels, plan.steps, *strides(a), *strides(grad))
    with on_device(h):
        if plan.chunks > 1:
            chunk_ends[plan.grid](a, grad, ends, *sizes, TURNED=True, **plan.constants)
        adjoints[plan.grid](
            a, h, grad, state, first_grad, last_grad, ends, a_grad, b_grad,
            *sizes, CHUNKS=plan.chunks, **plan.constants,
        )  # fmt: skip
    return a_grad, b_grad, first_grad


@linear_scan.register_fake
def _(a: Tensor, b: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return b.new_empty(b.shape), torch.empty_like(state)


@linear_scan_backward.register_fake
def _(a: Tensor, h: Tensor, state: Tensor, grad: Tensor, last_grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return a.new_empty(h.shape), torch.empty_like(h), torch.empty_like(state)


def remember(ctx, inputs: tuple, output: tuple) -> None:
    """Keep what the backward reads."""
    a, _, state = inputs
    ctx.save_for_backward(a, output[0], state)


def backward(ctx, grad: Tensor, last_grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `linear_scan_backward`."""
    return linear_scan_backward(*ctx.saved_tensors, grad, last_grad)


linear_scan.register_autograd(backward, setup_context=remember)

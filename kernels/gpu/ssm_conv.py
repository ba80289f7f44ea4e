"""`ssm_conv` on a GPU: the time-invariant diagonal SSM in chunks of Q samples, on the tensor cores.

With X the state in which a chunk begins, V its Q inputs, and k_j = 2 Re sum_n c_n a_n^j (+ d at j = 0) the kernel:

    Y  = V T + X R        T[s, t] = k_(t-s)      within the chunk
    X' = a^Q X + V W      R[n, t] = 2 c_n a_n^(t+1)  what the state adds      W[s, n] = a_n^(Q-1-s)  what it learns

A program takes one channel and a block of rows through time, chunk after chunk. It makes T, R and W once and keeps
them, with the states, on the chip: the inputs are read once and the outputs written once, nothing else is. A row is a
segment of a sequence: a whole one where batch and channels fill the GPU, else one of several. Then a first pass finds
what each segment adds to the state at its end, and the second starts each segment from those before it.

The adjoint of u is the same system with time turned round and R and W changing places. The gradients of a and c need
the state x and its derivative z = dx / d log a, which follows z' = a^Q (z + Q x) + V (dW / d log a), forward in time:

    D c     = sum x F + ...         F = dY R / c, what the gradient of a chunk's outputs tells its first state
    D log a = c sum (x (dF / d log a) + z F) + ...        D: derivative by a complex number; its conjugate is the pair

and dK_j = sum dy_t u_(t-j), the diagonals of the chunks' products V' dY, adds to both what happens within chunks.

States and their decay are float32 (the decay in two parts, since its error would grow with every chunk); the operands
of products are TF32, or bfloat16 where the sequences are. Nothing is summed in an order that could change.

Glossary: B batch, H channels, L length, N modes (complex), Q samples a chunk, S segments a sequence, `span` chunks a
segment, `full` whole chunks a sequence, `tail` samples after them. A state is (rows, 2 N), pairs side by side.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import on_device
from audiossm.kernels.gpu.complex import times
from audiossm.kernels.gpu.layout import along_time
from audiossm.kernels.gpu.ssm_plan import CONFIGS, SsmPlan, ssm_plan
from audiossm.kernels.gpu.sums import added_up

CUT = tl.constexpr(1 + 0.7213 * 2**-11)  # 1 / the mean of what is left of a number: its first 11 of 24 digits
MOST_MODES = 64  # a channel's that fit on the chip
SIZES = ("batch", "channels", "modes", "segments", "span", "full", "tail")  # not worth a kernel of their own

# Complex numbers and powers of a


@triton.jit
def joined(re, im):
    """(rows, N) twice to (rows, 2 N), pairs side by side."""
    return tl.reshape(tl.join(re, im), (re.shape[0], 2 * re.shape[1]))


@triton.jit
def parted(x):
    """(rows, 2 N) to (rows, N) twice."""
    return tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)))


@triton.jit
def power(log_re, turn, e):
    """a^e for small whole e. `turn`: the phase of a in 2^-32 of a turn, so that whole turns overflow away.

    Cosine and sine of what is left of the last quarter turn are polynomials (Moshier's, of single precision).
    """
    phase = turn * e
    quarter = (phase + 0x20000000) >> 30
    r = (phase - (quarter << 30)).to(tl.float32) * 1.4629180792671596e-09  # within an eighth of a turn
    z = r * r
    sine = r + r * z * (-1.6666654611e-1 + z * (8.3321608736e-3 - z * 1.9515295891e-4))
    cosine = 1 - z * 0.5 + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5))
    odd = quarter % 2 != 0
    re, im = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    size = tl.exp(log_re * e)
    return tl.where((quarter + 1) & 2 != 0, -size, size) * re, tl.where(quarter & 2 != 0, -size, size) * im


@triton.jit
def decay(a, e):
    """a^e for any whole e, by squaring in float64: two float32 that add up to its real part, and two to the other."""
    re, im = tl.full(a[0].shape, 1.0, tl.float64), tl.zeros(a[0].shape, tl.float64)
    a_re, a_im = a
    left = tl.cast(e, tl.int32)
    while left > 0:
        b_re, b_im = times(a_re, a_im, re, im)
        re, im = tl.where(left % 2 == 1, b_re, re), tl.where(left % 2 == 1, b_im, im)
        a_re, a_im = times(a_re, a_im, a_re, a_im)
        left //= 2
    big_re, big_im = re.to(tl.float32), im.to(tl.float32)
    return big_re, big_im, (re - big_re).to(tl.float32), (im - big_im).to(tl.float32)


@triton.jit
def decayed(a, x, added):
    """A x + added, of states (rows, 2 N) and a `decay` a; its small parts first, where they still count."""
    x_re, x_im = parted(x)
    re, im = parted(added)
    re = re + a[2] * x_re - a[3] * x_im + a[0] * x_re - a[1] * x_im
    im = im + a[3] * x_re + a[2] * x_im + a[1] * x_re + a[0] * x_im
    return joined(re, im)


@triton.jit
def multiplied(total, x, y):
    """Total + x y, of pairs side by side (rows, 2 N)."""
    x_re, x_im = parted(x)
    y_re, y_im = parted(y)
    re, im = parted(total)
    return joined(re + x_re * y_re - x_im * y_im, im + x_im * y_re + x_re * y_im)


# What a program knows of its channel


@triton.jit
def modes_of(log_a, h, modes, N: tl.constexpr):
    """Each mode's a, (1, N) twice, float64. Modes beyond the last stand still and are not heard."""
    n = tl.arange(0, N)[None, :]
    at = log_a + (h * modes + n) * 2
    size = tl.exp(tl.load(at, n < modes, 0.0).to(tl.float64))
    angle = tl.load(at + 1, n < modes, 0.0).to(tl.float64)
    return size * tl.cos(angle), size * tl.sin(angle)


@triton.jit
def columns_of(log_a, c, h, modes, N: tl.constexpr):
    """For the 2 N numbers of a state: is it an imaginary part; its mode's Re log a and `turn`; its mode's 2 c."""
    n = tl.arange(0, 2 * N)
    inside = n < 2 * modes
    at = (h * modes + n // 2) * 2
    turns = tl.load(log_a + at + 1, inside, 0.0).to(tl.float64) / 6.283185307179586
    turn = ((turns - tl.floor(turns)) * 4294967296.0).to(tl.int64).to(tl.int32)
    log_re = tl.load(log_a + at, inside, 0.0)
    return n % 2 == 1, log_re, turn, 2 * tl.load(c + at, inside, 0.0), 2 * tl.load(c + at + 1, inside, 0.0)


@triton.jit
def into_state(m, e, GAIN: tl.constexpr):
    """(2 N, Q): a^e, times 2 c with GAIN; real and imaginary part of each mode in turn."""
    re, im = power(m[1][:, None], m[2][:, None], e[None, :])
    if GAIN:
        re, im = times(m[3][:, None], m[4][:, None], re, im)
    return tl.where(m[0][:, None], im, re)


@triton.jit
def out_of_state(m, e, GAIN: tl.constexpr):
    """(Q, 2 N): the same, such that the product with a state is Re(a^e x): minus the imaginary part."""
    re, im = power(m[1][None, :], m[2][None, :], e[:, None])
    if GAIN:
        re, im = times(m[3][None, :], m[4][None, :], re, im)
    return tl.where(m[0][None, :], -im, re)


@triton.jit
def toeplitz(taps, first, Q: tl.constexpr, REVERSE: tl.constexpr):
    """(Q, Q) outputs by inputs: `first` on the diagonal, taps[j - 1] at lag j."""
    i = tl.arange(0, Q)
    lag = i[None, :] - i[:, None] if REVERSE else i[:, None] - i[None, :]
    later = tl.gather(taps, tl.reshape(tl.maximum(lag - 1, 0), (Q * Q,)), 0)
    return tl.where(lag > 0, tl.reshape(later, (Q, Q)), tl.where(lag == 0, first, 0.0))


@triton.jit
def operand(x, TYPE: tl.constexpr, PRODUCTS: tl.constexpr):
    """Turn x into an operand. Tensor cores cut a float32 off where TF32 ends: what that takes on average is added."""
    if PRODUCTS == "tf32" and tl.float32 == TYPE and x.dtype == tl.float32:
        return x * CUT
    return x.to(TYPE)


@triton.jit
def rows_of(block, batch, segments, ROWS: tl.constexpr):
    """A block's rows (ROWS, 1): which sequence, which segment of it, and whether there is such a row."""
    row = block * ROWS + tl.arange(0, ROWS)[:, None]
    return (row // segments).to(tl.int64), row % segments, row < batch * segments


@triton.jit
def heard(samples, x, within, reads, PRODUCTS: tl.constexpr):
    """The outputs of a chunk, (rows, Q)."""
    inner = tl.dot(samples, within, input_precision=PRODUCTS)
    return tl.dot(operand(x, samples.dtype, PRODUCTS), reads, inner, input_precision=PRODUCTS)


@triton.jit
def learnt(a, x, samples, writes, PRODUCTS: tl.constexpr):
    """The state after a chunk, (rows, 2 N)."""
    return decayed(a, x, tl.dot(samples, writes, input_precision=PRODUCTS))


# The system and its adjoint


@triton.jit(do_not_specialize=SIZES)
def ssm_rows(
    v, log_a, c, d, first, ends, y, last, v_b, v_h, v_t, y_b, y_h, y_t,
    batch, channels, modes, segments, span, full, tail,
    REVERSE: tl.constexpr, ENDS: tl.constexpr, FIRST: tl.constexpr, TAIL: tl.constexpr, SEGMENTED: tl.constexpr,
    ROWS: tl.constexpr, Q: tl.constexpr, N: tl.constexpr, TYPE: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """Write the outputs y and the last state; with ENDS only what each segment adds to the state at its end.

    REVERSE: run from the last sample to the first with R and W exchanged: v is the gradient of the outputs, y that of
    the inputs, `first` and `last` those of the last and the first state, conjugate as the gradients of pairs are.
    """
    h = (tl.program_id(0) % channels).to(tl.int64)
    b, s, inside = rows_of(tl.program_id(0) // channels, batch, segments, ROWS)
    m, mode = columns_of(log_a, c, h, modes, N), modes_of(log_a, h, modes, N)
    t, n = tl.arange(0, Q), tl.arange(0, 2 * N)[None, :]
    mine = inside & (n < 2 * modes)
    sign = tl.where(n % 2 == 1, -1.0, 1.0) if REVERSE else 1.0

    into = into_state(m, 1 + t if REVERSE else Q - 1 - t, REVERSE)
    writes = operand(tl.trans(into), TYPE, PRODUCTS)
    if not ENDS:
        out = out_of_state(m, Q - 1 - t if REVERSE else 1 + t, not REVERSE)
        reads = operand(tl.trans(out), TYPE, PRODUCTS)
        if REVERSE:
            taps = tl.sum(tl.where(m[0][:, None], 0.0, into), 0)
        else:
            taps = tl.sum(tl.where(m[0][None, :], 0.0, out), 1)
        diagonal = tl.sum(tl.where(m[0], 0.0, m[3])) + tl.load(d + h)
        within = operand(tl.trans(toeplitz(taps, diagonal, Q, REVERSE)), TYPE, PRODUCTS)

    x = tl.zeros((ROWS, 2 * N), tl.float32)
    if not ENDS:
        if FIRST:
            x = sign * tl.load(first + (b * channels + h) * 2 * modes + n, mine, 0.0).to(tl.float32)
        if SEGMENTED:
            begin = ends + (b * segments * channels + h) * 2 * modes + n  # of the first segment's end
            if REVERSE:
                end = tl.load(begin + (segments - 1) * channels * 2 * modes, mine, 0.0)
                longer = decay(mode, (full - (segments - 1) * span) * Q + tail)
                x = tl.where(s < segments - 1, decayed(longer, x, end), x)
            whole = decay(mode, span * Q)
            for i in range(1 if REVERSE else 0, segments - 1):
                other = segments - 1 - i if REVERSE else i
                end = tl.load(begin + other * channels * 2 * modes, mine, 0.0)
                x = tl.where(s < other if REVERSE else s > other, decayed(whole, x, end), x)

    v += b * v_b + h * v_h + t[None, :] * v_t
    y += b * y_b + h * y_h + t[None, :] * y_t
    rest = inside & (s == segments - 1) & (t[None, :] < tail)
    v_rest, y_rest = v + full.to(tl.int64) * Q * v_t, y + full.to(tl.int64) * Q * y_t
    if TAIL and REVERSE:
        samples = operand(tl.load(v_rest, rest, 0.0), TYPE, PRODUCTS)
        if not ENDS:
            out = out_of_state(m, tl.maximum(tail - 1 - t, 0), False)
            tl.store(y_rest, heard(samples, x, within, operand(tl.trans(out), TYPE, PRODUCTS), PRODUCTS), rest)
        x = tl.where(s == segments - 1, learnt(decay(mode, tail), x, samples, writes, PRODUCTS), x)

    a = decay(mode, Q)
    chunk = s * span + (span - 1 if REVERSE else 0)
    walk: tl.constexpr = -1 if REVERSE else 1
    v += chunk.to(tl.int64) * Q * v_t
    y += chunk.to(tl.int64) * Q * y_t
    for _ in range(span):
        here = inside & (chunk < full)
        samples = operand(tl.load(v, here, 0.0), TYPE, PRODUCTS)
        if not ENDS:
            tl.store(y, heard(samples, x, within, reads, PRODUCTS), here)
        x = tl.where(chunk < full, learnt(a, x, samples, writes, PRODUCTS), x)
        chunk += walk
        v += walk * Q * v_t
        y += walk * Q * y_t

    if ENDS:
        tl.store(ends + ((b * segments + s) * channels + h) * 2 * modes + n, x, mine)
    else:
        if TAIL and not REVERSE:
            samples = operand(tl.load(v_rest, rest, 0.0), TYPE, PRODUCTS)
            tl.store(y_rest, heard(samples, x, within, reads, PRODUCTS), rest)
            into = into_state(m, tl.maximum(tail - 1 - t, 0), False)
            x = learnt(decay(mode, tail), x, samples, operand(tl.trans(into), TYPE, PRODUCTS), PRODUCTS)
        final = mine & (s == (0 if REVERSE else segments - 1))
        tl.store(last + (b * channels + h) * 2 * modes + n, sign * x, final)


# The gradients of what a channel is made of


@triton.jit
def told(of_c, of_a, x, z, grad, tells, tells_z, PRODUCTS: tl.constexpr):
    """Add a chunk's x F and x (dF / d log a) + z F, each (rows, 2 N)."""
    f = tl.dot(grad, tells, input_precision=PRODUCTS)
    f_z = tl.dot(grad, tells_z, input_precision=PRODUCTS)
    return multiplied(of_c, x, f), multiplied(multiplied(of_a, x, f_z), z, f)


@triton.jit
def diagonals(lags, Q: tl.constexpr):
    """Sum (Q, Q) along its diagonals: entry j is the sum over all [s, s + j]."""
    s, j = tl.arange(0, Q)[None, :], tl.arange(0, Q)[:, None]
    at = tl.minimum(s * Q + s + j, Q * Q - 1)
    entries = tl.gather(tl.reshape(lags, (Q * Q,)), tl.reshape(at, (Q * Q,)), 0)
    return tl.sum(tl.where(s + j < Q, tl.reshape(entries, (Q, Q)), 0.0), 1)


@triton.jit(do_not_specialize=SIZES)
def ssm_parameters(
    v, g, log_a, c, first, g_last, ends, out, v_b, v_h, v_t, g_b, g_h, g_t,
    batch, channels, modes, segments, span, full, tail,
    ENDS: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, TAIL: tl.constexpr, SEGMENTED: tl.constexpr,
    ROWS: tl.constexpr, Q: tl.constexpr, N: tl.constexpr, TYPE: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """Write a block of rows' part of the gradients of c, log a (pairs) and d, (block, H, 4 N + 1).

    v: the inputs; g: the gradient of the outputs; g_last: that of the last state. With ENDS write what each segment
    adds at its end to x and to z, (2, B, S, H, 2 N), and nothing else.
    """
    h = (tl.program_id(0) % channels).to(tl.int64)
    block = tl.program_id(0) // channels
    b, s, inside = rows_of(block, batch, segments, ROWS)
    m, mode = columns_of(log_a, c, h, modes, N), modes_of(log_a, h, modes, N)
    t, n = tl.arange(0, Q), tl.arange(0, 2 * N)[None, :]
    mine = inside & (n < 2 * modes)

    into = into_state(m, Q - 1 - t, False)
    writes, writes_z = tl.trans(into), tl.trans(into * (Q - 1 - t)[None, :])
    writes, writes_z = operand(writes, TYPE, PRODUCTS), operand(writes_z, TYPE, PRODUCTS)
    back = into_state(m, 1 + t, False)
    tells, tells_z = tl.trans(back), tl.trans(back * (1 + t)[None, :])
    tells, tells_z = operand(tells, TYPE, PRODUCTS), operand(tells_z, TYPE, PRODUCTS)

    x, z = tl.zeros((ROWS, 2 * N), tl.float32), tl.zeros((ROWS, 2 * N), tl.float32)
    planes = batch * channels.to(tl.int64) * segments * 2 * modes  # numbers in x's half of `ends`
    if not ENDS:
        if FIRST:
            x = tl.load(first + (b * channels + h) * 2 * modes + n, mine, 0.0).to(tl.float32)
        if SEGMENTED:
            begin = ends + (b * segments * channels + h) * 2 * modes + n
            whole = decay(mode, span * Q)
            for other in range(segments - 1):
                end = begin + other * channels * 2 * modes
                z = tl.where(s > other, decayed(whole, z + (span * Q) * x, tl.load(end + planes, mine, 0.0)), z)
                x = tl.where(s > other, decayed(whole, x, tl.load(end, mine, 0.0)), x)

    of_c, of_a = tl.zeros((ROWS, 2 * N), tl.float32), tl.zeros((ROWS, 2 * N), tl.float32)
    lags = tl.zeros((Q, Q), tl.float32)  # inputs by outputs
    v += b * v_b + h * v_h + t[None, :] * v_t
    g += b * g_b + h * g_h + t[None, :] * g_t
    rest = inside & (s == segments - 1) & (t[None, :] < tail)
    v_rest, g_rest = v + full.to(tl.int64) * Q * v_t, g + full.to(tl.int64) * Q * g_t
    a = decay(mode, Q)
    chunk = s * span
    v += chunk.to(tl.int64) * Q * v_t
    g += chunk.to(tl.int64) * Q * g_t
    for _ in range(span):
        here = inside & (chunk < full)
        samples = tl.load(v, here, 0.0).to(TYPE)
        if not ENDS:
            grad = tl.load(g, here, 0.0).to(TYPE)
            lags = tl.dot(tl.trans(samples), grad, lags, input_precision=PRODUCTS)
            of_c, of_a = told(of_c, of_a, x, z, grad, tells, tells_z, PRODUCTS)
        z = tl.where(chunk < full, learnt(a, z + Q * x, samples, writes_z, PRODUCTS), z)
        x = tl.where(chunk < full, learnt(a, x, samples, writes, PRODUCTS), x)
        chunk += 1
        v += Q * v_t
        g += Q * g_t

    if ENDS:
        end = ends + ((b * segments + s) * channels + h) * 2 * modes + n
        tl.store(end, x, mine)
        tl.store(end + planes, z, mine)
    else:
        if TAIL:
            samples, grad = tl.load(v_rest, rest, 0.0).to(TYPE), tl.load(g_rest, rest, 0.0).to(TYPE)
            lags = tl.dot(tl.trans(samples), grad, lags, input_precision=PRODUCTS)
            of_c, of_a = told(of_c, of_a, x, z, grad, tells, tells_z, PRODUCTS)
            if LAST:
                e = tl.maximum(tail - 1 - t, 0)
                into = operand(tl.trans(into_state(m, e, False) * e[None, :]), TYPE, PRODUCTS)
                z = learnt(decay(mode, tail), z + tail * x, samples, into, PRODUCTS)
        of_k = diagonals(lags, Q)
        within = into_state(m, t, False)
        sum_c = tl.sum(of_c, 0) + tl.sum(within * of_k[None, :], 1)
        sum_a = tl.sum(of_a, 0) + tl.sum(within * (t * of_k)[None, :], 1)
        if PRODUCTS == "tf32" and v.dtype.element_ty == tl.float32:
            of_k, sum_c, sum_a = of_k * CUT * CUT, sum_c * CUT * CUT, sum_a * CUT * CUT  # samples and grad were cut off
        gain = tl.where(n % 2 == 1, m[4][None, :], m[3][None, :])
        sum_a = multiplied(tl.zeros((1, 2 * N), tl.float32), gain, sum_a[None, :])
        sign = tl.where(n % 2 == 1, -1.0, 1.0)
        if LAST:
            final = mine & (s == segments - 1)
            last = sign * tl.load(g_last + (b * channels + h) * 2 * modes + n, final, 0.0).to(tl.float32)
            z = tl.where(final, z, 0.0)
            sum_a += tl.sum(multiplied(tl.zeros((ROWS, 2 * N), tl.float32), last, z), 0)[None, :]
        out += (block * channels + h) * (4 * modes + 1)
        tl.store(out + n, 2 * sign * sum_c[None, :], n < 2 * modes)
        tl.store(out + 2 * modes + n, sign * sum_a, n < 2 * modes)
        tl.store(out + 4 * modes, tl.sum(tl.where(t == 0, of_k, 0.0)))


# What torch sees


def launch(kernel, v: Tensor, modes: int, plan: SsmPlan, *arguments, **constants) -> None:
    """Run a kernel with a program for each channel and block of rows; if it has segments, for their ends first."""
    native = v.is_cuda  # the interpreter computes in float32 alone
    tf32 = native and torch.get_float32_matmul_precision() != "highest"
    sizes = (*v.shape[:2], modes, plan.segments, plan.span, plan.full, plan.tail)
    for ends in (True, False) if plan.segments > 1 else (False,):
        with on_device(v):
            kernel[(v.shape[1] * plan.blocks,)](
                *arguments,
                *sizes,
                ENDS=ends,
                SEGMENTED=plan.segments > 1,
                TAIL=plan.tail > 0,
                ROWS=plan.rows,
                Q=plan.chunk,
                N=max(8, triton.next_power_of_2(modes)),
                TYPE=tl.bfloat16 if native and v.dtype == torch.bfloat16 else tl.float32,
                PRODUCTS="tf32" if tf32 else "tf32x3",
                num_warps=plan.warps,
                num_stages=plan.stages,
                maxnreg=255,  # left to itself ptxas takes fewer and is slower
                **constants,
            )


def candidates() -> dict[str, list[dict[str, int]]]:
    """Return what the tables' entries could be, for the bench to time."""
    shapes = [(16, 64, 4), (16, 64, 8), (16, 32, 4), (16, 128, 8), (32, 64, 8), (64, 64, 4), (64, 64, 8)]
    names = ("rows", "chunk", "warps", "stages")
    return {kernel: [dict(zip(names, (*s, n), strict=True)) for s in shapes for n in (3, 5)] for kernel in CONFIGS}


def plain(*parameters: Tensor | None) -> list:
    """Return parameters as the kernels read them."""
    return [p if p is None else p.float().contiguous() for p in parameters]


@torch.library.custom_op("audiossm::ssm_conv", mutates_args=())
def ssm_conv(
    u: Tensor, log_a: Tensor, c: Tensor, d: Tensor, state: Tensor | None, adjoint: bool = False
) -> tuple[Tensor, Tensor]:
    """See `audiossm.kernels.ssm_conv`; u is not empty, the last state float32.

    The adjoint takes the gradients of the outputs and of the last state, and returns those of u and of the first state.
    """
    y, plan = u.new_empty(u.shape), ssm_plan(u, log_a.shape[1], "outputs")
    u, (log_a, c, d, state) = along_time(u), plain(log_a, c, d, state)
    last = log_a.new_empty(u.shape[0], *log_a.shape)
    ends = log_a.new_empty(u.shape[0], plan.segments, *log_a.shape) if plan.segments > 1 else None
    launch(
        ssm_rows, u, log_a.shape[1], plan,
        u, log_a, c, d, state, ends, y, last, *u.stride(), *y.stride(),
        REVERSE=adjoint, FIRST=state is not None,
    )  # fmt: skip
    return y, last


@torch.library.custom_op("audiossm::ssm_conv_parameters", mutates_args=())
def ssm_conv_parameters(
    u: Tensor, grad: Tensor, log_a: Tensor, c: Tensor, state: Tensor | None, last_grad: Tensor | None
) -> Tensor:
    """Return the gradients of c, log a and d side by side, (H, 4 N + 1), given those of the outputs and last state."""
    plan = ssm_plan(u, log_a.shape[1], "parameters")
    u, grad, (log_a, c, state, last_grad) = along_time(u), along_time(grad), plain(log_a, c, state, last_grad)
    ends = log_a.new_empty(2, u.shape[0], plan.segments, *log_a.shape) if plan.segments > 1 else None
    out = log_a.new_empty(plan.blocks, log_a.shape[0], 4 * log_a.shape[1] + 1)
    launch(
        ssm_parameters, u, log_a.shape[1], plan,
        u, grad, log_a, c, state, last_grad, ends, out, *u.stride(), *grad.stride(),
        FIRST=state is not None, LAST=last_grad is not None,
    )  # fmt: skip
    return out[0] if plan.blocks == 1 else added_up(out)


@ssm_conv.register_fake
def _(u: Tensor, log_a: Tensor, c: Tensor, d: Tensor, state: Tensor | None, adjoint: bool = False):
    return u.new_empty(u.shape), log_a.new_empty(u.shape[0], *log_a.shape, dtype=torch.float32)


@ssm_conv_parameters.register_fake
def _(u: Tensor, grad: Tensor, log_a: Tensor, c: Tensor, state: Tensor | None, last_grad: Tensor | None):
    return log_a.new_empty(log_a.shape[0], 4 * log_a.shape[1] + 1, dtype=torch.float32)


def remember(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    """Keep what the backward reads: the inputs alone, since it recomputes the states."""
    ctx.save_for_backward(*inputs[:5])
    ctx.set_materialize_grads(False)


def backward(ctx, grad: Tensor | None, last_grad: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return the gradients of what `ssm_conv` takes."""
    u, log_a, c, d, state = ctx.saved_tensors
    needs_u, *needs_parameters, needs_state, _ = ctx.needs_input_grad
    grad = u.new_zeros(1).expand(u.shape) if grad is None else grad
    of_u = of_log_a = of_c = of_d = of_state = None
    if needs_u or (needs_state and state is not None):
        of_u, of_state = ssm_conv(grad, log_a, c, d, last_grad, True)
        of_state = None if state is None else of_state.to(state.dtype)
    if any(needs_parameters):
        of_c, of_log_a, of_d = ssm_conv_parameters(u, grad, log_a, c, state, last_grad).split(
            (2 * log_a.shape[1], 2 * log_a.shape[1], 1), dim=1
        )
        of_log_a, of_c = of_log_a.reshape(log_a.shape).to(log_a.dtype), of_c.reshape(c.shape).to(c.dtype)
        of_d = of_d.reshape(d.shape).to(d.dtype)
    return of_u, of_log_a, of_c, of_d, of_state, None


ssm_conv.register_autograd(backward, setup_context=remember)

"""The kernels of `ssd` that walk through time, forward and, in the backward, turned round: see ssd.py."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def decays(
    dt,
    A,
    weight,
    cum,
    enter,
    total,
    length,
    skip,
    chunks,
    heads,
    dt_b,
    dt_l,
    dt_h,
    Q: tl.constexpr,
    TURNED: tl.constexpr,
):
    """Write dt, c, exp(c_Q - c), times dt before time is turned, each (B, H, K, Q), and c_Q (B, H, K), float32.

    c counts in powers of two. Outside the sequence nothing decays.

    Sums from either end, as the difference of two long ones would lose the short ones that matter.
    """
    row, chunk, head = tl.program_id(1).to(tl.int64), tl.program_id(0) // heads, tl.program_id(0) % heads
    q = tl.arange(0, Q)
    s = chunk * Q + q
    inside = (s >= skip) & (s < skip + length)
    step = tl.load(dt + row * dt_b + head * dt_h + (s - skip).to(tl.int64) * dt_l, inside, 0.0).to(tl.float32)
    a = step * tl.load(A + head) * LOG2E
    before, after = tl.cumsum(a, 0), tl.cumsum(a, 0, reverse=True)
    if TURNED:  # the decay of a step itself lies on its other side
        before -= a
    else:
        after -= a
    at = (row * heads + head) * chunks + chunk
    tl.store(weight + at * Q + q, step)
    tl.store(cum + at * Q + q, before)
    tl.store(enter + at * Q + q, tl.exp2(after) if TURNED else tl.exp2(after) * step)
    tl.store(total + at, tl.sum(a, 0))


@triton.jit
def products(
    r, w, out, length, skip, chunks, groups, r_b, r_l, r_g, w_b, w_l, w_g,
    N: tl.constexpr, Q: tl.constexpr, BN: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write r_i · w_j of each chunk and group, (B, K, G, Q, Q)."""
    row, chunk, group = tl.program_id(1).to(tl.int64), tl.program_id(0) // groups, tl.program_id(0) % groups
    q, n = tl.arange(0, Q), tl.arange(0, BN)
    s = chunk * Q + q
    inside = (s >= skip) & (s < skip + length)
    from_start = (chunk * Q - skip).to(tl.int64)
    r += row * r_b + group * r_g + from_start * r_l
    w += row * w_b + group * w_g + from_start * w_l
    acc = tl.zeros((Q, Q), tl.float32)
    for first in tl.static_range(0, N, BN):
        some = first + n < N
        reads = tl.load(r + q[:, None] * r_l + first + n[None, :], inside[:, None] & some[None, :], 0.0)
        writes = tl.load(w + q[None, :] * w_l + first + n[:, None], inside[None, :] & some[:, None], 0.0)
        acc = tl.dot(reads.to(DOT), writes.to(DOT), acc, input_precision=PRECISION)
    out += ((row * chunks + chunk) * groups + group) * Q * Q
    tl.store(out + q[:, None] * Q + q[None, :], acc)


@triton.jit
def states(
    v, w, enter, total, first, ends, out, final, other, energy,
    length, skip, chunks, heads, share, span, v_b, v_l, v_h, w_b, w_l, w_g,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    ENDS: tl.constexpr, ENERGY: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Walk the state through a span of chunks and write it as it is at the start of each, (B, K, H, P, N).

    Many spans make work for a whole GPU: then a run with ENDS walks each from a zero state and writes only its end,
    (B, S, H, P, N), and the second run sums up those before its own span.
    """
    row, rest = tl.program_id(1).to(tl.int64), tl.program_id(0)
    blocks_n, blocks_p = tl.cdiv(N, BN), tl.cdiv(P, BP)
    block_n, rest = rest % blocks_n, rest // blocks_n
    block_p, rest = rest % blocks_p, rest // blocks_p
    head, part = rest % heads, rest // heads
    p, n, q = block_p * BP + tl.arange(0, BP), block_n * BN + tl.arange(0, BN), tl.arange(0, Q)
    tile = p[:, None] * N + n[None, :]
    held = (p[:, None] < P) & (n[None, :] < N)
    size = P * N
    begin = part * span
    total += (row * heads + head) * chunks
    if ENDS:
        state = tl.zeros((BP, BN), tl.float32)
    else:
        state = tl.load(first + (row * heads + head) * size + tile, held, 0.0)
        for earlier in range(part):
            between = 0.0
            for chunk in range(earlier * span, earlier * span + span):
                between += tl.load(total + chunk)
            end = tl.load(ends + ((row * tl.cdiv(chunks, span) + earlier) * heads + head) * size + tile, held, 0.0)
            state = state * tl.exp2(between) + end
    s = begin * Q + q
    from_start = (begin * Q - skip).to(tl.int64)
    v += row * v_b + head * v_h + from_start * v_l + p[:, None] + q[None, :] * v_l
    w += row * w_b + (head // share) * w_g + from_start * w_l + n[None, :] + q[:, None] * w_l
    steps = (row * heads + head) * chunks * Q + s
    at = (row * chunks + begin) * heads + head  # in units of a state
    for chunk in range(begin, min(begin + span, chunks)):
        inside = (s >= skip) & (s < skip + length)
        if not ENDS:
            tl.store(out + at * size + tile, state, held)
        decay = tl.load(total + chunk)
        if ENERGY:  # <G, H> of the same chunk, which a turned walk counts from the end
            mirrored = (row * chunks + chunks - 1 - chunk) * heads + head
            there = tl.load(other + mirrored * size + tile, held, 0.0).to(tl.float32)
            where = ((block_n * blocks_p + block_p) * tl.num_programs(1) + row) * heads + head
            tl.store(energy + where * chunks + chunk, tl.exp2(decay) * tl.sum(tl.sum(state * there, 1), 0))
        values = tl.load(v, inside[None, :] & (p[:, None] < P), 0.0).to(tl.float32) * tl.load(enter + steps)[None, :]
        writes = tl.load(w, inside[:, None] & (n[None, :] < N), 0.0)
        state = tl.dot(values.to(DOT), writes.to(DOT), state * tl.exp2(decay), input_precision=PRECISION)
        s += Q
        steps += Q
        at += heads
        v += Q * v_l
        w += Q * w_l
    if ENDS:
        tl.store(ends + ((row * tl.cdiv(chunks, span) + part) * heads + head) * size + tile, state, held)
    elif begin + span >= chunks:
        tl.store(final + (row * heads + head) * size + tile, state, held)


@triton.jit
def outputs(
    v, r, pairs, start, weight, cum, D, y, x, direct, entering, D_part,
    length, skip, chunks, heads, share, v_b, v_l, v_h, r_b, r_l, r_g, y_b, y_l, y_h, x_b, x_l, x_h,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BI: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    SKIP: tl.constexpr, TURNED: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write y of BI steps of a chunk, of one head.

    Before these steps, `middle` being c at their first, the decay is exp(c_i - middle) exp(middle - c_j): two vectors
    in place of a matrix, and half of the chunk's matrix is never made.

    Turned, y is the gradient of x. Then parts of those of D and dt are written: x · dv, and what of it the state adds.
    """
    row, rest = tl.program_id(1).to(tl.int64), tl.program_id(0)
    blocks_p, tiles, groups = tl.cdiv(P, BP), Q // BI, heads // share
    tile, rest = rest % tiles, rest // tiles
    block_p, rest = rest % blocks_p, rest // blocks_p
    head, chunk = rest % heads, rest // heads
    group = head // share
    p, n, i = block_p * BP + tl.arange(0, BP), tl.arange(0, BN), tl.arange(0, BI)
    t = tile * BI + i
    inside = (chunk * Q + t >= skip) & (chunk * Q + t < skip + length)
    held = inside[:, None] & (p[None, :] < P)
    from_start = (chunk * Q - skip).to(tl.int64)
    r += row * r_b + group * r_g + from_start * r_l + t[:, None] * r_l + n[None, :]
    start += ((row * chunks + chunk) * heads + head) * P * N + p[None, :] * N + n[:, None]
    acc = tl.zeros((BI, BP), tl.float32)
    for first in tl.static_range(0, N, BN):
        some = first + n < N
        reads = tl.load(r + first, inside[:, None] & some[None, :], 0.0)
        state = tl.load(start + first, some[:, None] & (p[None, :] < P), 0.0)
        acc = tl.dot(reads.to(DOT), state.to(DOT), acc, input_precision=PRECISION)
    at = (row * heads + head) * chunks + chunk
    part = block_p * tl.num_programs(1).to(tl.int64) * heads * chunks + at
    at *= Q
    c, step, middle = tl.load(cum + at + t), tl.load(weight + at + t), tl.load(cum + at + tile * BI)
    acc *= tl.exp2(c)[:, None]
    if TURNED:
        x += row * x_b + head * x_h + from_start * x_l + t[:, None] * x_l + p[None, :]
        inputs = tl.load(x, held, 0.0).to(tl.float32)
        tl.store(entering + part * Q + t, tl.sum(acc * inputs, 1) * step)
    v += row * v_b + head * v_h + from_start * v_l + i[:, None] * v_l + p[None, :]
    pairs += ((row * chunks + chunk) * groups + group) * Q * Q + t[:, None] * Q + i[None, :]
    leave = tl.exp2(c - middle)
    for begin in range(0, tile * BI, BI):
        j = begin + i
        enter = tl.exp2(middle - tl.load(cum + at + j))
        if not TURNED:
            enter *= tl.load(weight + at + j)
        between = tl.load(pairs + begin).to(tl.float32) * enter[None, :] * leave[:, None]
        there = ((chunk * Q + j >= skip) & (chunk * Q + j < skip + length))[:, None] & (p[None, :] < P)
        values = tl.load(v + begin * v_l, there, 0.0)
        acc = tl.dot(between.to(DOT), values.to(DOT), acc, input_precision=PRECISION)
    between = tl.where(i[:, None] >= i[None, :], tl.exp2(c[:, None] - c[None, :]), 0.0)
    between *= tl.load(pairs + tile * BI).to(tl.float32)
    if not TURNED:
        between *= step[None, :]
    values = tl.load(v + tile * BI * v_l, held, 0.0)
    acc = tl.dot(between.to(DOT), values.to(DOT), acc, input_precision=PRECISION)
    if TURNED:
        tl.store(direct + part * Q + t, tl.sum(acc * inputs, 1))
        acc *= step[:, None]
    if SKIP:
        acc += tl.load(D + head) * values.to(tl.float32)
        if TURNED:
            tl.store(D_part + part * tiles + tile, tl.sum(tl.sum(inputs * values.to(tl.float32), 1), 0))
    tl.store(y + row * y_b + head * y_h + from_start * y_l + t[:, None] * y_l + p[None, :], acc, held)

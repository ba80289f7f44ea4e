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

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import INTERPRETED, on_device

# Chunk lengths of half and of float32 tensors, then what each kernel is launched with.
CONFIGS: dict[str, dict[str, int]] = {
    "chunk": {"half": 128, "float": 64},
    "states": {"BP": 64, "BN": 64, "PROGRAMS": 256, "num_warps": 4, "num_stages": 3},
    "products": {"BN": 64, "num_warps": 8, "num_stages": 2},
    "outputs": {"BP": 64, "BN": 128, "HEADS": 4, "num_warps": 8, "num_stages": 2},
    "pair_gradients": {"BI": 64, "BP": 64, "BN": 64, "num_warps": 4, "num_stages": 2},
    "vector_gradients": {"BI": 64, "BP": 64, "BN": 128, "num_warps": 8, "num_stages": 2},
}


def candidates() -> dict[str, list[dict[str, int]]]:
    """Return what `python -m audiossm.kernels.bench ssd --tune` times."""
    warps = [{"num_warps": w, "num_stages": s} for w in (4, 8) for s in (1, 2, 3)]
    return {
        "chunk": [{"half": 128, "float": 64}, {"half": 64, "float": 64}, {"half": 128, "float": 128}],
        "states": [{"BN": n, **w} for n in (64, 128) for w in warps] + [{"PROGRAMS": n} for n in (512, 1024)],
        "products": warps,
        "outputs": [
            *({"HEADS": h, "num_warps": 8, "num_stages": s} for h in (1, 2, 4, 8) for s in (1, 2, 3)),
            *({"HEADS": h, "num_warps": 8, "num_stages": 2, "maxnreg": 128} for h in (1, 2)),
            *({"HEADS": h, "num_warps": 16, "num_stages": s} for h in (1, 4) for s in (1, 2)),
        ],
        "pair_gradients": [*warps, *({"num_warps": 4, "num_stages": s, "maxnreg": 168} for s in (1, 2))],
        "vector_gradients": [{"BI": 64, "BN": n, **w} for n in (64, 128) for w in warps],
    }


@triton.jit
def decays(
    dt,
    A,
    weight,
    cum,
    tail,
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
    """Write dt, c, c_Q - c, each (B, H, K, Q), and c_Q (B, H, K), float32; outside the sequence nothing decays.

    Sums from either end, as the difference of two long ones would lose the short ones that matter.
    """
    row, chunk, head = tl.program_id(1).to(tl.int64), tl.program_id(0) // heads, tl.program_id(0) % heads
    q = tl.arange(0, Q)
    s = chunk * Q + q
    inside = (s >= skip) & (s < skip + length)
    step = tl.load(dt + row * dt_b + head * dt_h + (s - skip).to(tl.int64) * dt_l, inside, 0.0).to(tl.float32)
    a = step * tl.load(A + head)
    before, after = tl.cumsum(a, 0), tl.cumsum(a, 0, reverse=True)
    if TURNED:  # the decay of a step itself lies on its other side
        before -= a
    else:
        after -= a
    at = (row * heads + head) * chunks + chunk
    tl.store(weight + at * Q + q, step)
    tl.store(cum + at * Q + q, before)
    tl.store(tail + at * Q + q, after)
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
    v, w, weight, tail, total, first, ends, out, final, other, energy,
    length, skip, chunks, heads, share, span, v_b, v_l, v_h, w_b, w_l, w_g,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr, WEIGHTED: tl.constexpr,
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
            state = state * tl.exp(between) + end
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
            tl.store(energy + where * chunks + chunk, tl.exp(decay) * tl.sum(tl.sum(state * there, 1), 0))
        enter = tl.exp(tl.load(tail + steps))
        if WEIGHTED:
            enter *= tl.load(weight + steps)
        values = tl.load(v, inside[None, :] & (p[:, None] < P), 0.0).to(tl.float32) * enter[None, :]
        writes = tl.load(w, inside[:, None] & (n[None, :] < N), 0.0)
        state = tl.dot(values.to(DOT), writes.to(DOT), state * tl.exp(decay), input_precision=PRECISION)
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
    v, r, pairs, start, weight, cum, D, y, x, direct, D_part,
    length, skip, chunks, heads, share, v_b, v_l, v_h, r_b, r_l, r_g, y_b, y_l, y_h, x_b, x_l, x_h,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr, HEADS: tl.constexpr,
    SKIP: tl.constexpr, TURNED: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write y of a chunk and HEADS heads of a group, which share what is read with and the products.

    Turned, y is the gradient of x, and parts of those of dt (x · dv) and of D are written too.
    """
    row, rest = tl.program_id(1).to(tl.int64), tl.program_id(0)
    blocks_p, sets, groups = tl.cdiv(P, BP), heads // HEADS, heads // share
    block_p, rest = rest % blocks_p, rest // blocks_p
    head, chunk = rest % sets * HEADS, rest // sets
    group = head // share
    p, n, q = block_p * BP + tl.arange(0, BP), tl.arange(0, BN), tl.arange(0, Q)
    inside = (chunk * Q + q >= skip) & (chunk * Q + q < skip + length)
    held = inside[:, None] & (p[None, :] < P)
    from_start = (chunk * Q - skip).to(tl.int64)
    r += row * r_b + group * r_g + from_start * r_l
    reads = ()
    for first in tl.static_range(0, N, BN):
        tile = tl.load(r + q[:, None] * r_l + first + n[None, :], inside[:, None] & (first + n[None, :] < N), 0.0)
        reads = reads + (tile.to(DOT),)  # type: ignore  # noqa: RUF005
    pairs += ((row * chunks + chunk) * groups + group) * Q * Q
    shared = tl.load(pairs + q[:, None] * Q + q[None, :])
    from_v = v + row * v_b + head * v_h + from_start * v_l + q[:, None] * v_l + p[None, :]
    from_x = x + row * x_b + head * x_h + from_start * x_l + q[:, None] * x_l + p[None, :]
    to_y = y + row * y_b + head * y_h + from_start * y_l + q[:, None] * y_l + p[None, :]
    start += ((row * chunks + chunk) * heads + head) * P * N
    at = (row * heads + head) * chunks + chunk
    part = block_p * tl.num_programs(1).to(tl.int64) * heads * chunks + at
    for _ in range(HEADS):
        acc = tl.zeros((Q, BP), tl.float32)
        for first in tl.static_range(0, N, BN):
            some = (first + n[:, None] < N) & (p[None, :] < P)
            state = tl.load(start + p[None, :] * N + first + n[:, None], some, 0.0)
            acc = tl.dot(reads[first // BN], state.to(DOT), acc, input_precision=PRECISION)
        c, step = tl.load(cum + at * Q + q), tl.load(weight + at * Q + q)
        acc *= tl.exp(c)[:, None]
        between = tl.where(q[:, None] >= q[None, :], tl.exp(c[:, None] - c[None, :]), 0.0) * shared.to(tl.float32)
        if not TURNED:
            between *= step[None, :]
            if SKIP:
                between += tl.where(q[:, None] == q[None, :], tl.load(D + head), 0.0)
        values = tl.load(from_v, held, 0.0)
        acc = tl.dot(between.to(DOT), values.to(DOT), acc, input_precision=PRECISION)
        if TURNED:
            inputs = tl.load(from_x, held, 0.0).to(tl.float32)
            tl.store(direct + part * Q + q, tl.sum(acc * inputs, 1))
            acc *= step[:, None]
            if SKIP:
                own = values.to(tl.float32)
                tl.store(D_part + part, tl.sum(tl.sum(inputs * own, 1), 0))
                acc += tl.load(D + head) * own
        tl.store(to_y, acc, held)
        head += 1
        at += chunks
        part += chunks
        start += P * N
        from_v += v_h
        from_x += x_h
        to_y += y_h


@triton.jit
def pair_gradients(
    g, x, r, w, weight, cum, out, later, earlier,
    length, chunks, heads, share, g_b, g_l, g_h, x_b, x_l, x_h, r_b, r_l, r_g, w_b, w_l, w_g,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BI: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradient of C_i · B_j, summed over a group's heads, (B, K, G, Q, Q), a tile of BI x BI steps.

    And what the log decays between j and i get from it, by head: sums over j, (tiles, B, H, K, Q), and over i.
    """
    row, rest = tl.program_id(1).to(tl.int64), tl.program_id(0)
    tiles, groups = Q // BI, heads // share
    tile_j, rest = rest % tiles, rest // tiles
    tile_i, rest = rest % tiles, rest // tiles
    group, chunk = rest % groups, rest // groups
    i, j = tile_i * BI + tl.arange(0, BI), tile_j * BI + tl.arange(0, BI)
    n, p = tl.arange(0, BN), tl.arange(0, BP)
    rows, columns = chunk * Q + i < length, chunk * Q + j < length
    from_start = (chunk * Q).to(tl.int64)
    at = ((row * heads + group * share) * chunks + chunk) * Q
    part = tl.num_programs(1).to(tl.int64) * heads * chunks * Q
    later += tile_j * part
    earlier += tile_i * part
    acc = tl.zeros((BI, BI), tl.float32)
    if tile_i >= tile_j:
        r += row * r_b + group * r_g + from_start * r_l
        w += row * w_b + group * w_g + from_start * w_l
        pairs = tl.zeros((BI, BI), tl.float32)
        for first in tl.static_range(0, N, BN):
            some = first + n < N
            reads = tl.load(r + i[:, None] * r_l + first + n[None, :], rows[:, None] & some[None, :], 0.0)
            writes = tl.load(w + j[None, :] * w_l + first + n[:, None], columns[None, :] & some[:, None], 0.0)
            pairs = tl.dot(reads.to(DOT), writes.to(DOT), pairs, input_precision=PRECISION)
        pairs = tl.where(i[:, None] > j[None, :], pairs, 0.0)  # no decay lies between a step and itself
        from_g = g + row * g_b + group * share * g_h + from_start * g_l + i[:, None] * g_l + p[None, :]
        from_x = x + row * x_b + group * share * x_h + from_start * x_l + j[None, :] * x_l + p[:, None]
        for _ in range(share):
            grad = tl.zeros((BI, BI), tl.float32)
            for first in tl.static_range(0, P, BP):
                wide = first + p < P
                of_y = tl.load(from_g + first, rows[:, None] & wide[None, :], 0.0)
                inputs = tl.load(from_x + first, columns[None, :] & wide[:, None], 0.0)
                grad = tl.dot(of_y.to(DOT), inputs.to(DOT), grad, input_precision=PRECISION)
            between = tl.exp(tl.load(cum + at + i)[:, None] - tl.load(cum + at + j)[None, :])
            between = tl.where(i[:, None] >= j[None, :], between, 0.0)
            grad *= between * tl.load(weight + at + j)[None, :]
            acc += grad
            grad *= pairs
            tl.store(later + at + i, tl.sum(grad, 1))
            tl.store(earlier + at + j, tl.sum(grad, 0))
            from_g += g_h
            from_x += x_h
            at += chunks * Q
    else:  # above the diagonal
        for _ in range(share):
            tl.store(later + at + i, tl.zeros((BI,), tl.float32))
            tl.store(earlier + at + j, tl.zeros((BI,), tl.float32))
            at += chunks * Q
    out += ((row * chunks + chunk) * groups + group) * Q * Q
    tl.store(out + i[:, None] * Q + j[None, :], acc)


@triton.jit
def vector_gradients(
    v, r, w, start, pairs, weight, cum, out, inner,
    length, skip, chunks, heads, share, v_b, v_l, v_h, r_b, r_l, r_g, w_b, w_l, w_g, out_b, out_l, out_g,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BI: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    TURNED: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradient of C or, turned, of B, and by head its inner product with C_i or B_j, (B, H, K, Q).

    v is the gradient of y, or x; r is C, or B, and w the other; start is H, or G.
    """
    row, rest = tl.program_id(1).to(tl.int64), tl.program_id(0)
    tiles, groups, blocks_n = Q // BI, heads // share, tl.cdiv(N, BN)
    tile, rest = rest % tiles, rest // tiles
    block_n, rest = rest % blocks_n, rest // blocks_n
    group, chunk = rest % groups, rest // groups
    i, j = tile * BI + tl.arange(0, BI), tl.arange(0, Q)
    n, p = block_n * BN + tl.arange(0, BN), tl.arange(0, BP)
    rows = (chunk * Q + i >= skip) & (chunk * Q + i < skip + length)
    columns = (chunk * Q + j >= skip) & (chunk * Q + j < skip + length)
    from_start = (chunk * Q - skip).to(tl.int64)
    if TURNED:  # the sum over later steps: the matrix is read from its end, rows as columns
        chunk_of_pairs = chunks - 1 - chunk
        matrix = (Q - 1 - j[None, :]) * Q + Q - 1 - i[:, None]
    else:
        chunk_of_pairs = chunk
        matrix = i[:, None] * Q + j[None, :]
    acc = tl.zeros((BI, BN), tl.float32)
    own = r + row * r_b + group * r_g + from_start * r_l + i[:, None] * r_l + n[None, :]
    own = tl.load(own, rows[:, None] & (n[None, :] < N), 0.0)
    v += row * v_b + group * share * v_h + from_start * v_l + i[:, None] * v_l + p[None, :]
    start += ((row * chunks + chunk) * heads + group * share) * P * N + p[:, None] * N + n[None, :]
    at = ((row * heads + group * share) * chunks + chunk) * Q + i
    inner += block_n * tl.num_programs(1).to(tl.int64) * heads * chunks * Q
    for _ in range(share):
        through = tl.zeros((BI, BN), tl.float32)
        for first in tl.static_range(0, P, BP):
            some = first + p < P
            values = tl.load(v + first, rows[:, None] & some[None, :], 0.0)
            state = tl.load(start + first * N, some[:, None] & (n[None, :] < N), 0.0)
            through = tl.dot(values.to(DOT), state.to(DOT), through, input_precision=PRECISION)
        scale = tl.exp(tl.load(cum + at))
        if TURNED:
            scale *= tl.load(weight + at)
        through *= scale[:, None]
        acc += through
        tl.store(inner + at, tl.sum(through * own.to(tl.float32), 1))
        v += v_h
        start += P * N
        at += chunks * Q
    # Behind the loop: ptxas 12.8 miscompiles the loop's products where these come first (tests/test_gpu_compiles.py).
    pairs += ((row * chunks + chunk_of_pairs) * groups + group) * Q * Q
    others = w + row * w_b + group * w_g + from_start * w_l + j[:, None] * w_l + n[None, :]
    others = tl.load(others, columns[:, None] & (n[None, :] < N), 0.0)
    acc = tl.dot(tl.load(pairs + matrix).to(DOT), others.to(DOT), acc, input_precision=PRECISION)
    out += row * out_b + group * out_g + from_start * out_l + i[:, None] * out_l + n[None, :]
    tl.store(out, acc, rows[:, None] & (n[None, :] < N))


@triton.jit
def finish(
    later, earlier, leaving, entering, energy, direct, weight, A, dt_grad, A_part,
    length, chunks, heads, tiles, blocks_n, blocks_p, blocks_of_states, Q: tl.constexpr,
):  # fmt: skip
    """Write the gradient of dt, (B, L, H), and a chunk's part of that of A, (B, H, K)."""
    row, chunk, head = tl.program_id(1).to(tl.int64), tl.program_id(0) // heads, tl.program_id(0) % heads
    rows, q = tl.num_programs(1), tl.arange(0, Q)
    at = (row * heads + head) * chunks
    part = rows.to(tl.int64) * heads * chunks
    here = (at + chunk) * Q + q
    there = (at + chunks - 1 - chunk) * Q + Q - 1 - q
    crossing = tl.zeros((Q,), tl.float32)  # counts from k on: sum over i >= k
    for tile in range(tiles):
        crossing += tl.load(later + tile * part * Q + here) - tl.load(earlier + tile * part * Q + here)
    passed = tl.zeros((Q,), tl.float32)  # counts up to before k: sum over j < k
    for block in range(blocks_n):
        crossing += tl.load(leaving + block * part * Q + here)
        passed += tl.load(entering + block * part * Q + there)
    a_grad = tl.cumsum(crossing, 0, reverse=True) + tl.cumsum(passed, 0) - passed
    for block in range(blocks_of_states):
        a_grad += tl.load(energy + block * part + at + chunks - 1 - chunk)
    step_grad = a_grad * tl.load(A + head)
    for block in range(blocks_p):
        step_grad += tl.load(direct + block * part * Q + there)
    t = (chunk * Q + q).to(tl.int64)
    tl.store(dt_grad + (row * length + t) * heads + head, step_grad, t < length)
    tl.store(A_part + at + chunk, tl.sum(a_grad * tl.load(weight + here), 0))


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
        # What is loaded ahead has to fit into shared memory.
        ahead = {"num_stages": 1} if self.n > 128 and self.held == torch.float32 else {}
        blocks = {name: block(v, most[name]) if name in most else v for name, v in CONFIGS[kernel].items()}
        sizes = {"N": self.n} if kernel == "products" else {"P": self.width, "N": self.n}
        return {**blocks, **ahead, **sizes}

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
    tail: Tensor
    total: Tensor

    def sees(self, x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Return where a sequence (B, L, ...) begins and its strides by row, step and head or group."""
        row, step, head = x.stride()[:3]
        return (x[:, -1:], (row, -step, head)) if self.turned else (x, (row, step, head))


def walk(shape: Shape, dt: Tensor, A: Tensor, turned: bool) -> Walk:
    """Compute a direction's decays."""
    each = (shape.batch, shape.heads, shape.chunks)
    weight, cum, tail = (A.new_empty(*each, shape.q) for _ in range(3))
    total = A.new_empty(each)
    way = Walk(turned, shape.chunks * shape.q - shape.length if turned else 0, weight, cum, tail, total)
    seen, strides = way.sees(dt)
    decays[(shape.chunks * shape.heads, shape.batch)](
        seen, A, weight, cum, tail, total, shape.length, way.skip, shape.chunks, shape.heads, *strides,
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
            v, w, way.weight, way.tail, way.total, first, ends, out, final, out if other is None else other, energy,
            shape.length, way.skip, shape.chunks, shape.heads, shape.share, span, *of_v, *of_w,
            WEIGHTED=not way.turned, ENDS=only_ends, ENERGY=other is not None and not only_ends,
            **shape.products(), **config,
        )  # fmt: skip
    return out, final, energy


def read_out(
    shape: Shape, way: Walk, v: Tensor, r: Tensor, pairs: Tensor, start: Tensor, D: Tensor | None, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch `outputs`: return y or the gradient of x, and parts of those of dt and D."""
    config = shape.config("outputs")
    blocks = triton.cdiv(shape.width, config["BP"])
    config["HEADS"] = math.gcd(config["HEADS"], shape.share)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    parts = (blocks if way.turned else 0, shape.batch, shape.heads, shape.chunks)
    direct, D_part = way.cum.new_empty(*parts, shape.q), way.cum.new_empty(parts)
    (v, of_v), (r, of_r), (to, of_y), (x, of_x) = way.sees(v), way.sees(r), way.sees(y), way.sees(x)
    outputs[(blocks * shape.heads // config["HEADS"] * shape.chunks, shape.batch)](
        v, r, pairs, start, way.weight, way.cum, way.cum if D is None else D, to, x, direct, D_part,
        shape.length, way.skip, shape.chunks, shape.heads, shape.share,
        *of_v, *of_r, *of_y, *of_x, SKIP=D is not None, TURNED=way.turned, **shape.products(), **config,
    )  # fmt: skip
    return y, direct, D_part


def vectors(
    shape: Shape, way: Walk, v: Tensor, r: Tensor, w: Tensor, start: Tensor, pairs: Tensor
) -> tuple[Tensor, Tensor]:
    """Launch `vector_gradients`: return the gradient of r, which is C or B, and the inner products by head."""
    config = shape.config("vector_gradients")
    blocks, tiles = triton.cdiv(shape.n, config["BN"]), shape.q // config["BI"]
    out = torch.empty_like(r, memory_format=torch.contiguous_format)
    inner = way.cum.new_empty(blocks, *way.cum.shape)
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
        y, _, _ = read_out(shape, way, x, C, multiply(shape, way, C, B), start, D, x)
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
        of_x, direct, D_part = read_out(shape, back, g, B, multiply(shape, back, B, C), adjoint, D, x)

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
        of_B, entering = vectors(shape, back, x, B, C, adjoint, pairs)

        of_dt, A_part = torch.empty(dt.shape, dtype=torch.float32, device=dt.device), torch.empty_like(way.total)
        finish[(shape.chunks * shape.heads, shape.batch)](
            later, earlier, leaving, entering, energy, direct, way.weight, A, of_dt, A_part,
            shape.length, shape.chunks, shape.heads, tiles, leaving.shape[0], direct.shape[0], energy.shape[0],
            Q=shape.q, num_warps=1,
        )  # fmt: skip
    of_D = A.new_empty(0) if D is None else D_part.sum((0, 1, 3))
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

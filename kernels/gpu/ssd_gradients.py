"""The kernels of `ssd` that only its backward has: see ssd.py."""

import triton
import triton.language as tl


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
            # At most 1 above the diagonal too, where `pairs` and, behind the loop, `acc` are cut off.
            between = tl.minimum(tl.load(cum + at + i)[:, None] - tl.load(cum + at + j)[None, :], 0.0)
            grad *= tl.exp2(between) * tl.load(weight + at + j)[None, :]
            acc += grad
            grad *= pairs
            tl.store(later + at + i, tl.sum(grad, 1))
            tl.store(earlier + at + j, tl.sum(grad, 0))
            from_g += g_h
            from_x += x_h
            at += chunks * Q
        acc = tl.where(i[:, None] >= j[None, :], acc, 0.0)
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
    if not TURNED:
        own = r + row * r_b + group * r_g + from_start * r_l + i[:, None] * r_l + n[None, :]
        own = tl.load(own, rows[:, None] & (n[None, :] < N), 0.0)
    v += row * v_b + group * share * v_h + from_start * v_l + i[:, None] * v_l + p[None, :]
    start += ((row * chunks + chunk) * heads + group * share) * P * N + p[:, None] * N + n[None, :]
    at = ((row * heads + group * share) * chunks + chunk) * Q + i
    inner += block_n * tl.num_programs(1).to(tl.int64) * heads * chunks * Q
    for _ in range(share):
        scale = tl.exp2(tl.load(cum + at))
        if TURNED:
            scale *= tl.load(weight + at)
        through = tl.zeros((BI, BN), tl.float32)
        for first in tl.static_range(0, P, BP):
            some = first + p < P
            values = tl.load(v + first, rows[:, None] & some[None, :], 0.0)
            state = tl.load(start + first * N, some[:, None] & (n[None, :] < N), 0.0).to(DOT)
            if TURNED:
                acc = tl.dot((values.to(tl.float32) * scale[:, None]).to(DOT), state, acc, input_precision=PRECISION)
            else:
                through = tl.dot(values.to(DOT), state, through, input_precision=PRECISION)
        if not TURNED:
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
    for block in range(blocks_n):
        crossing += tl.load(leaving + block * part * Q + here)
    passed = tl.zeros((Q,), tl.float32)  # counts up to before k: sum over j < k
    for block in range(blocks_p):
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

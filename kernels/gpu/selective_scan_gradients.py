"""The kernels of `selective_scan` that only its backward has: see selective_scan.py."""

import triton
import triton.language as tl

from audiossm.kernels.gpu.selective_scan_tiles import (
    LN2,
    ahead,
    ahead_decay,
    once,
    of_part,
    over_channels,
    over_states,
    own_channels,
    read,
    read_delta,
    read_or_zero,
    read_rates,
    sigmoid,
    states_and_steps,
    step,
)


@triton.jit
def walk(
    u, delta, A, B, C, z, bias, grad, starts, marks, ends, length, channels, groups, N, Q,
    u_batch, u_channel, d_batch, d_channel, b_batch, b_group, b_state, c_batch, c_group, c_state, z_batch, z_channel,
    g_batch, g_channel,
    SOFTPLUS: tl.constexpr, S: tl.constexpr, M: tl.constexpr, W: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Write the state before each tile (B, L/S, D, N), and what each chunk adds to m before it (B, K, D, N)."""
    group, chunk, row = tl.program_id(0) % groups, tl.program_id(1), tl.program_id(2).to(tl.int64)
    own, inside = own_channels(channels, tl.program_id(0) // groups, W, R)
    n, s = states_and_steps(S, M)
    d, D = group * channels + own, groups * channels
    shift, inside_n = read_or_zero(bias, d, inside), inside & (n < N)
    u += row * u_batch + d.to(tl.int64) * u_channel
    delta += row * d_batch + d.to(tl.int64) * d_channel
    grad += row * g_batch + d.to(tl.int64) * g_channel
    B += row * b_batch + group.to(tl.int64) * b_group + n.to(tl.int64) * b_state
    C += row * c_batch + group.to(tl.int64) * c_group + n.to(tl.int64) * c_state
    if z is not None:
        z += row * z_batch + d.to(tl.int64) * z_channel
    at = ((row * tl.num_programs(1) + chunk) * D + d) * N + n
    mark = marks + ((row * tl.cdiv(length, S) + chunk * Q // S) * D + d) * N + n
    h = read(starts + at, inside_n)
    p, m = tl.zeros_like(h) + 1.0, tl.zeros_like(h)
    for begin in range(chunk * Q, min(chunk * Q + Q, length), S):
        tl.store(mark, h, inside_n)
        mark += D * N
        t = begin + s
        here, some = inside & (t < length), (n < N) & (t < length)
        dt, _ = read_delta(delta + t, here, shift, SOFTPLUS)
        x, b, c, dy = read(u + t, here), read(B + t, some), read(C + t, some), read(grad + t, here)
        if z is not None:
            gate = read(z + t, here)
            dy *= gate * sigmoid(gate)
        a2 = read_rates(A, d, n, inside & (begin < length), N)
        a = tl.exp2(dt * a2)
        _, h = ahead(a, dt * x * b, h, s, S)
        decay, p = ahead_decay(a, p, s, S)
        m += tl.sum(decay * (c * dy), 0, keep_dims=True)
    tl.store(ends + at, m, inside_n)


@triton.jit
def gradients(
    u, delta, A, B, C, skip, z, bias, grad, marks, ends, u_grad, d_grad, z_grad, b_grad, c_grad, a_grad, sums,
    length, channels, groups, N, Q,
    u_batch, u_channel, d_batch, d_channel, b_batch, b_group, b_state, c_batch, c_group, c_state, z_batch, z_channel,
    g_batch, g_channel,
    SOFTPLUS: tl.constexpr, S: tl.constexpr, M: tl.constexpr, W: tl.constexpr, R: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Write the gradients of u, δ and z (B, D, L), and sums of the others'.

    Those of B and C are (parts, B, G, N, L), of A (B, K, D, N), of the skip and the bias (B, K, 2, D).
    """
    group, part = tl.program_id(0) % groups, tl.program_id(0) // groups
    P: tl.constexpr = M // 4 if M > 4 else 1  # parts of the states
    chunk, row, D = tl.program_id(1), tl.program_id(2).to(tl.int64), groups * channels
    n, s = states_and_steps(S, M)
    B += row * b_batch + group.to(tl.int64) * b_group + n.to(tl.int64) * b_state
    C += row * c_batch + group.to(tl.int64) * c_group + n.to(tl.int64) * c_state
    own_part = (((part.to(tl.int64) * tl.num_programs(2) + row) * groups + group) * N + n) * length
    b_grad += own_part
    c_grad += own_part
    tiles = tl.cdiv(min(Q, length - chunk * Q), S)
    for i in range(BLOCKS):
        own, inside = own_channels(channels, part * BLOCKS + i, W, R)
        d = group * channels + own
        wide, inside_n = d.to(tl.int64), inside & (n < N)
        shift, through = read_or_zero(bias, d, inside), read_or_zero(skip, d, inside)
        at = ((row * tl.num_programs(1) + chunk) * D + d) * N + n
        m, of_a = read(ends + at, inside_n), tl.zeros([1, M, W, R], tl.float32)
        of_skip, of_bias = tl.zeros([1, 1, W, R], tl.float32), tl.zeros([1, 1, W, R], tl.float32)
        for tile in range(tiles):
            begin = chunk * Q + (tiles - 1 - tile) * S
            t = begin + s
            here, some, to = inside & (t < length), (n < N) & (t < length), (row * D + d) * length + t
            dt, raw = read_delta(delta + row * d_batch + wide * d_channel + t, here, shift, SOFTPLUS)
            x, b, c = read(u + row * u_batch + wide * u_channel + t, here), read(B + t, some), read(C + t, some)
            dy = read(grad + row * g_batch + wide * g_channel + t, here)
            if z is not None:
                gate = read(z + row * z_batch + wide * z_channel + t, here)
            before = read(marks + ((row * tl.cdiv(length, S) + begin // S) * D + d) * N + n, inside_n)
            a2 = read_rates(A, d, n, inside & (begin < length), N)
            a = tl.exp2(dt * a2)
            h, _ = ahead(a, dt * x * b, before, s, S)
            if z is not None:
                out, opened = tl.sum(h * c, 1, keep_dims=True) + through * x, sigmoid(gate)
                tl.store(z_grad + to, dy * out * opened * (1.0 + gate * (1.0 - opened)), here)
                dy *= gate * opened
            of_c = over_channels(tl.sum(dy * h, 3, keep_dims=True), S, M, W)
            if i > 0:
                of_c += read(c_grad + t, some)
            tl.store(c_grad + t, of_c, some)
            of_b = tl.zeros([S, M, W, 1], tl.float32)
            of_input, of_rate = tl.zeros([S, P, W, R], tl.float32), tl.zeros([S, P, W, R], tl.float32)
            for k in tl.static_range(S - 1, -1, -1):
                now = s == k
                l = step(c * dy + m, now)  # noqa: E741
                m = step(a, now) * l
                of_decay = m * (step(h, s == k - 1) if k > 0 else before)
                of_a += step(of_decay * dt, now)
                of_b = tl.where(now, tl.sum(step(dt * x * l, now), 3, keep_dims=True), of_b)
                of_input = tl.where(now, of_part(step(l * b, now), P, M, W, R), of_input)
                of_rate = tl.where(now, of_part(of_decay * a2, P, M, W, R), of_rate)
            of_input, of_rate = over_states(of_input, S, P, W, R), over_states(of_rate, S, P, W, R)
            of_b = over_channels(of_b, S, M, W)
            if i > 0:
                of_b += read(b_grad + t, some)
            tl.store(b_grad + t, of_b, some)
            of_dt = x * of_input + of_rate * LN2
            if SOFTPLUS:
                of_dt *= once(sigmoid(raw))
            tl.store(u_grad + to, dt * of_input + through * dy, here)
            tl.store(d_grad + to, of_dt, here)
            of_skip += tl.sum(dy * x, 0, keep_dims=True)
            of_bias += tl.sum(tl.where(here, of_dt, 0.0), 0, keep_dims=True)
        tl.store(a_grad + at, of_a, inside_n)
        at = (row * tl.num_programs(1) + chunk) * 2 * D + d
        tl.store(sums + at, of_skip, inside)
        tl.store(sums + at + D, of_bias, inside)
        tl.debug_barrier()  # the next block reads what this one wrote

"""The kernels of `selective_scan` that only its backward has: see selective_scan.py."""

import triton
import triton.language as tl

from audiossm.kernels.gpu.selective_scan_tiles import (
    LN2,
    fetch,
    of_part,
    once,
    over_channels,
    over_states,
    own_channels,
    read,
    read_or_zero,
    read_rates,
    read_steps,
    sigmoid,
    states_and_steps,
    step,
    step_size,
)


@triton.jit
def walk(
    u, delta, A, B, C, z, bias, grad, starts, marks, ends, length, channels, groups, N, Q,
    u_batch, u_channel, d_batch, d_channel, z_batch, z_channel, g_batch, g_channel,
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
    B += ((row * groups + group) * tl.num_programs(1) + chunk) * Q * M + n
    C += ((row * groups + group) * tl.num_programs(1) + chunk) * Q * M + n
    if z is not None:
        z += row * z_batch + d.to(tl.int64) * z_channel
    at = ((row * tl.num_programs(1) + chunk) * D + d) * N + n
    mark = marks + ((row * tl.cdiv(length, S) + chunk * Q // S) * D + d) * N + n
    h = read(starts + at, inside_n)
    m, left = tl.zeros_like(h), tl.zeros_like(h) + 1.0  # what is left of the chunk's first state
    end = min(chunk * Q + Q, length)
    here = inside & (chunk * Q + s < end)
    of_delta, of_u, of_z = read_steps(delta, u, z, chunk * Q + s, here)
    of_grad = tl.load(grad + chunk * Q + s, here, 0.0)
    for begin in range(chunk * Q, end, S):
        tl.store(mark, h, inside_n)
        mark += D * N
        t = begin + s
        here, ahead = inside & (t < end), inside & (t + S < end)
        raw, x, dy = of_delta.to(tl.float32) + shift, of_u.to(tl.float32), of_grad.to(tl.float32)
        if z is not None:
            gate = of_z.to(tl.float32)
            dy *= gate * sigmoid(gate)
        of_delta, of_u, of_z = read_steps(delta, u, z, t + S, ahead)  # the next tile's, ahead of time
        of_grad = tl.load(grad + t + S, ahead, 0.0)
        a2 = read_rates(A, d, n, inside & (begin < length), N)
        dt = step_size(raw, here, SOFTPLUS)
        a, v = tl.exp2(dt * a2), dt * x
        for k in tl.static_range(S):
            b, c = tl.load(B + k * M), tl.load(C + k * M)
            h = step(a * h + v * b, s == k)
            left = step(a * left, s == k)
            m += step(dy * c * left, s == k)
        B += S * M
        C += S * M
    tl.store(ends + at, m, inside_n)


@triton.jit
def gradients(
    u, delta, A, B, C, skip, z, bias, grad, marks, ends, u_grad, d_grad, z_grad, b_grad, c_grad, a_grad, sums,
    length, channels, groups, N, Q,
    u_batch, u_channel, d_batch, d_channel, z_batch, z_channel, g_batch, g_channel,
    SOFTPLUS: tl.constexpr, S: tl.constexpr, M: tl.constexpr, W: tl.constexpr, R: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Write the gradients of u, δ and z (B, D, L), and sums of the others'.

    Those of B and C are (parts, B, G, K Q, M), of A (B, K, D, N), of the skip and the bias (B, K, 2, D).
    """
    group, part = tl.program_id(0) % groups, tl.program_id(0) // groups
    P: tl.constexpr = M // 4 if M > 4 else 1  # parts of the states
    chunk, row, D = tl.program_id(1), tl.program_id(2).to(tl.int64), groups * channels
    n, s = states_and_steps(S, M)
    B += ((row * groups + group) * tl.num_programs(1) + chunk) * Q * M + n
    C += ((row * groups + group) * tl.num_programs(1) + chunk) * Q * M + n
    own_part = (part.to(tl.int64) * tl.num_programs(2) + row) * groups + group
    b_grad += (own_part * tl.num_programs(1) + chunk) * Q * M + n
    c_grad += (own_part * tl.num_programs(1) + chunk) * Q * M + n
    tiles, all_tiles = tl.cdiv(min(Q, length - chunk * Q), S), tl.cdiv(length, S)
    for i in range(min(BLOCKS, tl.cdiv(channels, W * R) - part * BLOCKS)):
        own, inside = own_channels(channels, part * BLOCKS + i, W, R)
        d = group * channels + own
        wide, inside_n = tl.minimum(d, D - 1).to(tl.int64), inside & (n < N)  # no channel beyond the last is fetched
        shift, through = read_or_zero(bias, d, inside), read_or_zero(skip, d, inside)
        at = ((row * tl.num_programs(1) + chunk) * D + d) * N + n
        m, of_a = read(ends + at, inside_n), tl.zeros([1, M, W, R], tl.float32)
        of_skip, of_bias = tl.zeros([1, 1, W, R], tl.float32), tl.zeros([1, 1, W, R], tl.float32)
        own_u, own_delta = u + row * u_batch + wide * u_channel, delta + row * d_batch + wide * d_channel
        own_grad, own_marks = grad + row * g_batch + wide * g_channel, marks + (row * all_tiles * D + wide) * N
        if z is not None:
            own_z = z + row * z_batch + wide * z_channel
        for tile in range(tiles):
            first = (tiles - 1 - tile) * S
            begin, own_steps = chunk * Q + first, first * M
            t = begin + s
            here, to = inside & (t < length), (row * D + d) * length + t
            raw, x, dy = read(own_delta + t, here) + shift, read(own_u + t, here), read(own_grad + t, here)
            earlier = tl.maximum(begin - S, 0)
            fetch(own_delta + earlier)
            fetch(own_u + earlier)
            fetch(own_grad + earlier)
            mark = (earlier // S).to(tl.int64) * D * N
            fetch(own_marks + mark)  # 64 bytes of 16 states
            fetch(own_marks + mark + N // 2)
            if z is not None:
                gate = read(own_z + t, here)
                fetch(own_z + earlier)
                opened = sigmoid(gate)
                dz = dy * opened * (1.0 + gate * (1.0 - opened))
                dy *= gate * opened
                out = tl.zeros([S, P, W, R], tl.float32)
            h = read(marks + ((row * all_tiles + begin // S) * D + d) * N + n, inside_n)
            a2 = read_rates(A, d, n, inside & (begin < length), N)
            dt = step_size(raw, here, SOFTPLUS)
            a, v = tl.exp2(dt * a2), dt * x
            before, of_c = tl.zeros([S, M, W, R], tl.float32), tl.zeros([S, M, W, 1], tl.float32)
            for k in tl.static_range(S):
                b = tl.load(B + own_steps + k * M)
                before = tl.where(s == k, h, before)
                h = step(a * h + v * b, s == k)
                of_c = tl.where(s == k, tl.sum(step(dy * h, s == k), 3, keep_dims=True), of_c)
                if z is not None:
                    c = tl.load(C + own_steps + k * M)
                    out = tl.where(s == k, of_part(h * c, P, M, W, R), out)
            of_c, to_weights = over_channels(of_c, S, M, W), own_steps + s * M
            if i > 0:
                of_c += tl.load(c_grad + to_weights)
            tl.store(c_grad + to_weights, of_c)
            if z is not None:
                tl.store(z_grad + to, dz * (over_states(out, S, P, W, R) + through * x), here)
            of_b = tl.zeros([S, M, W, 1], tl.float32)
            of_input, of_rate = tl.zeros([S, P, W, R], tl.float32), tl.zeros([S, P, W, R], tl.float32)
            for k in tl.static_range(S - 1, -1, -1):
                b, c = tl.load(B + own_steps + k * M), tl.load(C + own_steps + k * M)
                l = step(dy * c + m, s == k)  # noqa: E741
                m = step(a * l, s == k)
                of_decay = step(before * m, s == k)
                of_a += step(of_decay * dt, s == k)
                of_b = tl.where(s == k, tl.sum(step(v * l, s == k), 3, keep_dims=True), of_b)
                of_input = tl.where(s == k, of_part(l * b, P, M, W, R), of_input)
                of_rate = tl.where(s == k, of_part(of_decay * a2, P, M, W, R), of_rate)
            of_input, of_rate = over_states(of_input, S, P, W, R), over_states(of_rate, S, P, W, R)
            of_b = over_channels(of_b, S, M, W)
            if i > 0:
                of_b += tl.load(b_grad + to_weights)
            tl.store(b_grad + to_weights, of_b)
            x = read(own_u + t, here)  # again, so that what is made of it lies as u does
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

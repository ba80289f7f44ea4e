"""The kernels of `selective_scan`: see selective_scan.py."""

import triton
import triton.language as tl

from audiossm.kernels.gpu.selective_scan_tiles import (
    of_part,
    over_states,
    own_channels,
    power_of_2_shared_out,
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
def chunk_ends(
    u, delta, A, B, bias, ends, sums, length, channels, groups, N, Q,
    u_batch, u_channel, d_batch, d_channel,
    SOFTPLUS: tl.constexpr, S: tl.constexpr, M: tl.constexpr, W: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Write what each chunk adds to the state at its end, (B, K, D, N), and its time, the sum of δ (B, K, D)."""
    group, chunk, row = tl.program_id(0) % groups, tl.program_id(1), tl.program_id(2).to(tl.int64)
    own, inside = own_channels(channels, tl.program_id(0) // groups, W, R)
    n, s = states_and_steps(S, M)
    d = group * channels + own
    shift = read_or_zero(bias, d, inside)
    u += row * u_batch + d.to(tl.int64) * u_channel
    delta += row * d_batch + d.to(tl.int64) * d_channel
    B += ((row * groups + group) * tl.num_programs(1) + chunk) * Q * M + n
    h, time = tl.zeros([1, M, W, R], tl.float32), tl.zeros([1, 1, W, R], tl.float32)
    for begin in range(chunk * Q, min(chunk * Q + Q, length), S):
        t = begin + s
        here = inside & (t < length)
        raw, x = read(delta + t, here) + shift, read(u + t, here)
        a2 = read_rates(A, d, n, inside & (begin < length), N)
        dt = step_size(raw, here, SOFTPLUS)
        a, v = tl.exp2(dt * a2), dt * x
        for k in tl.static_range(S):
            b = tl.load(B + k * M)
            h = step(a * h + v * b, s == k)
        B += S * M
        time += tl.sum(dt, 0, keep_dims=True)
    at = (row * tl.num_programs(1) + chunk) * groups * channels + d
    tl.store(ends + at * N + n, h, inside & (n < N))
    tl.store(sums + at, time, inside)


@triton.jit
def carry(
    ends, sums, A, first, starts, last, K, channels, groups, N,
    TURNED: tl.constexpr, S: tl.constexpr, M: tl.constexpr, W: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Write the state before each chunk (B, K, D, N) and after all (B, D, N); turned, chunks go from the last on."""
    group, row = tl.program_id(0) % groups, tl.program_id(1).to(tl.int64)
    own, inside = own_channels(channels, tl.program_id(0) // groups, W, R)
    n, s = states_and_steps(S, M)
    d = group * channels + own
    D, inside_n = groups * channels, inside & (n < N)
    at, by = row * K * D + d, D
    if TURNED:
        at, by = (row * K + K - 1) * D + d, -D
    h = read(first + (row * D + d) * N + n, inside_n)
    tl.store(starts + at * N + n, h, inside_n)
    for begin in range(0, K, S):
        k = (begin + s).to(tl.int64)
        time = read(sums + at + k * by, inside & (k < K))
        end = read(ends + (at + k * by) * N + n, inside_n & (k < K))
        a2 = read_rates(A, d, n, inside & (begin < K), N)
        decay, states = tl.exp2(time * a2), tl.zeros_like(end)
        for i in tl.static_range(S):
            h = step(decay * h + end, s == i)
            states = tl.where(s == i, h, states)
        tl.store(starts + (at + (k + 1) * by) * N + n, states, inside_n & (k + 1 < K))
    tl.store(last + (row * D + d) * N + n, h, inside_n)


@triton.jit
def outputs(
    u, delta, A, B, C, skip, z, bias, starts, y, length, channels, groups, N, Q,
    u_batch, u_channel, d_batch, d_channel, z_batch, z_channel,
    SOFTPLUS: tl.constexpr, S: tl.constexpr, M: tl.constexpr, W: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Write y (B, D, L) from the states in which chunks begin."""
    P: tl.constexpr = M // 4 if M > 4 else 1  # parts of the states
    group, chunk, row = tl.program_id(0) % groups, tl.program_id(1), tl.program_id(2).to(tl.int64)
    own, inside = own_channels(channels, tl.program_id(0) // groups, W, R)
    n, s = states_and_steps(S, M)
    d, D = group * channels + own, groups * channels
    shift, through = read_or_zero(bias, d, inside), read_or_zero(skip, d, inside)
    u += row * u_batch + d.to(tl.int64) * u_channel
    delta += row * d_batch + d.to(tl.int64) * d_channel
    B += ((row * groups + group) * tl.num_programs(1) + chunk) * Q * M + n
    C += ((row * groups + group) * tl.num_programs(1) + chunk) * Q * M + n
    y += (row * D + d) * length
    if z is not None:
        z += row * z_batch + d.to(tl.int64) * z_channel
    h = read(starts + ((row * tl.num_programs(1) + chunk) * D + d) * N + n, inside & (n < N))
    end = min(chunk * Q + Q, length)
    of_delta, of_u, of_z = read_steps(delta, u, z, chunk * Q + s, inside & (chunk * Q + s < end))
    for begin in range(chunk * Q, end, S):
        t = begin + s
        here = inside & (t < end)
        raw, x, gate = of_delta.to(tl.float32) + shift, of_u.to(tl.float32), of_z.to(tl.float32)
        of_delta, of_u, of_z = read_steps(delta, u, z, t + S, inside & (t + S < end))  # the next tile's, ahead of time
        a2 = read_rates(A, d, n, inside & (begin < length), N)
        dt = step_size(raw, here, SOFTPLUS)
        a, v, out = power_of_2_shared_out(dt * a2, s), dt * x, tl.zeros([S, P, W, R], tl.float32)
        for k in tl.static_range(S):
            b, c = tl.load(B + k * M), tl.load(C + k * M)
            h = step(a * h + v * b, s == k)
            out = tl.where(s == k, of_part(h * c, P, M, W, R), out)
        out = over_states(out, S, P, W, R) + through * x
        if z is not None:
            out *= gate * sigmoid(gate)
        tl.store(y + t, out, here)
        B += S * M
        C += S * M

"""`selective_scan` on a GPU: chunks of Q steps in two passes, each walked in tiles of S steps that live in registers.

The decays differ for every channel, state and step, so there is no matrix product in it: B D L N exponentials and a few
products for each are the work, and no step may cost more. A program is one warp. Its tile is (S, N, W, R): S steps, a
quarter of the states and R channels in each thread's registers, W channels and four parts of the states across the
threads. A walk along S is then a chain of multiply-adds in each thread, a sum over states is two shuffles.

Forward: `chunk_ends` sums each chunk up from a zero state. `carry` scans over the chunks, whose decay is exp(A Σδ), for
the states in which they begin. `outputs` walks each chunk again from there and writes y. Only states between chunks
reach memory (Gu and Dao 2023, section 3.3.2: recomputation), and the backward reads them.

Backward: with c_t = C_t dy_t the adjoint of h_t is l_t = c_t + m_{t+1}, where m_t = exp(δ_t A) l_t is what decay leaves
of it for the step before. `walk` goes through each chunk forward once more, keeps the state in which each tile begins,
and adds up what the chunk adds to m at its beginning, sum_t exp(A Σδ) c_t; `carry` scans that from the last chunk on.
`gradients` walks a chunk's tiles from the last to the first, h forward and l backward in each:

    dC_t = sum_D dy_t h_t          du_t = δ_t sum_N l_t B_t + D dy_t
    dB_t = sum_D l_t δ_t u_t       dδ_t = u_t sum_N l_t B_t + sum_N l_t exp(δ_t A) h_{t-1} A
                                   dA   = sum_t l_t exp(δ_t A) h_{t-1} δ_t

There are no atomics: a program writes its own sums over channels or time, which are added up after it in fixed order.

Chunks are short for the sake of slow modes, too. exp(δ A) just below 1 is rounded to 6e-8, always the same way where δ
is constant; over a chunk that adds up, between chunks it does not.

Layout. Triton spreads a tile over threads as its last large load in program order lies in memory (of several layouts
the compiler takes that one). That load is A's in each loop here: N next to one another, 4 to a thread, then channels.
Where it is loaded earlier everything stays right and takes three times as long.

Glossary: B batch, D channels, G groups, L steps, N states; a tile has S steps, M ≥ N states and W R channels; K chunks.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from audiossm.kernels.dispatch import on_device
from audiossm.kernels.gpu.layout import along_time

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

# S, R and W are for N 16: `tile` fits them to other N. `gradients` writes sums over BLOCKS tiles' channels. `maxnreg`
# bounds a thread's registers, so that more programs fit on a multiprocessor.
CONFIGS: dict[str, dict[str, int]] = {
    "chunks": {"Q": 128},
    "ends": {"S": 8, "R": 1, "W": 16, "maxnreg": 96},
    "outputs": {"S": 8, "R": 1, "W": 16, "maxnreg": 128},
    "gradients": {"S": 8, "R": 2, "W": 8, "maxnreg": 255, "BLOCKS": 1},
}
ENOUGH = 4096  # programs that fill a GPU
MOST = 1024  # chunks: `carry` walks them one after another


def candidates() -> dict[str, list[dict[str, int]]]:
    """Return what the constants of each kernel could be."""
    tiles = [
        {"S": s, "R": r, "W": w} for s, r, w in ((8, 2, 8), (8, 1, 8), (16, 1, 8), (4, 2, 8), (4, 4, 8), (8, 1, 16))
    ]
    small = [tile | {"maxnreg": registers} for tile in tiles for registers in (96, 128, 168)]
    large = [tile | {"maxnreg": registers} for tile in tiles for registers in (128, 168, 255)]
    return {
        "chunks": [{"Q": q} for q in (64, 128, 256)],
        "ends": small,
        "outputs": small,
        "gradients": large + [{"BLOCKS": blocks} for blocks in (2, 4)],
    }


@triton.jit
def step(x, here):
    """Return the step of x (S, ...) that is marked along S: its bits beside zeros, which is free within a thread."""
    bits = tl.where(here, x.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 0, keep_dims=True).to(tl.float32, bitcast=True)


@triton.jit
def ahead(a, b, h, s, S: tl.constexpr):
    """Return the states a h + b after each step (S, M, W, R), what decay leaves of those before it, and the last."""
    left = tl.where(s == 0, a * h, 0.0)
    states = left + b
    h = step(states, s == 0)
    for i in tl.static_range(1, S):
        old = step(a, s == i) * h
        h = old + step(states, s == i)
        left = tl.where(s == i, old, left)
        states = tl.where(s == i, h, states)
    return states, left, h


@triton.jit
def ahead_decay(a, p, s, S: tl.constexpr):
    """Return the decays p a_1 ... a_s up to each step (S, M, W, R), and the last."""
    decays = tl.where(s == 0, p * a, a)
    p = step(decays, s == 0)
    for i in tl.static_range(1, S):
        p = step(decays, s == i) * p
        decays = tl.where(s == i, p, decays)
    return decays, p


@triton.jit
def over_channels(x):
    """Sum x (S, M, W, R) over channels, first those of one thread."""
    return tl.sum(tl.sum(x, 3, keep_dims=True), 2, keep_dims=True)


@triton.jit
def back(a, c, m, s, S: tl.constexpr):
    """Return the adjoints l = c + m of each step, from the last to the first; m is what decay leaves of the next one.

    And the last m, which goes to the tile before.
    """
    adjoints = tl.where(s == S - 1, c + m, c)
    for i in tl.static_range(S):
        here = s == S - 1 - i
        l = step(adjoints, here) if i == 0 else step(adjoints, here) + m  # noqa: E741
        adjoints = tl.where(here, l, adjoints)
        m = step(a, here) * l
    return adjoints, m


@triton.jit
def softplus(x):
    """log(1 + e^x) = max(x, 0) + 2 artanh(r), r = e / (2 + e) of e = e^-|x|: to full precision where it is small."""
    e = tl.exp2(-LOG2E * tl.abs(x))
    r = e / (2.0 + e)
    q = r * r
    p = 1.0 / 3 + q * (1.0 / 5 + q * (1.0 / 7 + q * (1.0 / 9 + q * (1.0 / 11 + q * (1.0 / 13)))))
    return tl.maximum(x, 0.0) + 2.0 * (r + r * q * p)


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + tl.exp2(-LOG2E * x))


@triton.jit
def own_channels(channels, block, W: tl.constexpr, R: tl.constexpr):
    """Return a block's channels within their group (1, 1, W, R), and which of them there are."""
    own = block * (W * R) + tl.arange(0, W)[None, None, :, None] * R + tl.arange(0, R)[None, None, None, :]
    return own, own < channels


@triton.jit
def states_and_steps(S: tl.constexpr, M: tl.constexpr):
    """Return indices along N (1, M, 1, 1) and along S (S, 1, 1, 1)."""
    return tl.arange(0, M)[None, :, None, None], tl.arange(0, S)[:, None, None, None]


@triton.jit
def read(x, inside):
    """Load in float32, 0 outside."""
    return tl.load(x, inside, 0.0).to(tl.float32)


@triton.jit
def read_or_zero(x, d, inside):
    """Load one number a channel (1, 1, W, R), or zeros where there are none."""
    if x is None:
        value = tl.zeros_like(d).to(tl.float32)
    else:
        value = read(x + d, inside)
    return value


@triton.jit
def read_rates(A, d, n, inside, N):
    """Load A log2 e (1, M, W, R). States that there are not have no decay.

    Callers give a mask that depends on their loop, so that the compiler leaves this load in it: see "Layout".
    """
    return read(A + d * N + n, inside & (n < N)) * LOG2E


@triton.jit
def read_delta(delta, inside, bias, SOFTPLUS: tl.constexpr):
    """Load δ (S, 1, W, R) and what it was before the softplus; 0 outside, where no time passes."""
    raw = read(delta, inside) + bias
    d = raw
    if SOFTPLUS:
        d = softplus(raw)
    return tl.where(inside, d, 0.0), raw


@triton.jit
def chunk_ends(
    u, delta, A, B, bias, ends, sums, length, channels, groups, N, Q,
    u_batch, u_channel, d_batch, d_channel, b_batch, b_group, b_state,
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
    B += row * b_batch + group.to(tl.int64) * b_group + n.to(tl.int64) * b_state
    h, time = tl.zeros([1, M, W, R], tl.float32), tl.zeros([1, 1, W, R], tl.float32)
    for begin in range(chunk * Q, min(chunk * Q + Q, length), S):
        t = begin + s
        here, some = inside & (t < length), (n < N) & (t < length)
        dt, _ = read_delta(delta + t, here, shift, SOFTPLUS)
        x, b = read(u + t, here), read(B + t, some)
        a2 = read_rates(A, d, n, inside & (begin < length), N)
        _, _, h = ahead(tl.exp2(dt * a2), dt * x * b, h, s, S)
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
        h, _, after = ahead(tl.exp2(time * a2), end, h, s, S)
        tl.store(starts + (at + (k + 1) * by) * N + n, h, inside_n & (k + 1 < K))
        h = after
    tl.store(last + (row * D + d) * N + n, h, inside_n)


@triton.jit
def outputs(
    u, delta, A, B, C, skip, z, bias, starts, y, length, channels, groups, N, Q,
    u_batch, u_channel, d_batch, d_channel, b_batch, b_group, b_state, c_batch, c_group, c_state, z_batch, z_channel,
    SOFTPLUS: tl.constexpr, S: tl.constexpr, M: tl.constexpr, W: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Write y (B, D, L) from the states in which chunks begin."""
    group, chunk, row = tl.program_id(0) % groups, tl.program_id(1), tl.program_id(2).to(tl.int64)
    own, inside = own_channels(channels, tl.program_id(0) // groups, W, R)
    n, s = states_and_steps(S, M)
    d, D = group * channels + own, groups * channels
    shift, through = read_or_zero(bias, d, inside), read_or_zero(skip, d, inside)
    u += row * u_batch + d.to(tl.int64) * u_channel
    delta += row * d_batch + d.to(tl.int64) * d_channel
    B += row * b_batch + group.to(tl.int64) * b_group + n.to(tl.int64) * b_state
    C += row * c_batch + group.to(tl.int64) * c_group + n.to(tl.int64) * c_state
    y += (row * D + d) * length
    if z is not None:
        z += row * z_batch + d.to(tl.int64) * z_channel
    h = read(starts + ((row * tl.num_programs(1) + chunk) * D + d) * N + n, inside & (n < N))
    for begin in range(chunk * Q, min(chunk * Q + Q, length), S):
        t = begin + s
        here, some = inside & (t < length), (n < N) & (t < length)
        dt, _ = read_delta(delta + t, here, shift, SOFTPLUS)
        x, b, c = read(u + t, here), read(B + t, some), read(C + t, some)
        if z is not None:
            gate = read(z + t, here)
        a2 = read_rates(A, d, n, inside & (begin < length), N)
        h, _, after = ahead(tl.exp2(dt * a2), dt * x * b, h, s, S)
        out = tl.sum(h * c, 1, keep_dims=True) + through * x
        if z is not None:
            out *= gate * sigmoid(gate)
        tl.store(y + t, out, here)
        h = after


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
        _, _, h = ahead(a, dt * x * b, h, s, S)
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
            h = read(marks + ((row * tl.cdiv(length, S) + begin // S) * D + d) * N + n, inside_n)
            a2 = read_rates(A, d, n, inside & (begin < length), N)
            a = tl.exp2(dt * a2)
            h, left, _ = ahead(a, dt * x * b, h, s, S)
            if z is not None:
                out, opened = tl.sum(h * c, 1, keep_dims=True) + through * x, sigmoid(gate)
                tl.store(z_grad + to, dy * out * opened * (1.0 + gate * (1.0 - opened)), here)
                dy *= gate * opened
            l, m = back(a, c * dy, m, s, S)  # noqa: E741
            of_b, of_c = over_channels(dt * x * l), over_channels(dy * h)
            if i > 0:
                of_b, of_c = of_b + read(b_grad + t, some), of_c + read(c_grad + t, some)
            tl.store(b_grad + t, of_b, some)
            tl.store(c_grad + t, of_c, some)
            of_input, of_decay = tl.sum(l * b, 1, keep_dims=True), l * left
            of_dt = x * of_input + tl.sum(of_decay * a2, 1, keep_dims=True) * LN2
            if SOFTPLUS:
                of_dt *= sigmoid(raw)
            tl.store(u_grad + to, dt * of_input + through * dy, here)
            tl.store(d_grad + to, of_dt, here)
            of_a += tl.sum(of_decay * dt, 0, keep_dims=True)
            of_skip += tl.sum(dy * x, 0, keep_dims=True)
            of_bias += tl.sum(tl.where(here, of_dt, 0.0), 0, keep_dims=True)
        tl.store(a_grad + at, of_a, inside_n)
        at = (row * tl.num_programs(1) + chunk) * 2 * D + d
        tl.store(sums + at, of_skip, inside)
        tl.store(sums + at + D, of_bias, inside)
        tl.debug_barrier()  # the next block reads what this one wrote


def tile(kernel: str, states: int) -> dict[str, int]:
    """Return the constants of a kernel for N states: as many numbers in all as for 16."""
    config, M = CONFIGS[kernel], triton.next_power_of_2(states)
    room = max(1, 16 * config["W"] * config["R"] // M)
    W = min(room, max(config["W"], 32 // M))
    return {"S": config["S"], "M": M, "W": W, "R": room // W, "num_warps": 1, "maxnreg": config["maxnreg"]}


class Plan:
    """How a scan is cut: its sizes as the kernels read them, and programs."""

    def __init__(self, u: Tensor, B: Tensor, states: int) -> None:
        self.batch, self.D, self.length = u.shape
        self.groups, self.states = B.shape[1], states
        self.channels = self.D // self.groups
        most = max(CONFIGS[kernel]["S"] for kernel in ("ends", "outputs", "gradients"))
        self.steps = max(CONFIGS["chunks"]["Q"], most)
        programs = self.batch * triton.cdiv(self.D * triton.next_power_of_2(states), 256)
        while self.steps > most and programs * triton.cdiv(self.length, self.steps) < ENOUGH:
            self.steps //= 2
        while triton.cdiv(self.length, self.steps) > MOST:
            self.steps *= 2
        self.chunks = triton.cdiv(self.length, self.steps)

    def parts(self, constants: dict[str, int]) -> int:
        """Return how many programs a group's channels are given to."""
        return triton.cdiv(self.channels, constants["W"] * constants["R"] * constants.get("BLOCKS", 1))

    def grid(self, constants: dict[str, int]) -> tuple[int, int, int]:
        """Return the programs of a kernel that walks chunks."""
        return self.groups * self.parts(constants), self.chunks, self.batch

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes in the kernels' order."""
        return self.length, self.channels, self.groups, self.states, self.steps

    def carried(self, ends: Tensor, sums: Tensor, A: Tensor, first: Tensor, turned: bool) -> tuple[Tensor, Tensor]:
        """Return the states before all chunks, and after all."""
        constants, starts, last = tile("ends", self.states), torch.empty_like(ends), torch.empty_like(first)
        carry[(self.groups * self.parts(constants), self.batch)](
            ends, sums, A, first, starts, last, self.chunks, self.channels, self.groups, self.states,
            TURNED=turned, **constants,
        )  # fmt: skip
        return starts, last


def two(x: Tensor | None) -> tuple[int, int]:
    """Return the distances of batch rows and channels."""
    return (0, 0) if x is None else (x.stride(0), x.stride(1))


def three(x: Tensor) -> tuple[int, int, int]:
    """Return the distances of batch rows, groups and states."""
    return x.stride(0), x.stride(1), x.stride(2)


def ready(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None,
) -> list:  # fmt: skip
    """Return the inputs as the kernels read them."""
    one = [None if x is None else x.contiguous() for x in (D, delta_bias)]
    z = None if z is None else along_time(z)
    return [along_time(u), along_time(delta), A.contiguous(), along_time(B), along_time(C), one[0], z, one[1]]


@torch.library.custom_op("audiossm::selective_scan", mutates_args=())
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool, state: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See `audiossm.kernels.selective_scan`; B and C have groups, u is not empty and the state is float32.

    Also returns what the backward reads: the states in which chunks begin (B, K, D, N), and their time (B, K, D).
    """
    plan = Plan(u, B, A.shape[1])
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    u, delta, A, B, C, D, z, delta_bias = ready(u, delta, A, B, C, D, z, delta_bias)
    ends = state.new_empty(plan.batch, plan.chunks, *A.shape)
    sums = state.new_empty(ends.shape[:-1])
    with on_device(u):
        constants = tile("ends", plan.states)
        chunk_ends[plan.grid(constants)](
            u, delta, A, B, delta_bias, ends, sums, *plan.sizes, *two(u), *two(delta), *three(B),
            SOFTPLUS=delta_softplus, **constants,
        )  # fmt: skip
        starts, last = plan.carried(ends, sums, A, state.contiguous(), False)
        constants = tile("outputs", plan.states)
        outputs[plan.grid(constants)](
            u, delta, A, B, C, D, z, delta_bias, starts, y, *plan.sizes,
            *two(u), *two(delta), *three(B), *three(C), *two(z), SOFTPLUS=delta_softplus, **constants,
        )  # fmt: skip
    return y, last, starts, sums


@torch.library.custom_op("audiossm::selective_scan_backward", mutates_args=())
def selective_scan_backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool,
    starts: Tensor, sums: Tensor, grad: Tensor, last_grad: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Return the gradients of u, δ, A, B, C, D, z, the bias and the state; empty ones of what is None."""
    plan, dtypes = Plan(u, B, A.shape[1]), [x.dtype for x in (A, B, C)]
    u_grad, d_grad = (torch.empty(u.shape, dtype=x.dtype, device=u.device) for x in (u, delta))
    z_grad = u.new_empty(0) if z is None else torch.empty(u.shape, dtype=z.dtype, device=u.device)
    u, delta, A, B, C, D, z, delta_bias = ready(u, delta, A, B, C, D, z, delta_bias)
    grad, constants = along_time(grad), tile("gradients", plan.states)
    ends, a_grad = torch.empty_like(starts), torch.empty_like(starts)
    marks = starts.new_empty(plan.batch, triton.cdiv(plan.length, constants["S"]), *A.shape)
    one = starts.new_empty(plan.batch, plan.chunks, 2, plan.D)
    strides = (*two(u), *two(delta), *three(B), *three(C), *two(z), *two(grad))
    with on_device(u):
        walk[plan.grid(constants)](
            u, delta, A, B, C, z, delta_bias, grad, starts, marks, ends, *plan.sizes, *strides,
            SOFTPLUS=delta_softplus, **constants,
        )  # fmt: skip
        ends, first_grad = plan.carried(ends, sums, A, last_grad.contiguous(), True)
        constants["BLOCKS"] = CONFIGS["gradients"]["BLOCKS"]
        parts = plan.parts(constants)
        b_grad, c_grad = (starts.new_empty(parts, *x.shape) for x in (B, C))
        gradients[plan.grid(constants)](
            u, delta, A, B, C, D, z, delta_bias, grad, marks, ends,
            u_grad, d_grad, None if z is None else z_grad, b_grad, c_grad, a_grad, one,
            *plan.sizes, *strides, SOFTPLUS=delta_softplus, **constants,
        )  # fmt: skip
    of_skip, of_bias = (one[:, :, i].sum((0, 1)) for i in (0, 1))
    weights = (part.sum(0).to(dtype) for part, dtype in zip((b_grad, c_grad), dtypes[1:], strict=True))
    return [
        u_grad, d_grad, a_grad.sum((0, 1)).to(dtypes[0]), *weights,
        u.new_empty(0) if D is None else of_skip.to(D.dtype), z_grad,
        u.new_empty(0) if delta_bias is None else of_bias.to(delta_bias.dtype), first_grad,
    ]  # fmt: skip


@selective_scan.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, state):
    starts = state.new_empty(u.shape[0], Plan(u, B, A.shape[1]).chunks, *A.shape)
    return u.new_empty(u.shape), torch.empty_like(state), starts, starts.new_empty(starts.shape[:-1])


@selective_scan_backward.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, starts, sums, grad, last_grad):
    whole = [x.new_empty(x.shape) for x in (u, delta, A, B, C)]
    rest = [u.new_empty(0) if x is None else x.new_empty(x.shape) for x in (D, z, delta_bias)]
    return [*whole, *rest, torch.empty_like(last_grad)]


def remember(ctx, inputs: tuple, output: tuple) -> None:
    """Keep what the backward reads."""
    *tensors, softplus, _ = inputs
    ctx.softplus = softplus
    ctx.save_for_backward(*tensors, *output[2:])
    ctx.set_materialize_grads(False)


def backward(ctx, grad: Tensor | None, last_grad: Tensor | None, *_: None) -> tuple:
    """See `selective_scan_backward`."""
    *tensors, starts, sums = ctx.saved_tensors
    grad = torch.zeros_like(tensors[0]) if grad is None else grad
    last_grad = torch.zeros_like(starts[:, 0]) if last_grad is None else last_grad
    found = selective_scan_backward(*tensors, ctx.softplus, starts, sums, grad, last_grad)
    grads = [None if x is None else g for x, g in zip(tensors, found[:-1], strict=True)]
    return *grads, None, found[-1]


selective_scan.register_autograd(backward, setup_context=remember)

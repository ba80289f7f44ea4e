"""What the kernels of `selective_scan` do with a tile, in registers: see selective_scan.py."""

import triton
import triton.language as tl

from audiossm.kernels.dispatch import INTERPRETED

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
ON_A_GPU = tl.constexpr(not INTERPRETED)
ROUNDED = tl.constexpr(12582912.0)  # 1.5 * 2^23: float32 of this size are whole numbers, the low bits those of an int


@triton.jit
def step(x, here):
    """Return the step of x (S, ...) that is marked along S: its bits beside zeros, which is free within a thread."""
    bits = tl.where(here, x.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 0, keep_dims=True).to(tl.float32, bitcast=True)


@triton.jit
def halved(x, S: tl.constexpr, X: tl.constexpr, T: tl.constexpr, H: tl.constexpr, Y: tl.constexpr):
    """Add what threads t and t ^ H have of x (S, X, T, Y): one keeps the even steps, the other the odd ones."""
    bits = tl.reshape(x.to(tl.int32, bitcast=True), [S // 2, 2, X, T // (2 * H), 2, H, Y])
    side = tl.arange(0, 2)
    odd, upper = side[None, :, None, None, None, None, None] == 1, side[None, None, None, :, None, None] == 1
    even_steps, odd_steps = tl.sum(tl.where(odd, 0, bits), 1), tl.sum(tl.where(odd, bits, 0), 1)
    kept, given = tl.where(upper, odd_steps, even_steps), tl.where(upper, even_steps, odd_steps)
    taken = tl.xor_sum(given, 3, keep_dims=True) ^ given  # what the other one gives
    total = kept.to(tl.float32, bitcast=True) + taken.to(tl.float32, bitcast=True)
    return tl.reshape(total, [S // 2, X, T, Y])


@triton.jit
def over_threads(x, S: tl.constexpr, X: tl.constexpr, T: tl.constexpr, Y: tl.constexpr):
    """Sum x (S, X, T, Y) over T threads to (S, X, Y), whose steps they then share.

    They halve the steps with each exchange, one a number in all. Sums of all steps in every thread would take log2 T.
    """
    P: tl.constexpr = T if T < S else S
    x = tl.sum(tl.reshape(x, [S, X, T // P, P, Y]), 2)
    for i in tl.static_range(5):
        if 1 << i < P:
            x = halved(x, S >> i, X, P, 1 << i, Y)
    return tl.reshape(tl.permute(x, (0, 2, 1, 3)), [S, X, Y])


@triton.jit
def over_channels(x, S: tl.constexpr, M: tl.constexpr, W: tl.constexpr):
    """Sum x (S, M, W, 1) over channels to (S, M, 1, 1)."""
    return tl.reshape(over_threads(x, S, M, W, 1), [S, M, 1, 1])


@triton.jit
def of_part(x, P: tl.constexpr, M: tl.constexpr, W: tl.constexpr, R: tl.constexpr):
    """Sum x (1, M, W, R) over the states that one thread has, to (1, P, W, R)."""
    return tl.sum(tl.reshape(x, [1, P, M // P, W, R]), 2)


@triton.jit
def over_states(x, S: tl.constexpr, P: tl.constexpr, W: tl.constexpr, R: tl.constexpr):
    """Sum x (S, P, W, R) over parts of the states to (S, 1, W, R)."""
    return tl.reshape(over_threads(tl.reshape(x, [S, 1, P, W * R]), S, 1, P, W * R), [S, 1, W, R])


@triton.jit
def softplus(x):
    """log(1 + e^x) = max(x, 0) + e p(e) of e = e^-|x|, with p within 3e-8 of log(1 + e) / e up to e = 1 (minimax)."""
    e = tl.exp2(-LOG2E * tl.abs(x))
    p = 0.19106005 + e * (-0.13663243 + e * (0.07822591 + e * (-0.029505214 + e * 0.005232688)))
    p = 0.99999994 + e * (-0.49999493 + e * (0.33319098 + e * (-0.24842982 + e * p)))
    return tl.maximum(x, 0.0) + e * p


@triton.jit
def power_of_2(x):
    """2^x in multiply-adds: the polynomial of what rounding leaves of x (minimax, within 1e-7) times a power of 2."""
    x = tl.minimum(tl.maximum(x, -126.0), 127.0)
    whole = x + ROUNDED
    f = x - (whole - ROUNDED)
    p = 1.0 + f * (0.693146978 + f * (0.240222421 + f * (0.0555073374 + f * (0.00967151265 + f * 0.00132647271))))
    bits = p.to(tl.int32, bitcast=True) + (whole.to(tl.int32, bitcast=True) << 23)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def power_of_2_shared_out(x, s):
    """2^x (S, ...), the first step's by `power_of_2`: a GPU has few units for exponentials, and many others."""
    return tl.where(s == 0, power_of_2(x), tl.exp2(x))


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + tl.exp2(-LOG2E * x))


@triton.jit
def once(x):
    """Return x (S, 1, W, R), a sum of one: each number is computed by one thread, not again by all that need it."""
    return tl.sum(x, 1, keep_dims=True)


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
def read_steps(delta, u, z, t, inside):
    """Load δ, u and the gate (u where there is none), as they are in memory, 0 outside."""
    of_delta, of_u = tl.load(delta + t, inside, 0.0), tl.load(u + t, inside, 0.0)
    gate = of_u
    if z is not None:
        gate = tl.load(z + t, inside, 0.0)
    return of_delta, of_u, gate


@triton.jit
def fetch(x):
    """Ask for what is at x, which is on its way to the L2 cache while the program goes on."""
    if ON_A_GPU:
        code: tl.constexpr = "prefetch.global.L2 [$1]; mov.u32 $0, 0;"
        tl.inline_asm_elementwise(code, "=r,l", [x.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1)


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
def step_size(raw, inside, SOFTPLUS: tl.constexpr):
    """Return δ (S, 1, W, R) of what it was before the softplus; 0 outside, where no time passes.

    It goes through shared memory, past which no load is moved forward: callers have loaded all before, at once.
    """
    d = raw
    if SOFTPLUS:
        d = once(softplus(raw))
    return tl.where(inside, d, 0.0)

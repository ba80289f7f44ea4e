"""What the kernels of `selective_scan` do with a tile, in registers: see selective_scan.py."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def step(x, here):
    """Return the step of x (S, ...) that is marked along S: its bits beside zeros, which is free within a thread."""
    bits = tl.where(here, x.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 0, keep_dims=True).to(tl.float32, bitcast=True)


@triton.jit
def ahead(a, b, h, s, S: tl.constexpr):
    """Return the states a h + b after each step (S, M, W, R), and the last."""
    states = tl.where(s == 0, a * h + b, b)
    h = step(states, s == 0)
    for i in tl.static_range(1, S):
        h = step(a, s == i) * h + step(states, s == i)
        states = tl.where(s == i, h, states)
    return states, h


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
        d = once(softplus(raw))
    return tl.where(inside, d, 0.0), raw

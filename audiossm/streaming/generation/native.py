"""SaShiMi's step in machine code: tiers of S4D layers, for one sample after another, compiled by Numba.

A tier's numbers lie in a row, in the order in which a step reads them, so that each sample streams through them once:
at the published size that is what takes the time, 3 MB a sample from the third cache. So the matrices of linear layers
are 16-bit integers, which halves them and errs by 4e-5 of the logits' RMS; all that a state meets is float32. Several
streams share each read: a matrix is taken eight rows at a time, for all of them. What one stream gets does not depend
on the others, bit for bit.

Glossary: B streams, H channels, N complex modes a channel, L layers, F channels of a feed-forward block.
"""

from typing import Any

import numpy as np
from numba import njit

from audiossm.streaming.generation import draw

# Numba widens a float32 beside a Python number; these do not.
ZERO, HALF, ONE, EPSILON = (np.float32(x) for x in (0, 0.5, 1, 1e-5))
STEPS = np.float32(1 / 32)
TAYLOR = tuple(np.float32(1 / x) for x in (720, 120, 24, 6))
LOWEST, HIGHEST = np.float32(-40), np.float32(20)
ROOT_HALF = np.float32(0.5**0.5)
real = np.float32
# erf x = 1 - (a1 t + ... + a5 t⁵) exp(-x²), t = 1 / (1 + p x), to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26)
P, A1, A2, A3, A4, A5 = (
    np.float32(x) for x in (0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)

inline: Any = njit(inline="always", fastmath=True)
compiled: Any = njit(cache=True, fastmath=True, error_model="numpy", boundscheck=False)


@inline
def exp(x):
    """Return e^x to 2e-6 as the 32nd power of a short series: no branch and no call, so that loops become vectors."""
    y = max(LOWEST, min(HIGHEST, x)) * STEPS
    y = ONE + y * (ONE + y * (HALF + y * (TAYLOR[3] + y * (TAYLOR[2] + y * (TAYLOR[1] + y * TAYLOR[0])))))
    y *= y
    y *= y
    y *= y
    y *= y
    return y * y


@inline
def gelu(x):
    """Return x Φ(x)."""
    z = abs(x) * ROOT_HALF
    t = ONE / (ONE + P * z)
    tail = t * (A1 + t * (A2 + t * (A3 + t * (A4 + t * A5)))) * exp(-z * z)
    return HALF * (x + abs(x) * (ONE - tail))


@inline
def sigmoid(x):
    """Return 1 / (1 + e^-x)."""
    return ONE / (ONE + exp(-x))


@compiled
def affine(w, at, m, spot, x, y):
    """Make y (B, out) x (B, in) times a matrix, plus a bias; return what follows in both rows of numbers.

    The matrix (in, out) is at m[spot] in 16-bit integers; w[at] has what an integer of each of its rows is worth (in),
    then the bias (out).
    """
    inputs, outputs = x.shape[1], y.shape[1]
    for b in range(len(x)):
        for o in range(outputs):
            y[b, o] = w[at + inputs + o]
    for j in range(0, inputs - 7, 8):
        row = spot + j * outputs
        w0, w1, w2, w3 = m[row:], m[row + outputs :], m[row + 2 * outputs :], m[row + 3 * outputs :]
        row += 4 * outputs
        w4, w5, w6, w7 = m[row:], m[row + outputs :], m[row + 2 * outputs :], m[row + 3 * outputs :]
        worth = w[at + j :]
        for b in range(len(x)):
            z, v = y[b], x[b, j:]
            x0, x1, x2, x3 = v[0] * worth[0], v[1] * worth[1], v[2] * worth[2], v[3] * worth[3]
            x4, x5, x6, x7 = v[4] * worth[4], v[5] * worth[5], v[6] * worth[6], v[7] * worth[7]
            for o in range(outputs):
                z[o] += (x0 * real(w0[o]) + x1 * real(w1[o]) + x2 * real(w2[o]) + x3 * real(w3[o])) + (
                    x4 * real(w4[o]) + x5 * real(w5[o]) + x6 * real(w6[o]) + x7 * real(w7[o])
                )
    for j in range(inputs // 8 * 8, inputs):
        row = m[spot + j * outputs :]
        for b in range(len(x)):
            z, x0 = y[b], x[b, j] * w[at + j]
            for o in range(outputs):
                z[o] += x0 * real(row[o])
    return at + inputs + outputs, spot + inputs * outputs


@compiled
def layer_norm(w, at, x, y):
    """Compute y = x (B, H) normalised over H, times w[at : at + H], plus the H that follow; return what follows."""
    channels = x.shape[1]
    for b in range(len(x)):
        total = ZERO
        for h in range(channels):
            total += x[b, h]
        mean, total = total / np.float32(channels), ZERO
        for h in range(channels):
            total += (x[b, h] - mean) * (x[b, h] - mean)
        scale = ONE / np.sqrt(total / np.float32(channels) + EPSILON)
        for h in range(channels):
            y[b, h] = (x[b, h] - mean) * scale * w[at + h] + w[at + channels + h]
    return at + 2 * channels


@compiled
def s4d(w, at, state, v, y):
    """Make y (B, H) = gain v + what the state (N, 2, B, H) says, and advance the state; return what follows.

    w holds the gain (H), then for each mode the decay (2, H) and the weights of its state's parts (2, H).
    """
    channels = v.shape[1]
    for b in range(len(v)):
        for h in range(channels):
            y[b, h] = w[at + h] * v[b, h]
    at += channels
    for n in range(len(state)):
        re, im = w[at:], w[at + channels :]
        of_re, of_im = w[at + 2 * channels :], w[at + 3 * channels :]
        for b in range(len(v)):
            x_re, x_im, u, z = state[n, 0, b], state[n, 1, b], v[b], y[b]
            for h in range(channels):
                p, q = x_re[h], x_im[h]
                z[h] += of_re[h] * p + of_im[h] * q
                x_re[h] = re[h] * p - im[h] * q + u[h]
                x_im[h] = re[h] * q + im[h] * p
        at += 4 * channels
    return at


@compiled
def tier(w, at, m, spot, states, ff, u, v, y, pair, wide):
    """Run the layers of a tier on u (B, H), in place; v, y (B, H), pair (B, 2 H), wide (B, F) are room to work in."""
    batch, channels = u.shape
    for layer in range(len(states)):
        at = layer_norm(w, at, u, v)
        at = s4d(w, at, states[layer], v, y)
        for b in range(batch):
            z = y[b]
            for h in range(channels):
                z[h] = gelu(z[h])
        at, spot = affine(w, at, m, spot, y, pair)
        for b in range(batch):
            z, value, gate = u[b], pair[b, :channels], pair[b, channels:]
            for h in range(channels):
                z[h] += value[h] * sigmoid(gate[h])
        if ff:
            at = layer_norm(w, at, u, v)
            at, spot = affine(w, at, m, spot, v, wide)
            for b in range(batch):
                z = wide[b]
                for f in range(ff):
                    z[f] = gelu(z[f])
            at, spot = affine(w, at, m, spot, wide, v)
            for b in range(batch):
                z, q = u[b], v[b]
                for h in range(channels):
                    z[h] += q[h]
    return at, spot


@compiled
def step(codes, heard, numbers, logits):
    """Hear a code (B,) of each stream, the one of number `heard`, and run every tier that is due.

    Of `numbers`, held and rows hold an array (B, p H) for each pool, and what follows ff one for each tier. extra
    (B, H), that of the class, is added to the embedding (codes + 1, H).
    """
    embedding, extra, pools, held, rows, ff, weights, matrices, states, skips, us, vs, ys, pairs, wides = numbers
    batch, count = len(codes), heard
    for k in range(len(weights)):
        u, w, at, m, spot = us[k], weights[k], 0, matrices[k], 0
        channels = u.shape[1]
        if k == 0:
            for b in range(batch):
                for h in range(channels):
                    u[b, h] = embedding[codes[b], h] + extra[b, h]
        else:
            if (count + 1) % pools[k - 1]:
                return
            count = (count + 1) // pools[k - 1] - 1
            at, spot = affine(w, at, m, spot, held[k - 1], u)
        if k < len(pools):
            place = count % pools[k] * channels
            for b in range(batch):
                for h in range(channels):
                    held[k][b, place + h] = u[b, h]
                    u[b, h] += rows[k][b, place + h]
        skips[k][:] = u
        at, spot = tier(w, at, m, spot, states[k], ff[k], u, vs[k], ys[k], pairs[k], wides[k])
        for b in range(batch):
            for h in range(channels):
                u[b, h] += skips[k][b, h]
        if k == 0:
            at = layer_norm(w, at, u, vs[k])
            affine(w, at, m, spot, vs[k], logits)
        else:
            affine(w, at, m, spot, u, rows[k - 1])


draw_code, code_bits = compiled(draw.draw_code), compiled(draw.code_bits)


@compiled
def run(given, uniforms, temperature, top_p, last, heard, numbers, logits, bits):
    """Go on by n samples, as `OnnxEngine.run` says: codes into given (n, B), bits into bits (n, B)."""
    for n in range(len(given)):
        step(last, heard + n, numbers, logits)
        for b in range(len(last)):
            if given[n, b] < 0:
                given[n, b] = draw_code(logits[b], uniforms[n, b], temperature, top_p)
            bits[n, b] = code_bits(logits[b], given[n, b])
            last[b] = given[n, b]

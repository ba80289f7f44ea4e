"""A dense system x_n = A x_{n-1} + b u_n, y_n = c · x_n over whole sequences, by powers A^(2^i).

The vectors b, A b, A² b ... (the LSSL paper's Krylov function) come by doubling: those of the first 2^i, times A^(2^i),
are the next 2^i. A sequence is cut in chunks of Q steps. What b reaches within a chunk, what c reads there, and how
chunks follow one another are each such vectors, so that L steps cost log2 L matrix products and nothing of size N L is
made.

Glossary: B batch, H channels, L length, N state, Q chunk, K chunks, M columns.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from audiossm.kernels import fft_conv

LEVELS = 6  # chunks of 2^6 steps: no shorter than a usual N, so that the chunks' N² do not outweigh their N Q


def bilinear(a: Tensor, b: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Discretise x' = a x + b u by the trapezoidal rule, for a (N, N), b (N,) and steps dt (H,).

    Returns:
        (1 - dt a/2)^-1 (1 + dt a/2) (H, N, N) and dt (1 - dt a/2)^-1 b (H, N).
    """
    half, eye = dt[:, None, None] * a / 2, torch.eye(len(a), dtype=a.dtype, device=a.device)
    both = torch.cat((eye + half, dt[:, None, None] * b.unsqueeze(1)), dim=2)
    both, _ = torch.linalg.solve_ex(eye - half, both)  # never singular, as A is stable: nothing to check
    return both[..., :-1], both[..., -1]


def doublings(a: Tensor, length: int) -> list[Tensor]:
    """Return A, A², A⁴ ... up to the last power of two that is not above `length`, each (H, N, N)."""
    out = [a]
    while 2 ** len(out) <= length:
        out.append(out[-1] @ out[-1])
    return out


def power(doubled: Sequence[Tensor], exponent: int) -> Tensor:
    """Return A^exponent (H, N, N), exponent at least 1."""
    return reduce(torch.matmul, [a for i, a in enumerate(doubled) if exponent >> i & 1])


def orbit(doubled: Sequence[Tensor], x: Tensor, count: int) -> Tensor:
    """Return x, A x ... A^(count-1) x side by side, (H, N, count · M), for x (H, N, M)."""
    columns = x.shape[2]
    for a in doubled:
        if x.shape[2] >= count * columns:
            break
        x = torch.cat((x, a @ x), dim=2)
    return x[..., : count * columns]


def transposed(doubled: Sequence[Tensor]) -> list[Tensor]:
    """Return the powers of A's transpose, with which c travels."""
    return [a.mT for a in doubled]


def kernel(doubled: Sequence[Tensor], b: Tensor, c: Tensor, length: int) -> Tensor:
    """Return c · A^l b for l below `length`, (H, L); b and c (H, N). Lag k Q + j is (c A^j) · (A^(kQ) b)."""
    levels, chunks = cut(length)
    reads = orbit(transposed(doubled), c.unsqueeze(2), 2**levels)
    reached = orbit(doubled[levels:], b.unsqueeze(2), chunks)
    return (reached.mT @ reads).flatten(1)[:, :length]


def free_response(doubled: Sequence[Tensor], c: Tensor, x: Tensor, length: int) -> Tensor:
    """Return what a state x (B, H, N) alone gives, c · A^(n+1) x for n below `length`, (B, H, L)."""
    levels, chunks = cut(length)
    reads = orbit(transposed(doubled), doubled[0].mT @ c.unsqueeze(2), 2**levels)
    starts = orbit(doubled[levels:], x.permute(1, 2, 0), chunks).unflatten(2, (chunks, -1))  # (H, N, K, B)
    return torch.einsum("hnkb,hnq->bhkq", starts, reads).flatten(2)[..., :length]


def forced_state(doubled: Sequence[Tensor], b: Tensor, u: Tensor) -> Tensor:
    """Return the state (B, H, N) to which inputs u (B, H, L) alone lead, sum_l A^(L-1-l) b u_l.

    Each chunk leads to a state, and pairs of chunks are folded into one until one is left.
    """
    levels, chunks = cut(u.shape[2])
    size = 2**levels
    writes = orbit(doubled, b.unsqueeze(2), size).flip(2)
    u = F.pad(u, (chunks * size - u.shape[2], 0)).unflatten(2, (chunks, size))  # silence before leads to nothing
    x = torch.einsum("bhkq,hnq->hnkb", u, writes)
    for a in doubled[levels:]:
        if x.shape[2] == 1:
            break
        x = F.pad(x, (0, 0, x.shape[2] % 2, 0))
        x = torch.einsum("hmn,hnkb->hmkb", a, x[:, :, 0::2]) + x[:, :, 1::2]
    return x.squeeze(2).permute(2, 0, 1)


def cut(length: int) -> tuple[int, int]:
    """Return log2 Q and K for a length of at least 1."""
    levels = min(LEVELS, (length - 1).bit_length())
    return levels, -(-length // 2**levels)


def respond(
    u: Tensor, lags: Tensor, doubled: Sequence[Tensor], last: Tensor, b: Tensor, c: Tensor, d: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Run a system over u (B, H, L), L at least 1, from a state x (B, H, N), given its kernel (H, L) and A^L (H, N, N).

    The powers come in float64 and are used in the precision of u.

    Returns:
        y (B, H, L) and the last state (B, H, N).
    """
    doubled, last, b, c = [a.to(u) for a in doubled], last.to(u), b.to(u), c.to(u)
    y = fft_conv(u, lags, d) + free_response(doubled, c, x, u.shape[2])
    return y, torch.einsum("hmn,bhn->bhm", last, x) + forced_state(doubled, b, u)


def toeplitz(lags: Tensor, d: Tensor | float = 0.0) -> Tensor:
    """Return the lower-triangular matrix (H, T, T) that convolves with lags (H, T), d (H,) added to the first."""
    length = lags.shape[1]
    first = lags[:, :1] + (d.unsqueeze(1) if isinstance(d, Tensor) else d)
    lags = torch.cat((first, lags[:, 1:]), dim=1)
    return F.pad(lags, (length - 1, 0)).unfold(1, length, 1).flip(2)

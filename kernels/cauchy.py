"""Cauchy sums, and with them the convolution kernel of S4's DPLR form (Gu, Goel and Ré 2022, theorem 3).

Glossary: R rows of weights over the same poles, H channels, N conjugate pairs of poles a channel, L nodes or lags. A
pair is a complex number on a last axis of 2.
"""

import math

import torch
from torch import Tensor

from audiossm.kernels import pairs
from audiossm.kernels.dispatch import on_gpu

FAR = 1e8  # the node of the Nyquist frequency, which is infinite


def cauchy_reference(v: Tensor, z: Tensor, w: Tensor) -> Tensor:
    """Compute `cauchy` as its definition says; (R, H, L, N) in memory."""
    v, z, w = (pairs.as_complex(x) for x in (v, z, w))
    v, w = v.unsqueeze(-2), w.unsqueeze(-2)
    return torch.view_as_real((v / (z[:, None] - w) + v.conj() / (z[:, None] - w.conj())).sum(-1))


def cauchy(v: Tensor, z: Tensor, w: Tensor) -> Tensor:
    """Return sum_n v_n / (z - w_n) + v̄_n / (z - w̄_n) at every node.

    Args:
        v: (R, H, N, 2) weights.
        z: (L, 2) nodes; they get no gradient.
        w: (H, N, 2) poles, on no node.

    Returns:
        (R, H, L, 2).
    """
    z = z.detach()
    if on_gpu(v, z) and v.dtype == torch.float32:
        from audiossm.kernels.gpu.cauchy import cauchy as on_the_gpu

        return on_the_gpu(v, z, w)
    return products(v, z, w)


def products(v: Tensor, z: Tensor, w: Tensor) -> Tensor:
    """Compute `cauchy` by two matrix products a channel; (H, N, L) in memory."""
    v, z, w = (pairs.as_complex(x) for x in (v, z, w))
    v, w = v.transpose(0, 1), w.unsqueeze(-1)  # (H, R, N), (H, N, 1)
    y = v @ (1 / (z - w)) + v.conj() @ (1 / (z - w.conj()))
    return torch.view_as_real(y.transpose(0, 1).contiguous())


def dplr_kernel_reference(w: Tensor, p: Tensor, b: Tensor, c: Tensor, length: int) -> Tensor:
    """Compute `dplr_kernel` as its definition says, with dense matrices and one power after another."""
    w, p, b, c = (torch.cat((x, x.conj()), dim=-1) for x in map(pairs.as_complex, (w, p, b, c)))  # (H, 2N)
    a = torch.diag_embed(w) - p.unsqueeze(-1) * p.conj().unsqueeze(-2)
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    step = torch.linalg.solve(eye - a / 2, eye + a / 2)  # the bilinear transform
    x = torch.linalg.solve(eye - a / 2, b.unsqueeze(-1))
    c = torch.linalg.solve((eye - torch.linalg.matrix_power(step, length)).mT, c.unsqueeze(-1)).mT
    out = []
    for _ in range(length):
        out.append((c @ x).real.flatten())
        x = step @ x
    return torch.stack(out, dim=-1) if out else c.real.new_zeros(len(c), 0)


def dplr_kernel(w: Tensor, p: Tensor, b: Tensor, c: Tensor, length: int) -> Tensor:
    """Return the kernel of an SSM with A = diag(w) - p p*, discretised by the bilinear transform (S4, algorithm 1).

    Its spectrum at the roots of unity is, by Woodbury's identity, made of four Cauchy sums over the same poles.

    Args:
        w: (H, N, 2) poles times the step dt.
        p: (H, N, 2) low-rank part times the root of dt.
        b: (H, N, 2) input weights times dt.
        c: (H, N, 2) output weights C (I - Ā^L): those of the kernel cut off at L, which S4 trains as they are.
        length: L.

    Returns:
        (H, L).
    """
    if length == 0:
        return c.new_zeros(len(c), 0)
    z = nodes(length, w)
    return kernel_of(cauchy(weights(p, b, c), z, w), z, length)


def nodes(length: int, w: Tensor) -> Tensor:
    """Return where the bilinear transform takes the roots of unity ω: z = 2 (1 - ω) / (1 + ω), (L // 2 + 1, 2)."""
    angle = torch.arange(length // 2 + 1, dtype=torch.float64, device=w.device) * (math.pi / length)
    height = (2 * angle.tan()).abs().clamp(max=FAR).to(w.dtype)
    return pairs.pair(torch.zeros_like(height), height)


def weights(p: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return what is summed up over the poles: c b, c p, p̄ b and p̄ p, (4, H, N, 2)."""
    p, b, c = (pairs.as_complex(x) for x in (p, b, c))
    return torch.view_as_real(torch.stack((c * b, c * p, p.conj() * b, p.conj() * p)))


def kernel_of(sums: Tensor, z: Tensor, length: int) -> Tensor:
    """Return the kernel (H, L) from the four sums (4, H, L // 2 + 1, 2), by Woodbury's identity."""
    cb, cp, pb, pp = (pairs.as_complex(k) for k in sums)
    spectrum = (cb - cp * pb / (1 + pp)) * (1 + pairs.as_complex(z) / 2)  # 2 / (1 + ω) = 1 + z / 2
    return torch.fft.irfft(spectrum, n=length)

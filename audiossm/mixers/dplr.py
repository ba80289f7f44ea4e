"""Diagonal plus low rank: A = diag(w) - p p* (S4: Gu, Goel and Ré 2022, arXiv 2111.00396, theorem 1).

In the basis of its normal part's eigenvectors, which is unitary and so loses nothing, LegS is a diagonal matrix minus
one of rank one. (To diagonalise LegS itself takes a basis whose condition grows exponentially with n.) All modes come
in conjugate pairs, of which one is kept: with x for the kept half, p* x is the real number 2 Re(p̄ · x).

Glossary: H channels, N real state dimensions, N/2 conjugate pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from audiossm.mixers.hippo import legs, legs_skew


class DPLR(NamedTuple):
    """LegS in the eigenbasis V of its normal part: V* A V = diag(w) - p p*, b = V* B. Complex128.

    w, p, b: (n/2,) of the eigenvalues in the upper half plane; v: (n, n/2) their eigenvectors.
    """

    w: Tensor
    p: Tensor
    b: Tensor
    v: Tensor


def legs_dplr(n: int) -> DPLR:
    """Return LegS (n even) as diagonal plus low rank."""
    frequency, v = torch.linalg.eigh(-1j * legs_skew(n))  # S v = i frequency v
    frequency, v = frequency[n // 2 :], v[:, n // 2 :]  # in ascending order and symmetric about zero
    p = torch.sqrt(torch.arange(n, dtype=torch.float64) + 0.5)
    _, b = legs(n)
    return DPLR(torch.complex(torch.full_like(frequency, -0.5), frequency), v.mH @ p.to(v), v.mH @ b.to(v), v)


class Loop(NamedTuple):
    """A DPLR system in discrete time: diagonal modes, and one real number f that is fed back.

        f_n = 2 Re(q · x_{n-1}) + direct u_n          x_n = a x_{n-1} + r u_n + s f_n

    a, r, s, q: (H, N/2) complex; direct: (H,).
    """

    a: Tensor
    r: Tensor
    s: Tensor
    q: Tensor
    direct: Tensor

    def dense(self) -> tuple[Tensor, Tensor]:
        """Return the same system without the loop, x_n = Ā x_{n-1} + B̄ u_n: real Ā (H, N, N) and B̄ (H, N).

        The N real numbers are real and imaginary part of one mode after another.
        """
        one = torch.eye(2 * self.a.shape[1], dtype=self.direct.dtype, device=self.direct.device)
        unit = torch.view_as_complex(one.unflatten(1, (-1, 2)))  # (N, N/2)
        fed_back = 2 * (self.q.unsqueeze(1) * unit).real.sum(-1, keepdim=True)  # (H, N, 1)
        columns = self.a.unsqueeze(1) * unit + self.s.unsqueeze(1) * fed_back  # of Ā, (H, N, N/2)
        gain = self.r + self.s * self.direct.unsqueeze(1)
        return torch.view_as_real(columns).flatten(2).mT, torch.view_as_real(gain).flatten(1)


def bilinear_loop(w: Tensor, p: Tensor, b: Tensor, dt: Tensor) -> Loop:
    """Discretise x' = (diag(w) - p p*) x + b u by the bilinear transform; w, p, b (H, N/2) complex, dt (H, 1).

    Ā = (1 - dt A/2)^-1 (1 + dt A/2) = 2 (1 - dt A/2)^-1 - 1 and B̄ = dt (1 - dt A/2)^-1 b. With E = 1 / (1 - dt w/2)
    Woodbury's identity gives the inverse (S4, appendix C.2):

        (1 - dt A/2)^-1 v = E v - g E p (p* E v)          g = (dt/2) / (1 + (dt/2) p* E p)
    """
    e = 1 / (1 - dt * w / 2)
    q = p.conj() * e  # p* E v is 2 Re(q · v)
    g = (dt / 2) / (1 + dt * (q * p).real.sum(-1, keepdim=True))
    return Loop(2 * e - 1, dt * e * b, -g * e * p, 2 * q, 2 * dt.squeeze(1) * (q * b).real.sum(-1))

"""A frame's spectrum and the way back, each in two small products: the first step of an FFT, and no more of it.

With W = R Q a sample is n = Q r + q and a frequency k = s + R t, and exp(-2 pi i n k / W) falls into three factors:

    X[s + R t] = sum over q of exp(-2 pi i q t / Q) exp(-2 pi i q s / W) sum over r of exp(-2 pi i r s / R) x[Q r + q]

two matrices, with a factor for each (q, s) between them. For W = 512 that is a quarter of the work of one large matrix,
and a fiftieth of its memory, which is what a single frame waits for. A real signal needs s up to R / 2 only. What then
lies above W / 2 is told as its mirror image W - k: that is so for all t from Q / 2 on.

One matrix stands behind what it multiplies and one before it, so that rows and columns never have to change places.

A product of complex numbers is four real ones, and their sums are left to the matrix behind them.

Glossary: B batch, W samples of a window, F places of frequencies: Q S in the order (t, s), where S = R // 2 + 1.
"""

import math

import torch
from torch import Tensor, nn

from audiossm.tasks.spectrum import rise_and_fall, shape_back


class ShortTime(nn.Module):
    """Windows (B, W) to spectra (B, 1, 2, F), and spectra times gains to the two newest frames, (B, 2 hop).

    They are those of `Analysis` and `Synthesis`, but for the order of frequencies, of which some have two places.

    Args:
        window: W, even.
        hop: samples of a frame, at most half of W.

    Attributes:
        frequency: (F,) that of each place, 0 to W / 2.
        once: (F,) 1 at the first place of a frequency, 0 at the second.
        stands_for: (F,) how many of all W frequencies a place stands for, 0 where it is the second: a gain's factor.
    """

    rise: Tensor
    apart: Tensor
    turn: Tensor
    onward: Tensor
    back: Tensor
    together: Tensor
    fall: Tensor

    def __init__(self, window: int, hop: int):
        super().__init__()
        self.r = min(divisors(window), key=lambda r: (r + 2) * (window + 2 * (window // r) ** 2))  # the least products
        self.q, self.s = window // self.r, self.r // 2 + 1
        k = (torch.arange(self.s) + self.r * torch.arange(self.q)[:, None]).flatten()
        self.frequency = torch.minimum(k, window - k)
        places = self.frequency.tolist()
        self.once = torch.tensor([float(f not in places[:i]) for i, f in enumerate(places)])
        self.stands_for = self.once * torch.where((k == 0) | (2 * k == window), 1.0, 2.0)

        row, self.skip = divmod(window - 2 * hop, self.q)  # where the two newest frames begin
        re, im = circle(self.r, self.s, self.r)  # (R, S)
        apart, together = torch.stack((re, im, im, re), 1), torch.stack((re, -re, im, -im), 1)[row:]
        re, im = circle(self.q, self.s, window)  # (Q, S)
        turn = torch.stack((re, -im, re, im), 1)  # (Q, 4, S)
        re, im = circle(self.q, self.q, self.q)  # (t, q) and (q, t)
        mirror = torch.where(2 * torch.arange(self.q) < self.q, 1.0, -1.0).double()  # of imaginary parts
        to_re, to_im = torch.stack((re, re, -im, -im), 2), torch.stack((im, im, re, re), 2) * mirror[:, None, None]
        of_re, of_im = torch.stack((re, -im, -im, re), 1), torch.stack((im, re, re, im), 1) * mirror  # (q, 4, t)
        constants = {
            "rise": rise_and_fall(window, hop) / math.sqrt(window / 2),
            "apart": apart.flatten(1),  # (R, 4 S)
            "turn": turn.flatten(1),  # (Q, 4 S)
            "onward": torch.cat((to_re, to_im)).flatten(1),  # (2 Q, 4 Q)
            # Of the gain's real by the spectrum's real part, real by imaginary, imaginary by real, both imaginary.
            "back": torch.cat((of_re, of_im, of_im, -of_re), 2).flatten(0, 1),  # (4 Q, 4 Q)
            "together": together.flatten(1),  # (R - row, 4 S)
            "fall": shape_back(window, hop),
        }
        for name, constant in constants.items():
            self.register_buffer(name, constant.float().contiguous())

    def spectrum(self, heard: Tensor) -> Tensor:
        """Return the spectrum (B, 1, 2, F) of a window (B, W)."""
        x = (heard * self.rise).reshape(-1, self.r, self.q).mT @ self.apart * self.turn  # (B, Q, 4 S)
        return (self.onward @ x.reshape(-1, 4 * self.q, self.s)).reshape(-1, 1, 2, self.q * self.s)

    def audio(self, spectrum: Tensor, gains: Tensor) -> Tensor:
        """Return the two newest frames (B, 2 hop) of a spectrum (B, 1, 2, F) times complex gains (B, 2, 1, F)."""
        x = self.back @ (spectrum * gains).reshape(-1, 4 * self.q, self.s)
        y = self.together @ (x.reshape(-1, self.q, 4 * self.s) * self.turn).mT
        return y.reshape(-1, y.shape[1] * self.q)[:, self.skip :] * self.fall


def circle(rows: int, columns: int, period: int) -> tuple[Tensor, Tensor]:
    """Return real and imaginary part of exp(-2 pi i row column / period), float64 (rows, columns) each."""
    # Phases as integers modulo the period are as exact for the last product as for the first.
    turns = torch.outer(torch.arange(rows), torch.arange(columns)) % period
    angle = turns.double() * (2 * math.pi / period)
    return angle.cos(), -angle.sin()


def divisors(n: int) -> list[int]:
    """Return what divides n."""
    return [d for d in range(1, n + 1) if n % d == 0]

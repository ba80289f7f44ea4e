"""LMU: a sliding window of the input as Legendre polynomials, in its linear form (Chilkuri and Eliasmith 2021).

The memory m (Voelker, Kajić and Eliasmith 2019) is the linear system that best delays its input u by any θ' <= θ:

    θ m' = A m + B u        a_ij = (2i + 1) (-1 if i < j else (-1)^(i-j+1))        b_i = (2i + 1) (-1)^i
    u(t - θ') ≈ sum_i P_i(θ' / θ) m_i(t)        with P_i the Legendre polynomials shifted to [0, 1]

Around it stands a network without recurrence of its own (arXiv 2102.11417, whose f_1 is the identity here and f_2 a
ReLU), so that all of time is trained at once. A and B are not trained.

Glossary: B batch, L length, H channels, G windows (inputs of the memory), N coefficients a window, Q chunk, K chunks.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.mixers.base import Mixer, State

WINDOW = 64.0  # steps that a window holds if nothing is said
CHUNK = 32  # steps: a chunk costs Q² N products a window, and N² Q to lead its first state to its end


class LMU(Mixer):
    """u = U x + b, m the memory of u, y = relu(W_m m + W_x x + b_o).

    Args:
        d_model: H.
        d_state: N, coefficients a window. It resolves frequencies up to about N / (4 θ).
        d_input: G, windows. 8 of 32 coefficients are as large a memory as the 256 of Voelker et al.'s psMNIST.
        theta: θ, the windows' length: in seconds where native_rate is given, else in steps. None: 64 steps.
        native_rate: steps a second of the input when no rate is given; None: it has no rate.
    """

    when = "a window of a known length, all of it remembered alike; what lies before is forgotten; trains in parallel"
    held: Tensor

    def __init__(
        self,
        d_model: int,
        d_state: int = 32,
        d_input: int = 8,
        theta: float | None = None,
        native_rate: int | None = None,
    ):
        super().__init__()
        check_sizes(d_state, d_input, theta)
        self.d_state, self.d_input = d_state, d_input
        self.native_rate = native_rate
        self.any_rate = native_rate is not None
        self.theta = WINDOW if theta is None else theta * (native_rate or 1)  # in steps of the native clock
        self.register_buffer("held", keep(*hold(d_state, self.theta)), persistent=False)
        self.encode = nn.Linear(d_model, d_input)
        self.read = nn.Linear(d_input * d_state, d_model)
        self.skip = nn.Linear(d_model, d_model, bias=False)

    def initial_state(self, batch: int) -> State:
        """Return {"m": (batch, G, N)} of zeros."""
        return {"m": self.read.weight.new_zeros(batch, self.d_input, self.d_state)}

    def discrete(self, rate: int | None = None) -> tuple[Tensor, Tensor]:
        """Return Ā (N, N) and B̄ (N,) in float64 for a step at `rate` Hz."""
        step = self.step_at(rate)
        return kept(self.held) if step == 1 else hold(self.d_state, self.theta / step, self.held.device)

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to y (B, L, H)."""
        state = state or self.initial_state(u.shape[0])
        decay, gain = self.discrete(rate)
        if u.shape[1] == 0:
            return u, state
        m = remember(self.encode(u), decay, gain, state["m"])
        return F.relu(self.read(m.flatten(2)) + self.skip(u)), {"m": m[:, -1]}


def check_sizes(d_state: int, d_input: int, theta: float | None) -> None:
    """Raise ValueError for a memory that cannot be."""
    if d_state < 1 or d_input < 1:
        raise ValueError(f"a memory has at least one coefficient and one window, not {d_state} and {d_input}")
    if theta is not None and not theta > 0:
        raise ValueError(f"theta is the length of a window, above 0, not {theta:g}")


def delay_network(n: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return θA (N, N) and θB (N,) in float64 (Voelker et al. 2019)."""
    i = torch.arange(n, dtype=torch.float64, device=device)
    row, column = i.unsqueeze(1), i
    alternating = 1 - 2 * ((row - column) % 2)  # (-1)^(i-j)
    a = (2 * row + 1) * torch.where(row < column, -1.0, -alternating)
    return a, (2 * i + 1) * (1 - 2 * (i % 2))


def hold(n: int, theta: float, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return Ā (N, N) and B̄ (N,) in float64 for a window of θ steps, exact for an input that is held over a step.

    Both are parts of one exponential (Van Loan 1978): exp([[A, B], [0, 0]]) = [[Ā, B̄], [0, 1]].
    """
    a, b = delay_network(n, device)
    both = F.pad(torch.cat((a, b.unsqueeze(1)), dim=1) / theta, (0, 0, 0, 1))
    both = exponential(both, size=n * n / theta)  # every column sums up to n² / θ
    return both[:n, :n], both[:n, n]


def exponential(a: Tensor, size: float) -> Tensor:
    """Return e^a of a float64 matrix of a known 1-norm, as (e^(a / 2^s))^(2^s) with Taylor's series inside.

    torch's own has to look at the norm first, which a CUDA graph cannot.
    """
    squarings = max(0, math.ceil(math.log2(2 * size)))  # to a norm of 1/2, of which 15 terms are float64's precision
    one = torch.eye(len(a), dtype=a.dtype, device=a.device)
    part, power = a / 2**squarings, one
    for k in range(15, 0, -1):
        power = one + part @ power / k
    for _ in range(squarings):
        power = power @ power
    return power


def keep(decay: Tensor, gain: Tensor) -> Tensor:
    """Pack Ā and B̄ as the bits of float64 numbers (N, N + 1), which a change of a module's precision leaves alone."""
    return torch.cat((decay, gain.unsqueeze(1)), dim=1).view(torch.int64)


def kept(held: Tensor) -> tuple[Tensor, Tensor]:
    """Unpack what `keep` packed."""
    both = held.view(torch.float64)
    return both[:, :-1], both[:, -1]


def remember(u: Tensor, decay: Tensor, gain: Tensor, first: Tensor) -> Tensor:
    """Return the memories m_1 ... m_L of m_t = Ā m_{t-1} + B̄ u_t, in block form.

    Args:
        u: (B, L, G) inputs, L at least 1.
        decay, gain: Ā (N, N) and B̄ (N,), float64.
        first: (B, G, N) m_0.

    Returns:
        (B, L, G, N).
    """
    batch, length, windows = u.shape
    q = min(CHUNK, length)
    chunks = -(-length // q)
    power = powers(decay, q)  # (Q + 1, N, N)
    lag = torch.arange(q, device=u.device) - torch.arange(q, device=u.device).unsqueeze(1)
    reach = torch.where((lag >= 0).unsqueeze(-1), (power @ gain)[lag.clamp(min=0)], 0)  # (Q, Q, N): input to memories
    v = F.pad(u, (0, 0, 0, chunks * q - length)).reshape(batch, chunks, q, windows).transpose(2, 3)
    added = (v @ reach.flatten(1).to(u)).unflatten(3, (q, -1))  # (B, K, G, Q, N)
    starts = lead(power[q], torch.cat((first.unsqueeze(1), added[:, :-1, :, -1]), dim=1))  # (B, K, G, N)
    # Ā^k - 1 in place of Ā^k: over a long window Ā is near 1, where rounding it would shift its small decay.
    change = (power[1:] - power[0]).permute(2, 0, 1).flatten(1).to(u)  # (N, Q N)
    m = added + (starts @ change).unflatten(3, (q, -1)) + starts.unsqueeze(3)
    return m.transpose(2, 3).flatten(1, 2)[:, :length]


def powers(a: Tensor, count: int) -> Tensor:
    """Return a^0 ... a^count of a matrix, (count + 1, N, N), by doubling."""
    power, ahead = torch.eye(len(a), dtype=a.dtype, device=a.device).unsqueeze(0), a
    while len(power) <= count:
        power, ahead = torch.cat((power, power @ ahead)), ahead @ ahead
    return power[: count + 1]


def lead(decay: Tensor, x: Tensor) -> Tensor:
    """Sum up x_k := decay x_{k-1} + x_k over axis 1 of x (B, K, G, N) by doubling: log2 K passes."""
    reach = 1
    while reach < x.shape[1]:
        x = torch.cat((x[:, :reach], x[:, reach:] + x[:, :-reach] @ decay.mT.to(x)), dim=1)
        decay, reach = decay @ decay, 2 * reach
    return x

"""The Legendre memory unit as it was first described: a non-linear cell around the memory (Voelker et al. 2019)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.kernels.dispatch import exporting
from audiossm.mixers.base import Mixer, State
from audiossm.mixers.lmu import WINDOW, check_sizes, hold, keep, kept

FEW = 4  # steps that a graph may be unrolled to


class LMUCell(Mixer):
    """A recurrent network whose hidden state h writes to the memory m and reads from it.

        u_t = e_x x_t + e_h h_{t-1} + e_m m_{t-1}           (Voelker, Kajić and Eliasmith 2019)
        m_t = Ā m_{t-1} + B̄ u_t                             (by zero-order hold)
        h_t = tanh(W_x x_t + W_h h_{t-1} + W_m m_t)

    and y = h. Each step needs the one before: training is sequential, and a file holds at most 4 steps a frame. All but
    the tanh is linear, so that a step is one product of (G N + H)² (`turn`) and three small operators.

    Args:
        d_model: H, channels and hidden units.
        d_state: N, coefficients a window.
        d_input: G, windows; the paper's cell has one, of 256 coefficients. All write to all.
        theta: the windows' length in steps.
    """

    when = "the original LMU, to compare with: a window as lmu's, but trained one step after another"
    held: Tensor

    def __init__(self, d_model: int, d_state: int = 32, d_input: int = 8, theta: float = WINDOW):
        super().__init__()
        check_sizes(d_state, d_input, theta)
        self.d_state, self.d_input = d_state, d_input
        self.register_buffer("held", keep(*hold(d_state, theta)), persistent=False)
        memory = d_input * d_state
        self.from_input = nn.Linear(d_model, d_input + d_model)  # e_x and W_x
        self.from_hidden = nn.Linear(d_model, d_input + d_model, bias=False)  # e_h and W_h
        self.write = nn.Linear(memory, d_input, bias=False)  # e_m
        self.read = nn.Linear(memory, d_model, bias=False)  # W_m
        for matrix in (self.from_input.weight[d_input:], self.from_hidden.weight[d_input:], self.read.weight):
            nn.init.xavier_normal_(matrix)  # as the paper begins
        nn.init.zeros_(self.write.weight)

    def initial_state(self, batch: int) -> State:
        """Return {"h": (batch, H), "m": (batch, G, N)} of zeros."""
        zeros = self.read.weight.new_zeros
        return {"h": zeros(batch, self.read.out_features), "m": zeros(batch, self.d_input, self.d_state)}

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to y (B, L, H)."""
        self.refuse_rate(rate)
        state = state or self.initial_state(u.shape[0])
        if u.shape[1] == 0:
            return u, state
        if exporting() and u.shape[1] > FEW:
            raise ValueError(f"an LMUCell runs step by step: a file holds at most {FEW} a frame, not {u.shape[1]}")
        turn, inputs = self.turn(), self.inputs(u)
        m, h, out = state["m"].flatten(1), state["h"], []
        for heard in inputs.unbind(1):
            change, before = torch.addmm(heard, torch.cat((m, h), dim=1), turn).split((m.shape[1], h.shape[1]), dim=1)
            m, h = m + change, torch.tanh(before)
            out.append(h)
        return torch.stack(out, dim=1), {"h": h, "m": m.unflatten(1, (self.d_input, self.d_state))}

    def turn(self) -> Tensor:
        """Return what a step does to m and h side by side but for the tanh, (G N + H, G N + H), in one product.

        The columns give the change of m, not m itself: over a long window Ā is near 1, where rounding it would shift
        its small decay.
        """
        decay, _ = kept(self.held)
        one = torch.eye(len(decay), dtype=decay.dtype, device=decay.device)
        of_hidden, h_from_h = self.from_hidden.weight.split((self.d_input, self.read.out_features))
        change = self.written(torch.cat((self.write.weight, of_hidden), dim=1).mT)
        change = change + F.pad(
            torch.block_diag(*[(decay - one).mT] * self.d_input).to(change), (0, 0, 0, len(h_from_h))
        )
        hidden = torch.cat((self.read.weight, h_from_h), dim=1).mT + change @ self.read.weight.mT
        return torch.cat((change, hidden), dim=1)

    def inputs(self, u: Tensor) -> Tensor:
        """Return what each step of u (B, L, H) adds to that, (B, L, G N + H)."""
        heard, hidden = self.from_input(u).split((self.d_input, self.read.out_features), dim=2)
        change = self.written(heard)
        return torch.cat((change, hidden + change @ self.read.weight.mT), dim=2)

    def written(self, u: Tensor) -> Tensor:
        """Return the memories B̄ u (..., G N) for inputs u (..., G) of the windows."""
        _, gain = kept(self.held)
        return (u.unsqueeze(-1) * gain.to(u)).flatten(-2)

"""State space dual, the selective state space model of Mamba-2 (Dao and Gu 2024): one scalar decay a head and step.

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_tᵀ          y_t = h_t C_t + D x_t

Glossary: B batch, L length, H heads, P channels a head, G groups of heads that share B_t and C_t (H/G heads each),
N state, Q chunk length, K chunks.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from audiossm.kernels.dispatch import exporting, on_gpu

LARGEST = 256  # state size N up to which a chunk fits into a GPU's shared memory
CHUNK = 64  # on a CPU: a chunk costs Q² decays a head
FEW = 4  # up to this length a graph gets one chunk without a scaffold


def ssd_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute `ssd` as its definition says, one step after another (Dao and Gu 2024, eq. 2 with A_t scalar)."""
    dt, state = step_size(dt, dt_bias, dt_softplus), first_state(x, B, initial_state)
    B, C = (v.to(state.dtype).repeat_interleave(x.shape[2] // v.shape[2], dim=2) for v in (B, C))  # (B, L, H, N)
    out = []
    for t in range(x.shape[1]):
        u = dt[:, t, :, None] * x[:, t]  # (B, H, P)
        state = (dt[:, t] * A).exp()[..., None, None] * state + u[..., None] * B[:, t, :, None]
        out.append((state @ C[:, t, :, :, None]).squeeze(-1))
    y = torch.stack(out, dim=1) if out else torch.zeros_like(x)
    return skip_and_gate(y, x, D, z), state


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a state space dual over a sequence from a state, in chunks (Dao and Gu 2024, section 6).

    Inside a chunk the outputs are a masked matrix of products C_i · B_j, decayed from j to i, times the inputs; between
    chunks the state is handed on. Sums and decays are float32 (float64 of float64 input), whatever x is.

    Args:
        x: (B, L, H, P) inputs; float32, bfloat16, float16 or float64.
        dt: (B, L, H) steps; with the bias and softplus applied they should be positive.
        A: (H,) negative rates.
        B: (B, L, G, N) how inputs enter the state; H is a multiple of G.
        C: (B, L, G, N) how outputs read it.
        D: (H,) skip.
        z: (B, L, H, P) gate: y is multiplied by silu(z).
        dt_bias: (H,) added to dt.
        dt_softplus: apply softplus to dt, after the bias.
        initial_state: (B, H, P, N), zeros if None.

    Returns:
        y (B, L, H, P) as x is, and the state h_L (B, H, P, N), float32 or float64.

    Raises:
        ValueError: shapes do not fit.
    """
    heads, groups = x.shape[2], B.shape[2]
    if B.shape != C.shape or dt.shape != x.shape[:3] or B.shape[:2] != x.shape[:2] or heads % max(groups, 1):
        raise ValueError(
            f"ssd: x {tuple(x.shape)}, dt {tuple(dt.shape)}, B {tuple(B.shape)} and C {tuple(C.shape)} do not fit: "
            "they are (B, L, H, P), (B, L, H) and twice (B, L, G, N), H a multiple of G"
        )
    dt, state = step_size(dt, dt_bias, dt_softplus), first_state(x, B, initial_state)
    if on_gpu(x, B) and B.shape[-1] <= LARGEST and not exporting():
        from audiossm.kernels.gpu.ssd import ssd as on_the_gpu

        y, state = on_the_gpu(x, dt, A.float(), B.to(x.dtype), C.to(x.dtype), None if D is None else D.float(), state)
        return (y if z is None else y * F.silu(z)), state
    form = few_steps if exporting() and 0 < x.shape[1] <= FEW else chunked
    y, state = form(x.to(state.dtype), dt, A, B.to(state.dtype), C.to(state.dtype), state)
    return skip_and_gate(y, x, D, z), state


def step_size(dt: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    """Return the steps that are used, at least float32."""
    dt = dt.to(torch.promote_types(dt.dtype, torch.float32))
    dt = dt if bias is None else dt + bias
    return F.softplus(dt) if softplus else dt


def first_state(x: Tensor, B: Tensor, state: Tensor | None) -> Tensor:
    """Return the state to begin with, at least float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if state is None:
        return x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1], dtype=dtype)
    return state.to(dtype)


def skip_and_gate(y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Return (y + D x) silu(z), as x is."""
    y = y if D is None else y + D[:, None] * x
    y = y if z is None else y * F.silu(z)
    return y.to(x.dtype)


def chunked(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return h_t C_t for all t and h_L; matrix products but for a short loop over chunks."""
    batch, length, heads, width = x.shape
    groups, n = B.shape[2:]
    q = max(1, min(CHUNK, length))
    chunks = -(-length // q)

    def cut(v: Tensor) -> Tensor:  # (B, L, G R, ...) to (B, K, G, R, Q, ...): empty steps, dt 0, fill the last chunk
        v = F.pad(v, (0, 0) * (v.ndim - 2) + (0, chunks * q - length))
        return v.reshape(batch, chunks, q, groups, v.shape[2] // groups, *v.shape[3:]).movedim(2, 4)

    u = cut(x * dt.unsqueeze(-1))  # (B, K, G, R, Q, P)
    B, C = cut(B).squeeze(3), cut(C).squeeze(3)  # (B, K, G, Q, N)
    log_decay = cut(dt * A).cumsum(-1)  # (B, K, G, R, Q), from the chunk's start
    later = torch.ones(q, q, dtype=torch.bool, device=x.device).triu(1)
    between = (log_decay.unsqueeze(-1) - log_decay.unsqueeze(-2)).masked_fill(later, -torch.inf).exp()
    within = ((C @ B.mT).unsqueeze(3) * between) @ u
    total = log_decay[..., -1:]
    added = (u * (total - log_decay).exp().unsqueeze(-1)).mT @ B.unsqueeze(3)  # (B, K, G, R, P, N)
    state, starts = state.reshape(batch, groups, heads // groups, width, n), []
    for decay, more in zip(total.exp().unsqueeze(-1).unbind(1), added.unbind(1), strict=True):
        starts.append(state)
        state = decay * state + more
    start = torch.stack(starts, dim=1) if starts else added
    y = within + (C.unsqueeze(3) @ start.mT) * log_decay.exp().unsqueeze(-1)
    y = y.movedim(4, 2).reshape(batch, chunks * q, heads, width)[:, :length]
    return y, state.reshape(batch, heads, width, n)


def few_steps(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Write `chunked` for a graph: one chunk, over states whose heads lie last, as in a file.

    The state is read by one product of matrices with L rows, written by another, and decays once.
    """
    length, heads, width = x.shape[1:]
    groups = B.shape[2]

    def rows(v: Tensor) -> Tensor:  # (B, X, P, H) to (B, G, X, P R)
        if groups == 1:
            return v.flatten(2).unsqueeze(1)  # as it lies: a runtime would copy the state to move an axis of one
        return v.unflatten(3, (groups, -1)).movedim(3, 1).flatten(3)

    def back(v: Tensor) -> Tensor:
        if groups == 1:
            return v.squeeze(1).unflatten(2, (width, heads))
        return v.unflatten(3, (width, -1)).movedim(1, 3).flatten(3)

    def each(v: Tensor) -> Tensor:  # (..., R) to (..., P R)
        return v.repeat(*(1,) * (v.ndim - 1), width)

    h = rows(state.permute(0, 3, 2, 1))  # (B, G, N, P R)
    u = rows((x * dt.unsqueeze(-1)).mT)  # (B, G, L, P R)
    B, C = B.movedim(2, 1), C.movedim(2, 1)  # (B, G, L, N)
    sums = torch.ones(length, length, dtype=dt.dtype).tril()
    log_decay = (sums @ (dt * A)).unflatten(2, (groups, -1)).movedim(2, 1)  # (B, G, L, R), from the frame's start
    last = log_decay[:, :, -1:]
    later = torch.ones(length, length, dtype=torch.bool).triu(1).unsqueeze(-1)
    between = (log_decay.unsqueeze(3) - log_decay.unsqueeze(2)).masked_fill(later, -torch.inf).exp()
    within = ((C @ B.mT).unsqueeze(-1) * each(between) * u.unsqueeze(2)).sum(3)
    y = within + (C @ h) * each(log_decay.exp())
    h = each(last.exp()) * h + B.mT @ (u * each((last - log_decay).exp()))
    return back(y).mT, back(h).permute(0, 3, 2, 1)

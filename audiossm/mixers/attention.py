"""Causal attention with a bounded window and rotary positions, so that it streams in constant memory.

    y_t = W_o concat_h sum_{s = t-W+1 .. t} softmax_s(q_t^T R(s - t) k_s / sqrt(D)) v_s

Scaled dot products are equation 1 of Vaswani et al. 2017 (arXiv 1706.03762), the rotation R of queries against keys is
equation 16 of Su et al. 2021 (RoPE, arXiv 2104.09864), keys and values shared by several heads are the grouped heads
of Ainslie et al. 2023 (arXiv 2305.13245), and the window is that of Longformer (Beltagy et al. 2020, arXiv 2004.05150).

Glossary: B batch, L length, H channels, W window, G groups, R heads a group, D channels a head; Q queries of a block
and the K = Q + W - 1 keys that they see.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.mixers.base import Mixer, State


class Attention(Mixer):
    """Each step attends to itself and the W - 1 steps before.

    A step costs 2 W H products for scores and means, and 4 H² for its projections; training takes memory O(L W). Only
    lags matter: the state holds keys as they are before rotation, in order of time, and a block counts positions from
    the oldest key that it sees, never from the beginning.

    Args:
        d_model: H.
        heads: of queries, each with an even number H / heads of channels. None: 4, or 2 or 1 where 4 do not fit.
        groups: heads of keys and values, each shared by heads / groups heads of queries; None: as many as heads.
        window: W, steps that a step sees, itself among them.
        base: the slowest pair of channels turns by about 1 / base a step.

    Raises:
        ValueError: heads do not divide H, groups do not divide heads, a head of odd size, or a window below 1.
    """

    when = "finds single steps again within a bounded window; best beside SSMs, which remember the rest"

    def __init__(
        self,
        d_model: int,
        heads: int | None = None,
        groups: int | None = None,
        window: int = 64,
        base: float = 10000.0,
    ):
        super().__init__()
        heads = math.gcd(d_model // 2, 4) if heads is None else heads
        groups = heads if groups is None else groups
        if window < 1:
            raise ValueError(f"window must be at least 1, the step itself, not {window}")
        if heads < 1 or d_model % heads:
            raise ValueError(f"{heads} heads do not divide d_model {d_model}: change one of them")
        if groups < 1 or heads % groups:
            raise ValueError(f"{groups} groups do not divide {heads} heads: change one of them")
        if d_model // heads % 2:
            raise ValueError(f"rotary positions turn pairs: d_model / heads must be even, not {d_model} / {heads}")
        self.groups, self.size, self.window, self.base = groups, d_model // heads, window, base
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key_value = nn.Linear(d_model, 2 * groups * self.size, bias=False)
        self.out = nn.Linear(d_model, d_model)

    def initial_state(self, batch: int) -> State:
        """Return the W - 1 steps before, none yet: "keys" and "values" (batch, W - 1, G, D), "seen" (batch, W - 1).

        seen is 1 for a step that was heard and 0 for one that was not.
        """
        past = self.query.weight.new_zeros(batch, self.window - 1, self.groups, self.size)
        return {"keys": past, "values": past.clone(), "seen": past.new_zeros(past.shape[:2])}

    def forward(self, u: Tensor, state: State | None = None, rate: int | None = None) -> tuple[Tensor, State]:
        """Map u (B, L, H) to y (B, L, H)."""
        self.refuse_rate(rate)
        state = state or self.initial_state(u.shape[0])
        queries = self.query(u).unflatten(-1, (self.groups, -1, self.size))  # (B, L, G, R, D)
        keys, values = self.key_value(u).unflatten(-1, (2, self.groups, self.size)).unbind(2)  # (B, L, G, D)
        heard = {  # each of W - 1 + L steps
            "keys": torch.cat((state["keys"], keys), dim=1),
            "values": torch.cat((state["values"], values), dim=1),
            "seen": F.pad(state["seen"], (0, u.shape[1]), value=1.0),
        }
        y = self.look(queries, **heard) if u.shape[1] else u
        return self.out(y), {name: steps[:, u.shape[1] :].to(state[name]) for name, steps in heard.items()}

    def look(self, queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        """Return the means of values that queries (B, L, G, R, D) find, (B, L, H).

        Time is cut into blocks of up to W queries: scores are L x 2W, not L x L.
        """
        length, past = queries.shape[1], self.window - 1
        size = min(length, self.window)  # Q
        count = -(-length // size)  # of blocks
        q = blocks(queries, count, size, 0).permute(0, 2, 3, 1, 4)  # (B', G, R, Q, D) with B' = B · count
        k, v = (blocks(x, count, size, past).transpose(1, 2) for x in (keys, values))  # (B', G, K, D)
        place = torch.arange(size + past, device=q.device)  # of keys; that of the first query is `past`
        q, k = rotate(q, place[past:], self.base), rotate(k, place, self.base)
        lag = place[past:, None] - place  # (Q, K)
        near = torch.zeros_like(lag, dtype=q.dtype).masked_fill((lag < 0) | (lag > past), -math.inf)
        bias = near + blocks(seen, count, size, past).log().unsqueeze(1)  # (B', Q, K): 0 where visible, else -inf
        shared = q.shape[2]  # R: the heads of a group are so many more queries to the same keys
        y = F.scaled_dot_product_attention(q.flatten(2, 3), k, v, bias.repeat(1, shared, 1).unsqueeze(1))
        y = y.unflatten(2, (shared, size)).permute(0, 3, 1, 2, 4).flatten(2)  # (B', Q, H)
        return y.unflatten(0, (-1, count)).flatten(1, 2)[:, :length]


def blocks(x: Tensor, count: int, size: int, past: int) -> Tensor:
    """Cut x (B, past + L, ...) into blocks of `size` steps with the `past` before, (B · count, past + size, ...).

    What the last block has beyond L is zero.
    """
    short = past + count * size - x.shape[1]
    if short:
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, short))
    return x if count == 1 else x.unfold(1, past + size, size).movedim(-1, 2).flatten(0, 1)


def rotate(x: Tensor, place: Tensor, base: float) -> Tensor:
    """Turn channels i and i + D/2 of x (..., L, D) together by place · base^(-2i / D), for places (L,)."""
    half = x.shape[-1] // 2
    speed = base ** -(torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = place.unsqueeze(-1) * speed
    cos, sin = angle.cos().repeat(1, 2), torch.cat((-angle.sin(), angle.sin()), dim=-1)
    return x * cos.to(x.dtype) + x.roll(half, -1) * sin.to(x.dtype)

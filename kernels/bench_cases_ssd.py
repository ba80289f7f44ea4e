"""Cases of `ssd`: Mamba-2's shapes."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from audiossm.kernels.bench import Case
from audiossm.kernels.ssd import chunked, skip_and_gate, ssd


def cases() -> list[Case]:
    """Return the cases, d_inner 1024 and d_state 128 at audio lengths."""
    return [
        case(8, 16384, 16, 64, 1, 128, torch.bfloat16),
        case(8, 16384, 16, 64, 1, 128, torch.float32),
        case(8, 16384, 16, 64, 16, 128, torch.bfloat16),
        case(1, 16384, 16, 64, 1, 128, torch.bfloat16),
        case(1, 1_000_000, 4, 64, 1, 64, torch.bfloat16),
    ]


def case(batch: int, length: int, heads: int, width: int, groups: int, n: int, dtype: torch.dtype) -> Case:
    """Return one case; dt as it is trained, with bias and softplus."""
    x, vector, steps = batch * length * heads * width, batch * length * groups * n, 4 * batch * length * heads
    forward = (2 * x + 2 * vector) * dtype.itemsize + steps
    return Case(
        op="ssd",
        shape=f"B{batch} L{length} heads {heads}x{width} groups {groups} N{n}",
        dtype=str(dtype).removeprefix("torch."),
        inputs=lambda device: inputs(batch, length, heads, width, groups, n, dtype, device),
        function=lambda x, dt, A, B, C, D, bias: ssd(x, dt, A, B, C, D, dt_bias=bias, dt_softplus=True)[0],
        bytes_forward=forward,
        bytes_both=forward + (3 * x + 4 * vector) * dtype.itemsize + 2 * steps,
        flops_forward=2 * x * (2 * n + 128),
        flops_both=2 * x * (2 * n + 128) * 3.5,
        forms={"chunked": in_torch},
        peers={"mamba_ssm": mamba_ssm, "fla": fla},
    )


def inputs(
    batch: int, length: int, heads: int, width: int, groups: int, n: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Return x, dt, A, B, C, D and the bias of dt, as Mamba-2 begins with."""

    def sequence(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(batch, length, *shape, device=device, dtype=dtype).requires_grad_()

    A = -torch.linspace(1, 16, heads, device=device)
    bias = torch.logspace(-3, -1, heads, device=device).expm1().log()
    parameters = [v.requires_grad_() for v in (A, torch.ones(heads, device=device), bias)]
    x, dt, B, C = sequence(heads, width), sequence(heads, dtype=torch.float32), sequence(groups, n), sequence(groups, n)
    return x, dt, parameters[0], B, C, *parameters[1:]


def in_torch(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """Compute it by torch's matrix products, float32."""
    state = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1], dtype=torch.float32)
    y, _ = chunked(x.float(), F.softplus(dt + bias), A, B.float(), C.float(), state)
    return skip_and_gate(y, x, D, None)


def mamba_ssm() -> Callable[..., Tensor]:
    """Import mamba-ssm's Triton form."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined as combined

    def peer(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
        chunk = 128 if x.dtype == torch.bfloat16 else 256  # the faster one of each
        return combined(x, dt, A, B, C, chunk, D=D, dt_bias=bias, dt_softplus=True)

    return peer


def fla() -> Callable[..., Tensor]:
    """Import flash-linear-attention's form, which has B and C for each head."""
    from fla.ops.simple_gla import chunk_simple_gla

    def peer(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
        dt = F.softplus(dt + bias)
        B, C = (v.repeat_interleave(x.shape[2] // v.shape[2], dim=2) for v in (B, C))
        y, _ = chunk_simple_gla(C, B, (x * dt.unsqueeze(-1)).to(x.dtype), dt * A, scale=1.0)
        return y + D.to(x.dtype)[:, None] * x

    return peer

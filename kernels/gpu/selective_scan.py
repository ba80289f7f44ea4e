"""`selective_scan` on a GPU: chunks of Q steps in two passes, each walked in tiles of S steps that live in registers.

The decays differ for every channel, state and step, so there is no matrix product in it: B D L N exponentials and a few
products for each are the work, and no step may cost more. A program is one warp. Its tile is (S, N, W, R): S steps, a
quarter of the states and R channels in each thread's registers, W channels and four parts of the states across the
threads. A walk along S is then a chain of multiply-adds in each thread. Sums over states or channels are over threads,
too, which share the steps out: `over_threads`.

Forward: `chunk_ends` sums each chunk up from a zero state. `carry` scans over the chunks, whose decay is exp(A Σδ), for
the states in which they begin. `outputs` walks each chunk again from there and writes y. Only states between chunks
reach memory (Gu and Dao 2023, section 3.3.2: recomputation), and the backward reads them.

Backward: with c_t = C_t dy_t the adjoint of h_t is l_t = c_t + m_{t+1}, where m_t = exp(δ_t A) l_t is what decay leaves
of it for the step before. `walk` goes through each chunk forward once more, keeps the state in which each tile begins,
and adds up what the chunk adds to m at its beginning, sum_t exp(A Σδ) c_t; `carry` scans that from the last chunk on.
`gradients` walks a chunk's tiles from the last to the first, h forward and l backward in each:

    dC_t = sum_D dy_t h_t          du_t = δ_t sum_N l_t B_t + D dy_t
    dB_t = sum_D l_t δ_t u_t       dδ_t = u_t sum_N l_t B_t + sum_N m_t h_{t-1} A
                                   dA   = sum_t m_t h_{t-1} δ_t

Adjoints live for one step: what they add to each sum is taken there and then, as whole tiles of them do not fit into a
thread's registers beside those of decays and states.

There are no atomics: a program writes its own sums over channels or time, which are added up after it in fixed order.

Chunks are short for the sake of slow modes, too. exp(δ A) just below 1 is rounded to 6e-8, always the same way where δ
is constant; over a chunk that adds up, between chunks it does not.

Layout. Triton spreads a tile over threads as its last large load in program order lies in memory (of several layouts
the compiler takes that one). That load is A's in each loop here: N next to one another, 4 to a thread, then channels.
Where it is loaded earlier everything stays right and takes three times as long. B and C are copied to lie so, too, and
a step of theirs is loaded where it is used: tiles of them would take as many registers as the decays. What is alike for
all states, as δ and u, lies along time, and `step` must not be asked for a step of it, which another thread may have,
but for one of a product with what is as large as a tile. The softplus would be computed again by each thread that needs
it; `once` forbids that.

Latency. Few warps fit on a multiprocessor, and each tile would begin with a wait for memory. `outputs` and `walk` load
the next tile before they work on one; `gradients`, which has no register to spare, lets the L2 cache fetch it.

The kernels are in selective_scan_forward.py and selective_scan_gradients.py, what they do with a tile is in
selective_scan_tiles.py.

Glossary: B batch, D channels, G groups, L steps, N states; a tile has S steps, M ≥ N states and W R channels; K chunks
of Q steps.
"""

import torch
import triton
from torch import Tensor
from torch.nn.functional import pad

from audiossm.kernels.dispatch import on_device
from audiossm.kernels.gpu.layout import along_time, turned
from audiossm.kernels.gpu.selective_scan_forward import carry, chunk_ends, outputs
from audiossm.kernels.gpu.selective_scan_gradients import gradients, walk

# S, R and W are for N 16: `tile` fits them to other N. `walk` has the S of `gradients`, which writes sums over BLOCKS
# tiles' channels. `maxnreg` bounds a thread's registers, so that more programs fit on a multiprocessor.
CONFIGS: dict[str, dict[str, int]] = {
    "chunks": {"Q": 64},
    "ends": {"S": 8, "R": 1, "W": 16, "maxnreg": 96},
    "carry": {"S": 8, "R": 1, "W": 4, "maxnreg": 168},
    "outputs": {"S": 8, "R": 1, "W": 16, "maxnreg": 128},
    "walk": {"R": 1, "W": 16, "maxnreg": 168},
    "gradients": {"S": 8, "R": 1, "W": 16, "maxnreg": 255, "BLOCKS": 2},
}
ENOUGH = 4096  # programs that fill a GPU
MOST = 1024  # chunks: `carry` walks them one after another


def candidates() -> dict[str, list[dict[str, int]]]:
    """Return what the constants of each kernel could be."""

    def tiles(*choices: tuple[int, int, int, int]) -> list[dict[str, int]]:
        return [dict(zip(("S", "R", "W", "maxnreg"), choice, strict=True)) for choice in choices]

    return {
        "chunks": [{"Q": q} for q in (64, 128, 256)],
        "ends": tiles((8, 1, 16, 64), (8, 1, 16, 80), (8, 1, 16, 96), (8, 1, 8, 64), (16, 1, 8, 96)),
        "carry": [{"S": s, "W": w} for s in (8, 16) for w in (2, 4, 8)],
        "outputs": tiles(
            (8, 1, 16, 80), (8, 1, 16, 96), (8, 1, 16, 128), (8, 1, 8, 64), (8, 1, 8, 80), (16, 1, 8, 128)
        ),
        "walk": [{"W": w, "maxnreg": r} for w, r in ((16, 128), (16, 144), (16, 168), (8, 80), (8, 96))],
        "gradients": [
            *tiles((8, 1, 16, 255), (8, 2, 8, 255), (8, 1, 8, 168), (8, 1, 8, 192), (16, 1, 8, 255), (4, 4, 8, 255)),
            *({"BLOCKS": blocks} for blocks in (1, 2, 4, 8)),
        ],
    }


def tile(kernel: str, states: int) -> dict[str, int]:
    """Return the constants of a kernel for N states: as many numbers in all as for 16."""
    config, M = {"S": CONFIGS["gradients"]["S"]} | CONFIGS[kernel], triton.next_power_of_2(states)
    room = max(1, 16 * config["W"] * config["R"] // M)
    W = min(room, max(config["W"], 32 // M))
    return {"S": config["S"], "M": M, "W": W, "R": room // W, "num_warps": 1, "maxnreg": config["maxnreg"]}


class Plan:
    """How a scan is cut: its sizes as the kernels read them, and programs."""

    def __init__(self, u: Tensor, B: Tensor, states: int) -> None:
        self.batch, self.D, self.length = u.shape
        self.groups, self.states = B.shape[1], states
        self.channels = self.D // self.groups
        most = max(CONFIGS[kernel]["S"] for kernel in ("ends", "outputs", "gradients"))
        self.steps = max(CONFIGS["chunks"]["Q"], most)
        programs = self.batch * triton.cdiv(self.D * triton.next_power_of_2(states), 256)
        while self.steps > most and programs * triton.cdiv(self.length, self.steps) < ENOUGH:
            self.steps //= 2
        while triton.cdiv(self.length, self.steps) > MOST:
            self.steps *= 2
        self.chunks = triton.cdiv(self.length, self.steps)

    def parts(self, constants: dict[str, int]) -> int:
        """Return how many programs a group's channels are given to."""
        return triton.cdiv(self.channels, constants["W"] * constants["R"] * constants.get("BLOCKS", 1))

    def grid(self, constants: dict[str, int]) -> tuple[int, int, int]:
        """Return the programs of a kernel that walks chunks."""
        return self.groups * self.parts(constants), self.chunks, self.batch

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes in the kernels' order."""
        return self.length, self.channels, self.groups, self.states, self.steps

    def carried(self, ends: Tensor, sums: Tensor, A: Tensor, first: Tensor, turned: bool) -> tuple[Tensor, Tensor]:
        """Return the states before all chunks, and after all."""
        constants, starts, last = tile("carry", self.states), torch.empty_like(ends), torch.empty_like(first)
        carry[(self.groups * self.parts(constants), self.batch)](
            ends, sums, A, first, starts, last, self.chunks, self.channels, self.groups, self.states,
            TURNED=turned, **constants,
        )  # fmt: skip
        return starts, last


def two(x: Tensor | None) -> tuple[int, int]:
    """Return the distances of batch rows and channels."""
    return (0, 0) if x is None else (x.stride(0), x.stride(1))


def by_steps(x: Tensor, plan: Plan) -> Tensor:
    """Return B or C as kernels read them: (B, G, K Q, M) in float32, zero where there is no step or no state."""
    x = turned(x.flatten(0, 1).mT).float()
    room = 0, triton.next_power_of_2(plan.states) - plan.states, 0, plan.chunks * plan.steps - plan.length
    return pad(x, room) if any(room) else x


def ready(
    plan: Plan, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None,
) -> list:  # fmt: skip
    """Return the inputs as the kernels read them."""
    one = [None if x is None else x.contiguous() for x in (D, delta_bias)]
    z = None if z is None else along_time(z)
    return [along_time(u), along_time(delta), A.contiguous(), by_steps(B, plan), by_steps(C, plan), one[0], z, one[1]]


@torch.library.custom_op("audiossm::selective_scan", mutates_args=())
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool, state: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See `audiossm.kernels.selective_scan`; B and C have groups, u is not empty and the state is float32.

    Also returns what the backward reads: the states in which chunks begin (B, K, D, N), and their time (B, K, D).
    """
    plan = Plan(u, B, A.shape[1])
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    u, delta, A, B, C, D, z, delta_bias = ready(plan, u, delta, A, B, C, D, z, delta_bias)
    ends = state.new_empty(plan.batch, plan.chunks, *A.shape)
    sums = state.new_empty(ends.shape[:-1])
    with on_device(u):
        constants = tile("ends", plan.states)
        chunk_ends[plan.grid(constants)](
            u, delta, A, B, delta_bias, ends, sums, *plan.sizes, *two(u), *two(delta),
            SOFTPLUS=delta_softplus, **constants,
        )  # fmt: skip
        starts, last = plan.carried(ends, sums, A, state.contiguous(), False)
        constants = tile("outputs", plan.states)
        outputs[plan.grid(constants)](
            u, delta, A, B, C, D, z, delta_bias, starts, y, *plan.sizes,
            *two(u), *two(delta), *two(z), SOFTPLUS=delta_softplus, **constants,
        )  # fmt: skip
    return y, last, starts, sums


@torch.library.custom_op("audiossm::selective_scan_backward", mutates_args=())
def selective_scan_backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool,
    starts: Tensor, sums: Tensor, grad: Tensor, last_grad: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Return the gradients of u, δ, A, B, C, D, z, the bias and the state; empty ones of what is None."""
    plan, weights, a_type = Plan(u, B, A.shape[1]), (B, C), A.dtype
    u_grad, d_grad = (torch.empty(u.shape, dtype=x.dtype, device=u.device) for x in (u, delta))
    z_grad = u.new_empty(0) if z is None else torch.empty(u.shape, dtype=z.dtype, device=u.device)
    u, delta, A, B, C, D, z, delta_bias = ready(plan, u, delta, A, B, C, D, z, delta_bias)
    grad, constants = along_time(grad), tile("walk", plan.states)
    ends, a_grad = torch.empty_like(starts), torch.empty_like(starts)
    marks = starts.new_empty(plan.batch, triton.cdiv(plan.length, constants["S"]), *A.shape)
    one = starts.new_empty(plan.batch, plan.chunks, 2, plan.D)
    strides = (*two(u), *two(delta), *two(z), *two(grad))
    with on_device(u):
        walk[plan.grid(constants)](
            u, delta, A, B, C, z, delta_bias, grad, starts, marks, ends, *plan.sizes, *strides,
            SOFTPLUS=delta_softplus, **constants,
        )  # fmt: skip
        ends, first_grad = plan.carried(ends, sums, A, last_grad.contiguous(), True)
        constants = tile("gradients", plan.states) | {"BLOCKS": CONFIGS["gradients"]["BLOCKS"]}
        parts = plan.parts(constants)
        b_grad, c_grad = (starts.new_empty(parts, *x.shape) for x in (B, C))
        gradients[plan.grid(constants)](
            u, delta, A, B, C, D, z, delta_bias, grad, marks, ends,
            u_grad, d_grad, None if z is None else z_grad, b_grad, c_grad, a_grad, one,
            *plan.sizes, *strides, SOFTPLUS=delta_softplus, **constants,
        )  # fmt: skip
    of_skip, of_bias = (one[:, :, i].sum((0, 1)) for i in (0, 1))
    of_weights = (
        turned(part.sum(0)[:, : plan.length, : plan.states].mT).view(x.shape).to(x.dtype)
        for part, x in zip((b_grad, c_grad), weights, strict=True)
    )
    return [
        u_grad, d_grad, a_grad.sum((0, 1)).to(a_type), *of_weights,
        u.new_empty(0) if D is None else of_skip.to(D.dtype), z_grad,
        u.new_empty(0) if delta_bias is None else of_bias.to(delta_bias.dtype), first_grad,
    ]  # fmt: skip


@selective_scan.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, state):
    starts = state.new_empty(u.shape[0], Plan(u, B, A.shape[1]).chunks, *A.shape)
    return u.new_empty(u.shape), torch.empty_like(state), starts, starts.new_empty(starts.shape[:-1])


@selective_scan_backward.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, starts, sums, grad, last_grad):
    whole = [x.new_empty(x.shape) for x in (u, delta, A, B, C)]
    rest = [u.new_empty(0) if x is None else x.new_empty(x.shape) for x in (D, z, delta_bias)]
    return [*whole, *rest, torch.empty_like(last_grad)]


def remember(ctx, inputs: tuple, output: tuple) -> None:
    """Keep what the backward reads."""
    *tensors, softplus, _ = inputs
    ctx.softplus = softplus
    ctx.save_for_backward(*tensors, *output[2:])
    ctx.set_materialize_grads(False)


def backward(ctx, grad: Tensor | None, last_grad: Tensor | None, *_: None) -> tuple:
    """See `selective_scan_backward`."""
    *tensors, starts, sums = ctx.saved_tensors
    grad = torch.zeros_like(tensors[0]) if grad is None else grad
    last_grad = torch.zeros_like(starts[:, 0]) if last_grad is None else last_grad
    found = selective_scan_backward(*tensors, ctx.softplus, starts, sums, grad, last_grad)
    grads = [None if x is None else g for x, g in zip(tensors, found[:-1], strict=True)]
    return *grads, None, found[-1]


selective_scan.register_autograd(backward, setup_context=remember)

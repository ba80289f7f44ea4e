"""`ssm_conv` as Triton kernels is its definition, with plain float32, TF32 and bfloat16 products."""

import pytest
import torch

from .kernel_checks import GPU, agree, decays, kernel, noise, on_a_gpu, results

pytest.importorskip("triton", reason="triton is not installed here")
LONG = (16000, 16001, 100_003) if GPU else ()
TOLERANCE = {"highest": 1e-5, "high": 1e-3}


@pytest.fixture(autouse=True, params=("highest", "high") if GPU else ("highest",))
def products(request):
    """On a GPU every test runs with plain float32 products and with TF32's; the interpreter knows no TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def inputs(length, batch=2 if GPU else 1, channels=2, modes=5, dtype=torch.float32):
    c, state = noise(channels, modes, 2, seed=1), noise(batch, channels, modes, 2)
    return noise(batch, channels, length, dtype=dtype), decays(channels, modes), c, noise(channels), state


def ours(*arguments):
    from audiossm.kernels import ssm_conv

    return ssm_conv(*arguments)


def definition(*arguments):
    """The reference; where slow, torch's chunked form in float64, which tests/test_kernels.py compares with it."""
    from audiossm.kernels import ssm_conv, ssm_conv_reference

    return (ssm_conv_reference if arguments[0].shape[-1] < 300 else ssm_conv)(*arguments)


@kernel
@pytest.mark.parametrize("length", (1, 2, 63, 64, 65, 127, 128, 129, 200, 1000, 1003, *LONG))
def test_any_length(length, products):
    agree(ours, definition, inputs(length), TOLERANCE[products])


@kernel
@pytest.mark.parametrize("shape", ((1, 1, 1), (17, 1, 8), (3, 7, 33), (1, 2, 70), *(((64, 100, 32),) if GPU else ())))
def test_any_batch_channels_and_modes(shape, products):
    agree(ours, definition, inputs(131, *shape), TOLERANCE[products])


@kernel
@pytest.mark.parametrize("modes", (((-6, -6), (-3, -1), (1, 1))))
@pytest.mark.parametrize("length", (70, 1000))
def test_slow_and_fast_modes(modes, length, products):
    u, _, *rest = inputs(length)
    agree(ours, definition, (u, decays(2, 5, slowest=modes[0], fastest=modes[1]), *rest), TOLERANCE[products])


@kernel
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("length", (130, 1000))
def test_short_floats(dtype, length):
    agree(ours, definition, inputs(length, dtype=dtype), 1e-2)


@kernel
@pytest.mark.parametrize("length", (40, 1000))
def test_without_a_state_or_a_gradient_of_some_input_or_output(length, products):
    u, log_a, c, d, state = inputs(length)
    tolerance = TOLERANCE[products]
    agree(lambda *x: ours(*x), lambda *x: definition(*x), (u, log_a, c, d), tolerance)
    agree(lambda *x: ours(*x)[0], lambda *x: definition(*x)[0], (u, log_a, c, d, state), tolerance)
    agree(lambda *x: ours(*x)[1], lambda *x: definition(*x)[1], (u, log_a, c, d, state), tolerance)
    agree(ours, definition, (u.detach(), log_a, c, d, state.detach()), tolerance)
    agree(ours, definition, (u, log_a.detach(), c.detach(), d.detach(), state), tolerance)


@kernel
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_any_memory_layout(dtype, products):
    tolerance = TOLERANCE[products] if dtype == torch.float32 else 1e-2
    u, *rest = inputs(140, batch=2, channels=4, dtype=dtype)
    last = u.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    agree(ours, definition, (last, *rest), tolerance)
    part = noise(2, 5, 300, dtype=dtype).detach()[:, 1:, 7:287:2].requires_grad_()
    agree(ours, definition, (part, *rest), tolerance)
    one = noise(140, dtype=dtype).detach().expand(2, 4, 140).requires_grad_()
    agree(ours, definition, (one, *rest), tolerance)
    agree(lambda *x: ours(*x)[0].sum(), lambda *x: definition(*x)[0].sum(), (u, *rest), tolerance)


@kernel
@pytest.mark.parametrize("shape", ((0, 3, 5, 4), (2, 3, 5, 0)))
def test_nothing(shape):
    batch, channels, modes, length = shape
    found = results(ours, inputs(length, batch, channels, modes))
    assert [x.shape for x in found[2:]] == [x.shape for x in inputs(length, batch, channels, modes)]


@kernel
@pytest.mark.parametrize("length", (300, 1000))
def test_a_nan_stays_in_its_row_and_after_its_chunk_began(length):
    u, *rest = inputs(length, batch=3)
    u = u.detach().clone()
    u[1, :, 200] = torch.nan
    u.requires_grad_()
    y, x = ours(u, *rest)
    of_u, of_state = torch.autograd.grad(y.sum() + x.sum(), (u, rest[-1]))
    for good in (y, x, of_u, of_state):
        assert good[0].isfinite().all() and good[2].isfinite().all()
    assert y[1, :, :128].isfinite().all() and y[1, :, 200:].isnan().all()
    y, _ = ours(*inputs(length, batch=3))
    grad = torch.ones_like(y)
    grad[1, :, 200] = torch.nan
    u = inputs(length, batch=3)[0]
    (of_u,) = torch.autograd.grad(ours(u, *rest)[0], u, grad)
    assert of_u[0].isfinite().all() and of_u[2].isfinite().all() and of_u[1, :, 256:].isfinite().all()


@kernel
def test_the_same_bits_twice():
    for a, b in zip(results(ours, inputs(1000)), results(ours, inputs(1000)), strict=True):
        assert torch.equal(a, b)


@kernel
def test_splitting_law(products):
    u, log_a, c, d, state = (x.detach() for x in inputs(1000))
    y, x = ours(u, log_a, c, d, state)
    for seed in range(3):
        cuts = torch.randint(0, 1000, (4,), generator=torch.Generator().manual_seed(seed)).sort().values.tolist()
        pieces, last = [], state
        for begin, end in zip([0, *cuts], [*cuts, 1000], strict=True):
            piece, last = ours(u[..., begin:end], log_a, c, d, last)
            pieces.append(piece)
        for found, whole in ((torch.cat(pieces, dim=-1), y), (last, x)):
            assert (found - whole).norm() < 2 * TOLERANCE[products] * whole.norm()


@kernel
def test_registered_with_torch():
    from audiossm.kernels.gpu.ssm_conv import ssm_conv

    torch.library.opcheck(ssm_conv, inputs(70))


# Only on a GPU


@on_a_gpu
@pytest.mark.parametrize("kernel", ("outputs", "parameters"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_every_tile(kernel, dtype, products, monkeypatch):
    """Hopper has been miscompiled at single block sizes: gradients are compared at all that the table could hold."""
    from audiossm.kernels.gpu.ssm_conv import CONFIGS, candidates

    entry = kernel if dtype == torch.float32 else f"{kernel} short"
    for tile in candidates()[entry]:
        monkeypatch.setitem(CONFIGS, entry, tile)
        agree(
            ours,
            definition,
            inputs(200, modes=32, dtype=dtype),
            TOLERANCE[products] if dtype == torch.float32 else 1e-2,
        )


@on_a_gpu
def test_a_million_samples(products):
    agree(ours, definition, inputs(1_000_003, 1, 2, 4), TOLERANCE[products])


@on_a_gpu
def test_compiled_and_in_a_graph():
    u, *rest = inputs(500)
    compiled = torch.compile(lambda *x: tuple(2 * y for y in ours(*x)), fullgraph=True)
    for a, b in zip(
        results(compiled, (u, *rest)), results(lambda *x: tuple(2 * y for y in ours(*x)), (u, *rest)), strict=True
    ):
        assert torch.equal(a, b)
    with torch.no_grad():
        expected = ours(u, *rest)[0].clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, _ = ours(u, *rest)
        graph.replay()
        assert torch.equal(y, expected)
        with torch.autocast("cuda", torch.bfloat16):
            assert torch.equal(ours(u, *rest)[0], expected)

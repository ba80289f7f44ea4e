"""`ssd` in Triton computes what its reference defines."""

import pytest
import torch

from .kernel_checks import DEVICE, GPU, INTERPRETED, agree, kernel, noise, on_a_gpu, results

pytest.importorskip("triton", reason="triton is not installed here")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles that are small enough for several in a chunk."""
    if INTERPRETED:
        from audiossm.kernels.gpu import ssd as module

        for kernel in ("outputs", "turned_outputs"):
            monkeypatch.setitem(module.CONFIGS, kernel, module.CONFIGS[kernel] | {"BI": 32})


@pytest.fixture(params=("highest", "high") if GPU else ("highest",))
def tolerance(request):
    """The switch for TF32 products, and what results may differ by.

    They cut each operand, by 0.04 % in the mean; of gradients, products of products, 0.25 % was seen on an H100.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield {"highest": 1e-5, "high": 4e-3}[request.param]
    torch.set_float32_matmul_precision(before)


def inputs(length, batch=2 if GPU else 1, heads=4, width=5, groups=2, n=7, dtype=torch.float32):
    """x, dt, A, B, C, D and a state; steps dt |A| from 1e-6 to 10."""
    A = -torch.logspace(-6, 1, heads, device=DEVICE).requires_grad_()
    dt = (0.5 + noise(batch, length, heads).detach().sigmoid()).requires_grad_()
    vectors = [noise(batch, length, groups, n, dtype=dtype, seed=i) for i in range(2)]
    return (
        noise(batch, length, heads, width, dtype=dtype),
        dt,
        A,
        *vectors,
        noise(heads),
        noise(batch, heads, width, n),
    )


def run(x, dt, A, B, C, D, state):
    from audiossm.kernels import ssd

    return ssd(x, dt, A, B, C, D, initial_state=state)


def reference(x, dt, A, B, C, D, state):
    from audiossm.kernels import ssd_reference
    from audiossm.kernels.ssd import chunked, skip_and_gate

    if x.shape[1] <= 300:
        return ssd_reference(x, dt, A, B, C, D, initial_state=state)
    y, state = chunked(x, dt, A, B, C, state)  # in float64; tests/test_kernel_forms.py compares it with the reference
    return skip_and_gate(y, x, D, None), state


@kernel
@pytest.mark.parametrize("length", (1, 2, 63, 65, 130, 500, *((127, 128, 129, 16000) if GPU else ())))
def test_lengths(length, tolerance):
    agree(run, reference, inputs(length), tolerance)


SHAPES = [(1, 1, 1, 1, 1), (1, 2, 70, 1, 20), (2, 3, 17, 3, 130)]
BIG = [(64, 4, 16, 1, 16), (2, 16, 64, 1, 128), (1, 24, 64, 8, 64), (2, 8, 128, 1, 256), (3, 6, 48, 2, 96)]


@kernel
@pytest.mark.parametrize("shape", SHAPES + (BIG if GPU else []))
def test_shapes(shape, tolerance):
    agree(run, reference, inputs(700 if GPU else 66, *shape), tolerance)


@kernel
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("shape", [(2, 4, 16, 2, 16), *(BIG if GPU else [])])
def test_half_precision(dtype, shape):
    loose = 3 if INTERPRETED else 1  # the interpreter cuts bfloat16 off instead of rounding
    agree(run, reference, inputs(1000 if GPU else 70, *shape, dtype=dtype), loose * 1e-2)


@on_a_gpu
@pytest.mark.parametrize("chunk", (64, 128))
def test_both_chunk_lengths(chunk, monkeypatch):
    """Hopper has miscompiled products of some tile shapes."""
    from audiossm.kernels.gpu import ssd as module

    monkeypatch.setitem(module.CONFIGS, "chunk", {"half": chunk, "float": chunk})
    agree(run, reference, inputs(520, 2, 8, 64, 1, 128, dtype=torch.bfloat16), 1e-2)


@kernel
def test_bias_softplus_and_gate():
    from audiossm.kernels import ssd, ssd_reference

    x, dt, A, B, C, D, state = inputs(70)

    def call(function):
        return lambda x, dt, A, B, C, D, z, bias, state: function(x, dt, A, B, C, D, z, bias, True, state)

    agree(call(ssd), call(ssd_reference), (x, dt, A, B, C, D, noise(*x.shape, seed=3), noise(4), state))


@kernel
def test_without_skip_or_state():
    from audiossm.kernels import ssd, ssd_reference

    agree(ssd, ssd_reference, inputs(66)[:5])


@kernel
def test_any_memory_layout():
    x, dt, A, B, C, D, state = (v.detach() for v in inputs(70, batch=2))
    x, B = (v.transpose(1, 3).contiguous().transpose(1, 3).requires_grad_() for v in (x, B))
    dt, C = (torch.cat((v, v), dim=2)[:, :, : v.shape[2]].requires_grad_() for v in (dt, C))
    agree(run, reference, (x, dt, A.requires_grad_(), B, C, D.requires_grad_(), state.requires_grad_()))


@kernel
def test_empty():
    for batch, length in ((0, 3), (2, 0)):
        given = inputs(length, batch)
        y, state = run(*given)
        assert y.shape == given[0].shape and torch.equal(state, given[-1])


@kernel
@pytest.mark.parametrize("cuts", ((1,), (64, 65), (3, 100)))
def test_splitting_law(cuts):
    *sequences, state = (v.detach() for v in inputs(140))
    whole, last = run(*sequences, state)
    x, dt, A, B, C, D = sequences
    pieces = []
    for begin, end in zip((0, *cuts), (*cuts, 140), strict=True):
        y, state = run(*(v[:, begin:end] for v in (x, dt)), A, *(v[:, begin:end] for v in (B, C)), D, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state, last, rtol=1e-4, atol=1e-4)


@kernel
def test_a_nan_stays_in_its_row():
    given = [v.detach().clone().requires_grad_() for v in inputs(150, batch=2, heads=2)]
    with torch.no_grad():
        given[0][0, 100] = torch.nan
    y, state, x_grad, dt_grad, _, B_grad, C_grad, _, state_grad = results(run, given)
    assert all(v[1].isfinite().all() for v in (y, state, x_grad, dt_grad, B_grad, C_grad, state_grad))
    assert y[0, :64].isfinite().all()


@kernel
def test_the_same_bits_twice():
    given = inputs(3000 if GPU else 70, dtype=torch.bfloat16 if GPU else torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(results(run, given), results(run, given), strict=True))


@kernel
def test_registration():
    from audiossm.kernels.gpu.ssd import ssd as op

    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(op, inputs(20), test_utils=checks)


@on_a_gpu
def test_in_a_graph_and_compiled():
    given = [v.detach() for v in inputs(300, 2, 4, 16, 1, 16)]
    y, _ = run(*given)
    torch.testing.assert_close(torch.compile(run, fullgraph=True)(*given)[0], y)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured, _ = run(*given)
    graph.replay()
    assert torch.equal(captured, y)


@on_a_gpu
def test_offsets_beyond_32_bits():
    """Three rows of a million steps: the last row is what it is alone, but for rounding."""
    x, dt, A, B, C, D, state = (v.detach() for v in inputs(1 << 20, 3, 16, 64, 1, 16, dtype=torch.bfloat16))
    many, last = run(x, dt, A, B, C, D, state)
    one, alone = run(x[2:], dt[2:], A, B[2:], C[2:], D, state[2:])
    # One row has more spans to walk apart. The decay of a chunk just below 1 is rounded, 8,192 times in the one walk.
    assert (many[2].float() - one[0].float()).norm() < 1e-2 * one.float().norm() and many.isfinite().all()
    assert (last[2] - alone[0]).norm() < 2e-3 * alone[0].norm()

"""`selective_scan` in Triton computes what its reference defines."""

import pytest
import torch

from .kernel_checks import DEVICE, GPU, INTERPRETED, agree, cuts, error, kernel, noise, on_a_gpu, results, rounding

pytest.importorskip("triton", reason="triton is not installed here")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles that are small enough for the different ones for each kernel."""
    if INTERPRETED:
        from audiossm.kernels.gpu import selective_scan as module

        small = {
            "chunks": {"Q": 16},
            "ends": {"S": 4, "R": 1, "W": 2},
            "carry": {"S": 4, "R": 1, "W": 2},
            "outputs": {"S": 8, "R": 1, "W": 2},
            "walk": {"R": 1, "W": 2},
            "gradients": {"S": 4, "R": 1, "W": 1, "BLOCKS": 1},
        }
        for name, constants in small.items():
            monkeypatch.setitem(module.CONFIGS, name, {"maxnreg": 255, **constants})


def inputs(length, batch=2 if GPU else 1, channels=4, states=3, groups=1, dtype=torch.float32):
    """All inputs: u, δ, A, B, C, D, z, bias and a state. δ |A| from 1e-6 to 10."""
    rates = -torch.logspace(-6, 1, channels * states, device=DEVICE).reshape(channels, states)
    return (
        noise(batch, channels, length, dtype=dtype),
        noise(batch, channels, length, dtype=dtype, seed=1),
        rates.requires_grad_(),
        noise(batch, groups, states, length, dtype=dtype, seed=2),
        noise(batch, groups, states, length, dtype=dtype, seed=3),
        noise(channels),
        noise(batch, channels, length, dtype=dtype, seed=4),
        noise(channels, seed=5),
        noise(batch, channels, states),
    )


def run(*inputs):
    from audiossm.kernels import selective_scan

    return selective_scan(*inputs[:-1], delta_softplus=True, state=inputs[-1])


def reference(*inputs):
    from audiossm.kernels import selective_scan, selective_scan_reference

    # above 5,000 steps the torch form in float64; tests/test_scans.py compares it with the reference
    function = selective_scan_reference if inputs[0].shape[-1] <= 5000 else selective_scan
    return function(*inputs[:-1], delta_softplus=True, state=inputs[-1])


@kernel
@pytest.mark.parametrize("length", (1, 2, 33, *((127, 128, 129, 4099, 16000, 1_000_003) if GPU else ())))
def test_lengths(length):
    agree(run, reference, inputs(length, *((1, 2, 3, 1) if length > 20_000 else ())), rounding(length))


SHAPES = [(1, 1, 1, 1), (1, 6, 4, 1), (1, 4, 3, 2), (1, 3, 20, 1)]  # B, D, N, G
BIG = [(64, 16, 16, 1), (2, 192, 16, 3), (1, 100, 13, 1), (2, 40, 64, 1), (1, 9, 200, 1), (2, 64, 1, 2), (1, 33, 2, 1)]


@kernel
@pytest.mark.parametrize("shape", SHAPES + (BIG if GPU else []))
def test_shapes(shape, monkeypatch):
    from audiossm.kernels.gpu import selective_scan as module

    monkeypatch.setitem(module.CONFIGS["gradients"], "BLOCKS", 2)
    agree(run, reference, inputs(700 if GPU else 21, *shape))


@kernel
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precision(dtype):
    loose = 1 if GPU else 3  # the interpreter cuts bfloat16 off instead of rounding
    given = inputs(3000, 2, 64, 16, 2, dtype) if GPU else inputs(37, 1, 4, 3, 1, dtype)
    assert [x.dtype for x in run(*given)] == [dtype, torch.float32]
    agree(run, reference, given, loose * 1e-2)


@kernel
@pytest.mark.parametrize("left_out", ([5], [6], [7], [5, 6, 7, 8]))
def test_what_may_be_left_out(left_out):
    given = inputs(300, groups=2) if GPU else inputs(18, 1)

    def without(function):
        def call(*tensors):
            tensors = iter(tensors)
            return function(*(None if i in left_out else next(tensors) for i in range(len(given))))

        return call

    agree(without(run), without(reference), [x for i, x in enumerate(given) if i not in left_out])


@kernel
def test_without_softplus_and_with_shared_weights():
    from audiossm.kernels import selective_scan, selective_scan_reference

    u, delta, A, B, C, *_ = inputs(21)
    delta = delta.detach().sigmoid().requires_grad_()
    B, C = (x.detach()[:, 0].requires_grad_() for x in (B, C))  # (B, N, L)
    agree(selective_scan, selective_scan_reference, (u, delta, A, B, C))


@kernel
def test_any_memory_layout():
    u, delta, A, B, C, D, z, bias, state = (x.detach() for x in inputs(21, batch=2))
    both = torch.cat((u, z), dim=1)  # the halves of a projection, as Mamba has them
    turned = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (delta, B)]
    given = (both[:, :4], turned[0], A.T.contiguous().T, turned[1], C, D, both[:, 4:], bias, state)
    agree(run, reference, [x.requires_grad_() for x in given])


@kernel
def test_nothing_in_nothing_out():
    given = inputs(0)
    y, last = run(*given)
    assert y.shape == given[0].shape and torch.equal(last, given[-1])


@kernel
def test_a_state_handed_on():
    u, delta, A, B, C, D, z, bias, state = (x.detach() for x in inputs(3000 if GPU else 40))
    whole, last = run(u, delta, A, B, C, D, z, bias, state)
    pieces = []
    for x in zip(*(x.split(cuts(u.shape[-1], 5), dim=-1) for x in (u, delta, B, C, z)), strict=True):
        y, state = run(*x[:2], A, *x[2:4], D, x[4], bias, state)
        pieces.append(y)
    assert error(torch.cat(pieces, -1), whole) < 1e-5 and error(state, last) < 1e-5


@kernel
@pytest.mark.parametrize("which", (0, 1, 3) if GPU else (0,))
def test_a_nan_stays_in_its_row_and_after_its_time(which):
    given = list(inputs(37, batch=2))
    given[which] = given[which].detach().clone()
    given[which][0, ..., 33] = torch.nan
    given[which].requires_grad_()
    y, last, *grads = results(run, given)
    of_rows = [grads[i] for i in (0, 1, 3, 4, 6, 8)]
    assert all(x[1].isfinite().all() for x in (y, last, *of_rows))
    assert y[0, :, :33].isfinite().all() and y[0, :, 33].isnan().any()


@kernel
def test_the_same_bits_twice():
    given = inputs(2000) if GPU else inputs(18, 1)
    assert all(torch.equal(x, y) for x, y in zip(results(run, given), results(run, given), strict=True))


@kernel
def test_as_an_operator_of_torch():
    from audiossm.kernels.gpu.selective_scan import selective_scan

    *given, state = inputs(9, 1, 2, 2, 1)
    # not test_autograd_registration: it wants a gradient of the outputs that only the backward reads
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(selective_scan, (*given, True, state), test_utils=tests)


@on_a_gpu
def test_compiled_in_a_graph_and_under_autocast():
    given = inputs(2000)
    expected = results(run, given)
    for f, e in zip(results(torch.compile(run, fullgraph=True), given), expected, strict=True):
        torch.testing.assert_close(f, e)
    with torch.autocast("cuda", torch.bfloat16):
        assert all(torch.equal(f, e) for f, e in zip(results(run, given), expected, strict=True))
    given = [x.detach() for x in given]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, last = run(*given)
    graph.replay()
    assert torch.equal(y, expected[0]) and torch.equal(last, expected[1])


@on_a_gpu
def test_more_numbers_than_32_bits_count():
    u = torch.randn(1, 2200, 1_000_000, device=DEVICE, dtype=torch.float16)
    A = -torch.ones(2200, 1, device=DEVICE)
    B = torch.randn(1, 1, 1_000_000, device=DEVICE, dtype=torch.float16)
    from audiossm.kernels import selective_scan

    y, last = selective_scan(u, u, A, B, B, delta_softplus=True)
    one, end = selective_scan(u[:, -1:], u[:, -1:], A[-1:], B, B, delta_softplus=True)
    torch.testing.assert_close(y[:, -1:], one, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(last[:, -1:], end, rtol=1e-4, atol=1e-4)


@on_a_gpu
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_every_tile_in_use(dtype, monkeypatch):
    from audiossm.kernels.gpu import selective_scan as module

    given = inputs(600, 2, 40, 16, 1, dtype=dtype)
    exact = results(reference, [x.detach().double().requires_grad_() for x in given])
    for name, choices in module.candidates().items():
        for choice in choices:
            with monkeypatch.context() as patch:
                patch.setitem(module.CONFIGS, name, module.CONFIGS[name] | choice)
                for i, (f, e) in enumerate(zip(results(run, given), exact, strict=True)):
                    size = ((f.double() - e).norm() / e.norm()).item()
                    assert size < (1e-5 if dtype == torch.float32 else 1e-2), f"{name} {choice}, result {i}: {size}"

"""`linear_scan` in Triton computes what its reference defines."""

import pytest
import torch

from .kernel_checks import DEVICE, GPU, INTERPRETED, agree, cuts, error, kernel, noise, on_a_gpu, results, rounding

pytest.importorskip("triton", reason="triton is not installed here")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles that are small enough for the interpreter."""
    if INTERPRETED:
        from audiossm.kernels.gpu import linear_scan as module

        monkeypatch.setitem(module.CONFIGS["scan"], "T", 32)
        monkeypatch.setattr(module, "ENOUGH", 30)


def inputs(length, batch=2 if GPU else 1, channels=3, planes=1, dtype=torch.float32):
    """a, b and a state. |a| is exp(-10^x), x from -6 to 1, a little different at every step."""
    rows = (batch, channels, 2) if planes == 2 else (batch, channels)
    rates = torch.logspace(-6, 1, batch * channels, device=DEVICE).reshape(batch, channels, 1)
    size = (-rates * (0.5 + noise(batch, channels, length).detach().sigmoid())).exp()
    angle = noise(batch, channels, length, seed=1).detach()
    a = torch.stack((size * angle.cos(), size * angle.sin()), dim=2) if planes == 2 else size * angle.sign()
    return a.to(dtype).requires_grad_(), noise(*rows, length, dtype=dtype), noise(*rows, dtype=dtype)


def run(a, b, state):
    from audiossm.kernels import linear_scan

    return linear_scan(a, b, state)


def reference(a, b, state):
    from audiossm.kernels import linear_scan, linear_scan_reference

    # above 20,000 steps the torch form in float64; tests/test_scans.py compares it with the reference
    return (linear_scan_reference if b.shape[-1] <= 20_000 else linear_scan)(a, b, state)


LENGTHS = (1, 2, 31, 70)


@kernel
@pytest.mark.parametrize("planes", (1, 2))
@pytest.mark.parametrize("length", (*LENGTHS, *((127, 128, 129, 2047, 2049, 16000, 1_000_003) if GPU else ())))
@pytest.mark.parametrize("enough", (1, 1024))
def test_lengths(length, enough, planes, monkeypatch):
    from audiossm.kernels.gpu import linear_scan as module

    monkeypatch.setattr(module, "ENOUGH", enough)  # whole rows, and cut
    agree(run, reference, inputs(length, planes=planes), rounding(length))


@kernel
@pytest.mark.parametrize("planes", (1, 2))
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), *([(64, 100), (16, 1536)] if GPU else [])])
def test_shapes(shape, planes):
    agree(run, reference, inputs(3000 if GPU else 40, *shape, planes=planes))


@kernel
@pytest.mark.parametrize("planes", (1, 2))
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precision(dtype, planes):
    loose = 1 if GPU else 3  # the interpreter cuts bfloat16 off instead of rounding
    given = inputs(3000 if GPU else 40, planes=planes, dtype=dtype)
    assert [x.dtype for x in run(*given)] == [dtype, torch.float32]
    agree(run, reference, given, loose * 1e-2)


@kernel
def test_any_memory_layout():
    a, b, state = inputs(36, batch=2)
    turned = b.detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    agree(run, reference, (a, turned, state))
    part = noise(2, 7, 60).detach()[:, 2:5, 5:41].requires_grad_()
    agree(run, reference, (a, part, state))
    constant = a.detach()[..., :1].requires_grad_()
    agree(lambda a, *x: run(a.expand_as(b), *x), lambda a, *x: reference(a.expand_as(b), *x), (constant, b, state))


@kernel
def test_nothing_in_nothing_out():
    from audiossm.kernels import linear_scan

    a, b, state = inputs(0)
    h, last = linear_scan(a, b, state)
    assert h.shape == b.shape and torch.equal(last, state)
    empty = torch.empty(0, 3, 20, device=DEVICE)
    assert linear_scan(empty, empty)[1].shape == (0, 3)


@kernel
@pytest.mark.parametrize("planes", (1, 2))
def test_a_state_handed_on(planes):
    a, b, state = (x.detach() for x in inputs(5000 if GPU else 70, channels=2, planes=planes))
    whole, last = run(a, b, state)
    pieces = []
    for x, y in zip(*(x.split(cuts(b.shape[-1], 6), dim=-1) for x in (a, b)), strict=True):
        h, state = run(x, y, state)
        pieces.append(h)
    assert error(torch.cat(pieces, -1), whole) < 1e-5 and error(state, last) < 1e-5


@kernel
def test_a_nan_stays_in_its_row_and_after_its_time():
    a, b, state = inputs(100, batch=2)
    b = b.detach().clone()
    b[0, 1, 60] = torch.nan
    h, last, *grads = results(run, (a, b.requires_grad_(), state))
    whole = torch.ones(2, 3, dtype=torch.bool, device=DEVICE)
    whole[0, 1] = False
    assert all(x[whole].isfinite().all() for x in (h, last, *grads))
    assert h[0, 1, :60].isfinite().all() and h[0, 1, 60:].isnan().all() and last[0, 1].isnan()


@kernel
def test_the_same_bits_twice():
    given = inputs(5000 if GPU else 50)
    assert all(torch.equal(x, y) for x, y in zip(results(run, given), results(run, given), strict=True))


@kernel
def test_as_an_operator_of_torch():
    from audiossm.kernels.gpu.linear_scan import linear_scan

    torch.library.opcheck(linear_scan, inputs(20, channels=1))
    torch.library.opcheck(linear_scan, inputs(5, 1, 1, planes=2))


@on_a_gpu
def test_more_numbers_than_32_bits_count():
    length, rows = 1_000_000, 2200
    a = torch.full((1, rows, length), 0.9, device=DEVICE, dtype=torch.float16)
    b = torch.randn(1, rows, length, device=DEVICE, dtype=torch.float16)
    h, last = run(a, b, None)
    one, end = run(a[:, -1:], b[:, -1:], None)
    torch.testing.assert_close(h[:, -1:], one, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(last[:, -1:], end)


@on_a_gpu
def test_compiled_in_a_graph_and_under_autocast():
    given = inputs(3000)
    expected = results(run, given)
    for f, e in zip(results(torch.compile(run, fullgraph=True), given), expected, strict=True):
        torch.testing.assert_close(f, e)
    with torch.autocast("cuda", torch.bfloat16):
        assert all(torch.equal(f, e) for f, e in zip(results(run, given), expected, strict=True))
    given = [x.detach() for x in given]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        h, last = run(*given)
    graph.replay()
    assert torch.equal(h, expected[0]) and torch.equal(last, expected[1])


@on_a_gpu
def test_every_tile_in_use(monkeypatch):
    from audiossm.kernels.gpu import linear_scan as module

    monkeypatch.setattr(module, "ENOUGH", 1)
    for choice in module.candidates()["scan"]:
        for name, value in choice.items():
            monkeypatch.setitem(module.CONFIGS["scan"], name, value)
        agree(run, reference, inputs(10_001))

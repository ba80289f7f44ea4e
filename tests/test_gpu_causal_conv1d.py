"""`causal_conv1d` in Triton computes what its reference defines."""

import pytest
import torch

from .kernel_checks import DEVICE, GPU, agree, kernel, noise, on_a_gpu, results

pytest.importorskip("triton", reason="triton is not installed here")


def inputs(length, batch=2 if GPU else 1, channels=5 if GPU else 3, taps=4, dtype=torch.float32, channels_last=False):
    x = noise(batch, channels, length, dtype=dtype)
    if channels_last:
        x = x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    return x, noise(channels, taps), noise(channels), noise(batch, channels, taps - 1, dtype=dtype)


def run(x, weight, bias, state):
    from audiossm.kernels import causal_conv1d

    return causal_conv1d(x, weight, bias, True, state)


def reference(x, weight, bias, state):
    from audiossm.kernels.causal_conv1d import causal_conv1d, causal_conv1d_reference

    function = causal_conv1d_reference if x.shape[-1] <= 300 else causal_conv1d  # in float64 that is torch's own
    return function(x, weight, bias, True, state)


@kernel
@pytest.mark.parametrize("length", (1, 2, 3, 31, 32, 33, *((127, 128, 129, 1024, 1025, 16000) if GPU else ())))
@pytest.mark.parametrize("channels_last", (False, True))
def test_lengths(length, channels_last):
    agree(run, reference, inputs(length, channels_last=channels_last))


@kernel
@pytest.mark.parametrize("length", (40, 48))  # the second is aligned for vectors
@pytest.mark.parametrize("taps", (1, 2, 3, 8))
@pytest.mark.parametrize("silu", (False, True))
def test_taps(length, taps, silu):
    from audiossm.kernels import causal_conv1d, causal_conv1d_reference

    x, weight, _, state = inputs(length, taps=taps)

    def call(function):
        return lambda x, weight, state: function(x, weight, None, silu, state)

    agree(call(causal_conv1d), call(causal_conv1d_reference), (x, weight, state))


@kernel
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("length", (2100, 4096) if GPU else (50, 64))
@pytest.mark.parametrize("channels_last", (False, True))
def test_half_precision(dtype, length, channels_last):
    sizes = (3, 70) if GPU else (1, 3)
    agree(run, reference, inputs(length, *sizes, dtype=dtype, channels_last=channels_last), 1e-2)


@on_a_gpu
def test_tiles_in_use():
    from audiossm.kernels.gpu import causal_conv1d as module

    for name, choices in module.candidates().items():
        before = dict(module.CONFIGS[name])
        for choice in choices:
            module.CONFIGS[name].update(choice)
            agree(run, reference, inputs(5008 if "vectors" in name else 5000))
            module.CONFIGS[name].update(before)


@kernel
@pytest.mark.parametrize("length", (40, 48))
def test_any_memory_layout(length):
    x, weight, bias, state = (v.detach() for v in inputs(length, batch=2))
    columns = torch.cat((x, x), dim=1)[:, 1 : 1 + x.shape[1]].requires_grad_()
    steps = torch.stack((x, x), dim=-1).flatten(2)[..., 1::2].requires_grad_()
    later = torch.nn.functional.pad(x, (1, 15))[..., 1 : 1 + length].requires_grad_()  # not aligned
    for view in (columns, steps, later):
        agree(run, reference, (view, weight.requires_grad_(), bias.requires_grad_(), state.requires_grad_()))


@kernel
def test_channels_last_stay_last():
    x = inputs(40, channels_last=True)[0].detach()
    y, _ = run(*inputs(40, channels_last=True))
    assert y.stride() == x.stride()


@kernel
def test_empty_and_no_state():
    from audiossm.kernels import causal_conv1d, causal_conv1d_reference

    agree(causal_conv1d, causal_conv1d_reference, inputs(10)[:3])
    for batch, length in ((0, 3), (2, 0)):
        given = inputs(length, batch)
        y, state = run(*given)
        assert y.shape == given[0].shape and torch.equal(state, given[-1])


@kernel
@pytest.mark.parametrize("cuts", ((1,), (2, 3, 4), (33, 64)))
def test_splitting_law(cuts):
    x, weight, bias, state = (v.detach() for v in inputs(80))
    whole, last = run(x, weight, bias, state)
    pieces = []
    for begin, end in zip((0, *cuts), (*cuts, 80), strict=True):
        y, state = run(x[..., begin:end], weight, bias, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, dim=-1), whole)
    assert torch.equal(state, last)


@kernel
def test_a_nan_stays_in_its_row():
    given = [v.detach().clone().requires_grad_() for v in inputs(60, batch=2)]
    with torch.no_grad():
        given[0][0, :, 40] = torch.nan
    y, state, x_grad, _, _, state_grad = results(run, given)
    assert all(v[1].isfinite().all() for v in (y, state, x_grad, state_grad)) and y[0, :, :40].isfinite().all()


@kernel
def test_the_same_bits_twice_and_registration():
    from audiossm.kernels.gpu.causal_conv1d import causal_conv1d as op

    given = inputs(5000 if GPU else 100)
    assert all(torch.equal(a, b) for a, b in zip(results(run, given), results(run, given), strict=True))
    x, weight, bias, state = inputs(20)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(op, (x, weight, bias, True, state), test_utils=checks)


@on_a_gpu
def test_offsets_beyond_32_bits():
    x = torch.randn(3, 1024, 1 << 20, device=DEVICE, dtype=torch.bfloat16)
    _, weight, bias, _ = inputs(1, channels=1024)
    y, state = run(x, weight, bias, None)
    one, last = run(x[2:], weight, bias, None)
    assert torch.equal(y[2:], one) and torch.equal(state[2:], last)

"""`cauchy` in Triton computes what its reference defines, and so does S4's kernel made of it."""

import pytest
import torch

from .kernel_checks import DEVICE, GPU, agree, kernel, noise, on_a_gpu, results

pytest.importorskip("triton", reason="triton is not installed here")


def inputs(rows, channels, modes, nodes):
    """Weights, nodes on the imaginary axis and poles left of it, as S4 has them."""
    z = torch.stack((torch.zeros(nodes), torch.linspace(0, 50, nodes)), dim=-1).to(DEVICE)
    w = noise(channels, modes, 2, seed=1).detach() * torch.tensor((0.0, 20.0), device=DEVICE)
    w[..., 0] -= 0.5
    return noise(rows, channels, modes, 2), z, w.requires_grad_()


def reference(v, z, w):
    from audiossm.kernels import cauchy_reference

    return cauchy_reference(v, z, w)


def run(v, z, w):
    from audiossm.kernels import cauchy

    return cauchy(v, z, w)


@kernel
@pytest.mark.parametrize(
    "shape", ((1, 1, 1, 1), (4, 3, 5, 33), (3, 2, 40, 300), *(((4, 64, 32, 8193),) if GPU else ()))
)
def test_sums(shape):
    agree(run, reference, inputs(*shape))


@kernel
def test_any_memory_layout_and_empty():
    v, z, w = (x.detach() for x in inputs(4, 3, 5, 33))
    v, w = v.transpose(0, 2).contiguous().transpose(0, 2), torch.cat((w, w), dim=-1)[..., :2]
    agree(run, reference, (v.requires_grad_(), z, w.requires_grad_()))
    assert run(v, z[:0], w).shape == (4, 3, 0, 2)


@kernel
@pytest.mark.parametrize("length", (1, 2, 33, 128))
def test_dplr_kernel(length):
    from audiossm.kernels import dplr_kernel, dplr_kernel_reference

    w = noise(3, 5, 2).detach() * 0.1
    w[..., 0] = -0.01
    given = w.requires_grad_(), (noise(3, 5, 2).detach() * 0.1).requires_grad_(), noise(3, 5, 2), noise(3, 5, 2, seed=1)
    agree(lambda *x: dplr_kernel(*x, length), lambda *x: dplr_kernel_reference(*x, length), given, 2e-5)


@kernel
def test_the_same_bits_twice_and_registration():
    from audiossm.kernels.gpu.cauchy import cauchy as op

    given = inputs(4, 3, 5, 9000 if GPU else 100)
    assert all(torch.equal(a, b) for a, b in zip(results(run, given), results(run, given), strict=True))
    torch.library.opcheck(op, given, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


@on_a_gpu
def test_tiles_in_use():
    from audiossm.kernels.gpu import cauchy as module

    for name, choices in module.candidates().items():
        before = dict(module.CONFIGS[name])
        for choice in choices:
            module.CONFIGS[name].update(choice)
            agree(run, reference, inputs(4, 7, 32, 5000))
            module.CONFIGS[name].update(before)

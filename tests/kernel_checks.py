"""What the tests of the Triton kernels share: where kernels run, inputs, and the comparison with float64.

The interpreter has to be chosen before the kernels are imported, so without a GPU the files test_gpu_*.py run in a
process of their own, which tests/test_interpreter.py starts. There every address is checked (`guard_memory`), and each
row and channel takes as long as the first: a batch has one row where rows do not matter.
"""

import os
from functools import cache

import numpy as np
import pytest
import torch

GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if GPU else "cpu"

kernel = pytest.mark.kernel  # without a GPU only the interpreter runs it: tests/conftest.py
on_a_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")


def guard_memory():
    """Let the interpreter refuse to read or write outside the tensor that a pointer came from; new memory is NaN.

    A GPU may do so unnoticed, or fail in a kernel that comes later. Addresses take 48 bits: the others of a pointer
    number the tensor.
    """
    from triton.runtime import interpreter

    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns
    convert, builder = interpreter._implicit_cvt, interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store
    begins, ends, number = np.zeros(1 << 16, np.uint64), np.zeros(1 << 16, np.uint64), 0

    def numbered(argument):
        nonlocal number
        value = convert(argument)
        if isinstance(argument, torch.Tensor):
            number, memory = (number + 1) % len(begins), argument.untyped_storage()
            begins[number], ends[number] = memory.data_ptr(), memory.data_ptr() + memory.nbytes()
            value.handle.data = value.handle.data + np.uint64(number << 48)
        return value

    def checked(pointers, mask):
        tensor, at = pointers.data >> np.uint64(48), pointers.data & np.uint64((1 << 48) - 1)
        size = np.uint64(pointers.get_element_ty().primitive_bitwidth // 8)
        outside = mask.data & ((at < begins[tensor]) | (at + size > ends[tensor]))
        if outside.any():
            tensor, at = tensor[outside][0], at[outside][0]
            before, behind = int(at) - int(begins[tensor]), int(at) - int(ends[tensor])
            raise IndexError(f"{before} bytes behind a tensor's begin, {behind} behind its end")
        return interpreter.TensorHandle(at, pointers.dtype)

    interpreter._implicit_cvt = numbered
    builder.create_masked_load = lambda self, x, mask, *rest: load(self, checked(x, mask), mask, *rest)
    builder.create_masked_store = lambda self, x, value, mask, *rest: store(self, checked(x, mask), value, mask, *rest)


def hurry():
    """Let the interpreter leave out what only takes time: most of it.

    For each launch and each call of one kernel by another it puts its functions in the place of `triton.language`'s:
    now for good. It adds integers again in 64 bits and throws away what that says of an overflow: now not. It looks for
    NumPy's name of a type at each step: now once. A scan it walks element by element: now, like a GPU, in a few steps,
    each composing twice as many.
    """
    from triton.runtime import interpreter

    patch, values = interpreter._patch_lang, interpreter.ScanOps.to_tensor
    find, types = interpreter._get_np_dtype, {}

    @cache
    def patched(function):
        scope = patch(function)
        scope._changes.clear()  # what would be restored after a launch
        return scope

    def numpy_type(kind):
        if kind.name not in types:
            types[kind.name] = find(kind)
        return types[kind.name]

    def scan(self, parts):
        found, kinds = [part.handle.data for part in parts], [part.dtype for part in parts]
        at = np.arange(found[0].shape[self.axis]).reshape([-1 if i == self.axis else 1 for i in range(found[0].ndim)])
        span = 1
        while span < at.size:
            before = [np.roll(x, span, self.axis) for x in found]
            both = self.combine_fn.fn(
                *(values(self, x, kind) for x, kind in zip(before + found, kinds * 2, strict=True))
            )
            found = [np.where(at < span, x, y.handle.data) for x, y in zip(found, both, strict=True)]
            span *= 2
        return [values(self, x, kind) for x, kind in zip(found, kinds, strict=True)]

    interpreter._patch_lang, interpreter._get_np_dtype, interpreter.ScanOps.generic_scan = patched, numpy_type, scan
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)


if INTERPRETED:
    guard_memory()
    hurry()


def exact_noise(*shape, seed=0):
    """Random numbers in float64 on the CPU, which require a gradient."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def noise(*shape, dtype=torch.float32, seed=0):
    """The same where kernels run."""
    return exact_noise(*shape, seed=seed).detach().to(DEVICE, dtype).requires_grad_()


def decays(*shape, slowest=-6.0, fastest=1.0):
    """log a (..., 2) of modes from 10^slowest to 10^fastest a step, at any frequency."""
    spread = torch.linspace(0, 1, int(torch.tensor(shape).prod()), dtype=torch.float64).reshape(shape)
    pair = torch.stack((-(10 ** (slowest + (fastest - slowest) * spread)), 3 * torch.sin(40 * spread)), dim=-1)
    return pair.to(DEVICE, torch.float32).requires_grad_()


def rounding(length):
    """What results of float32 may differ by: rounding adds up in slow modes, as the root of the steps."""
    return 1e-5 * max(1, length / 4000) ** 0.5


def cuts(length, pieces):
    """Random lengths of pieces that make up a whole."""
    at = torch.randint(1, length, (pieces - 1,), generator=torch.Generator().manual_seed(0)).sort().values
    return torch.diff(at, prepend=at.new_tensor([0]), append=at.new_tensor([length])).tolist()


def error(found, expected):
    """Relative L2 of a result against one of float64."""
    assert found.shape == expected.shape
    difference = (found.double() - expected).norm() / expected.norm().clamp(min=1e-300)
    return difference.item() if expected.norm() > 0 else found.double().norm().item()


def results(function, inputs):
    """Outputs, then the gradients of all inputs for one random gradient of each output."""
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum((y * noise(*y.shape, seed=i).detach().to(y.dtype)).sum() for i, y in enumerate(outputs))
    wanted = [x for x in inputs if x.requires_grad]
    return *outputs, *torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)


def agree(function, reference, inputs, tolerance=1e-5):
    """Compare outputs and gradients with the reference in float64."""
    exact = [x.detach().double().requires_grad_(x.requires_grad) for x in inputs]
    for i, (f, e) in enumerate(zip(results(function, inputs), results(reference, exact), strict=True)):
        assert error(f, e) < tolerance, f"result {i}: {error(f, e)}"

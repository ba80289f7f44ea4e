"""Every Triton kernel compiles for Hopper, without a GPU: the interpreter takes Python that the compiler refuses.

A launch is recorded on meta tensors, then compiled as its arguments demand. Shared memory must suffice on an H100, and
the machine code must not read what it never wrote.
"""

import re
import subprocess
from importlib import import_module

import pytest
import torch

from audiossm.kernels import Layers, Readout

from .kernel_checks import INTERPRETED

triton = pytest.importorskip("triton", reason="triton is not installed here")
if INTERPRETED:
    pytest.skip("the interpreter has no compiler", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

SHARED = 232_448  # bytes a program may have on an H100
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64"}
NUMBERS = {int: "i32", float: "fp32"}


class Recorder:
    """Stands for a kernel and keeps what it is launched with."""

    def __init__(self, function, launches):
        self.function, self.launches = function, launches

    def __getitem__(self, grid):
        return lambda *args, **named: self.launches.append((self.function, args, named))


def compiled(function, args, named):
    """Compile a launch for compute capability 9.0."""
    named = dict(named)
    options = {name: named.pop(name) for name in ("num_warps", "num_stages", "maxnreg") if name in named}
    values = dict(zip(function.arg_names, args, strict=False)) | named
    signature, constants, known = {}, {}, {}
    for i, parameter in enumerate(function.params):
        name, value = parameter.name, values[parameter.name]
        one = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or one:
            signature[name], constants[(i,)] = "constexpr", value
        else:
            signature[name] = POINTERS[value.dtype] if isinstance(value, torch.Tensor) else NUMBERS[type(value)]
            aligned = isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)
            if aligned and not (parameter.do_not_specialize or parameter.do_not_specialize_on_alignment):
                known[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature, constants, known)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def machine_code(kernel, folder):
    """Disassemble a compiled kernel: lines of operation and operands, the destination first."""
    (folder / "cubin").write_bytes(kernel.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "-sass", folder / "cubin"]
    return re.findall(r"/\*[0-9a-f]{4,}\*/ +(?:@\S+ )?([A-Z].*?) ;", subprocess.check_output(command, text=True))


def never_written(code):
    """Return the instructions that are first to name a uniform register, and read it.

    ptxas 12.8 miscompiles some kernels so that a descriptor, the address of a matrix in shared memory, is made of such
    a register: the tensor cores then read anywhere, and a launch fails or not, as the kernel before it left the
    register. In the instruction gdesc[URn] it is registers n + 2 and n + 3 that are read.
    """
    written, found = set(), []
    for line in code:
        operation, to, operands = re.fullmatch(r"(\S+) *(?:UR(\d+), )?(.*)", line).groups()
        read = {int(n) for n in re.findall(r"(?<!gdesc\[)\bUR(\d+)", operands)}
        read |= {int(n) + i for n in re.findall(r"gdesc\[UR(\d+)", operands) for i in (2, 3)}
        if read - written:
            found.append(line)
        if to:
            written |= {int(to) + i for i in range(2 if re.search(r"\.(64|WIDE)\b", operation) else 1)}
    return found


def test_what_was_never_written_is_found():
    fine = ["ULDC.64 UR4, c[0x0][0x208]", "UIADD3 UR10, UP0, UR5, 0x2, URZ", "UMOV UR11, 0x8000", "EXIT"]
    assert not never_written([*fine, "HGMMA.64x8x8.F32.TF32 R24, R32, gdesc[UR8], R24"])
    assert never_written([*fine, "MOV R8, UR48", "HGMMA.64x8x8.F32.TF32 R24, R32, gdesc[UR10], R24"]) == [
        "MOV R8, UR48",
        "HGMMA.64x8x8.F32.TF32 R24, R32, gdesc[UR10], R24",
    ]


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


def ssd(op, dtype, width, groups, n, batch=2, length=300, heads=4):
    x, dt = meta(batch, length, heads, width, dtype=dtype), meta(batch, length, heads)
    A, state, w = meta(heads), meta(batch, heads, width, n), meta(batch, length, groups, n, dtype=dtype)
    op.ssd._init_fn(x, dt, A, w, w, A, state)
    op.ssd_backward._init_fn(x, dt, A, w, w, A, state, x, state)


def linear_scan(op, batch, channels, planes, length):
    rows = (batch, channels, 2) if planes == 2 else (batch, channels)
    x, state = meta(*rows, length), meta(*rows)
    op.linear_scan._init_fn(x, x, state)
    op.linear_scan_backward._init_fn(x, x, state, x, state)


def selective_scan(op, dtype, batch, channels, groups, n, length, gated=True):
    u, w = meta(batch, channels, length, dtype=dtype), meta(batch, groups, n, length, dtype=dtype)
    one, state = meta(channels), meta(batch, channels, n)
    given = u, u, meta(channels, n), w, w, *((one, u, one) if gated else (None, None, None)), gated
    _, last, starts, sums = op.selective_scan._init_fn(*given, state)
    op.selective_scan_backward._init_fn(*given, starts, sums, u, last)


def decay_scan(op, batch, channels, length):
    log_a, x, state = meta(channels, 2), meta(batch, length, 2, channels), meta(batch, 2, channels)
    op.decay_scan._init_fn(log_a, x, state)
    op.decay_scan_backward._init_fn(log_a, x, state, x)


def ssm_conv(op, dtype, batch, channels, modes, length):
    u, log_a = meta(batch, channels, length, dtype=dtype), meta(channels, modes, 2)
    state = meta(batch, channels, modes, 2)
    op.ssm_conv._init_fn(u, log_a, log_a, meta(channels), state)
    op.ssm_conv_parameters._init_fn(u, u, log_a, log_a, state, state)


def causal_conv1d(op, dtype, silu, channels_last, batch=2, channels=64, length=300):
    x = meta(batch, length, channels, dtype=dtype).transpose(1, 2)
    x = x if channels_last else x.contiguous()
    given = x, meta(channels, 4), meta(channels), silu, meta(batch, channels, 3, dtype=dtype)
    op.causal_conv1d._init_fn(*given)
    op.causal_conv1d_backward._init_fn(*given, x, given[-1])


def layout(op, dtype, batch, channels, length):
    op.turned._init_fn(meta(batch, length, channels, dtype=dtype).transpose(1, 2))


def cauchy(op, rows):
    v, z, w = meta(rows, 8, 32, 2), meta(500, 2), meta(8, 32, 2)
    op.cauchy._init_fn(v, z, w)
    op.gradients[(1,)](meta(rows, 8, 500, 2), z, w, v, 8, 32, 500, R=rows, BN=32, **op.CONFIGS["gradients"])


def layers_step(op, batch, layers, channels, modes, inner):
    of_layer = (2, channels, modes), (channels,), (2, channels), (channels, channels, 2)
    of_ff = (channels, inner), (inner,), (inner, channels), (channels,)
    a, d, norm, gate = (meta(layers, *shape) for shape in of_layer)
    numbers = Layers(a, a, d, norm, gate, norm.mT.contiguous(), norm, *(meta(layers, *shape) for shape in of_ff))
    op.layers_step(meta(batch, channels), meta(layers, batch, 2, channels, modes), numbers, meta(batch, channels), 1e-5)


def draw(op, batch, channels, codes, top_p):
    y, readout = meta(batch, channels), Readout(meta(channels, codes), meta(codes), meta(2, channels))
    op.draw(y, readout, meta(batch), meta(codes, channels), y, meta(batch, dtype=torch.int64), 0.9, top_p, y, 1e-5)


def rowwise(op, channels, dtype=torch.float32):
    u, y, bias, wide = meta(2, 300, channels), meta(2, 300, channels, dtype=dtype), meta(channels), meta(2 * channels)
    x = meta(2, 300, 2 * channels, dtype=dtype)
    op.norm._init_fn(u, y, bias, bias, bias, 1e-5)
    op.norm_backward._init_fn(u, u, u, bias, 1e-5)
    op.norm_backward._init_fn(u, None, u, bias, 1e-5)
    op.activate._init_fn(x, wide, True)
    op.activate._init_fn(x, wide, False)
    op.activate_backward._init_fn(x, wide, y, True)
    op.activate_backward._init_fn(y, bias, y, False)
    op.add_bias._init_fn(u, y, bias)
    op.sum_of_steps._init_fn(u)


CASES = [
    (ssd, torch.bfloat16, 64, 1, 128),
    (ssd, torch.float32, 5, 2, 7),
    (causal_conv1d, torch.float32, True, False),
    (causal_conv1d, torch.float32, True, False, 2, 64, 320),
    (causal_conv1d, torch.bfloat16, False, True),
    (layout, torch.float32, 2, 64, 300),
    (layout, torch.bfloat16, 1, 1, 1),
    (cauchy, 4),
    (linear_scan, 3, 5, 1, 5000),
    (linear_scan, 1, 1, 2, 5000),
    (linear_scan, 1, 1, 1, 1),  # an argument that is 1 is a number in Python to the compiler
    (selective_scan, torch.bfloat16, 2, 64, 2, 16, 500),
    (selective_scan, torch.float32, 1, 1, 1, 1, 1),
    (selective_scan, torch.float32, 1, 3, 1, 20, 500, False),
    (decay_scan, 2, 64, 500),
    (ssm_conv, torch.float32, 16, 256, 32, 16384),
    (ssm_conv, torch.bfloat16, 16, 256, 32, 16384),
    (ssm_conv, torch.float32, 1, 1, 1, 1),
    (ssm_conv, torch.float32, 1, 3, 32, 16000),
    (decay_scan, 1, 1, 1),
    (ssd, torch.float32, 1, 1, 1, 1, 1, 1),
    (causal_conv1d, torch.float32, True, False, 1, 1, 1),
    (layers_step, 128, 8, 64, 32, 128),
    (layers_step, 1, 8, 256, 32, 512),
    (layers_step, 1, 1, 5, 1, 5),
    (rowwise, 64),
    (rowwise, 5, torch.bfloat16),
    (draw, 128, 64, 256, 0.9),
    (draw, 1, 256, 256, 1.0),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__}-{'-'.join(map(str, case[1:]))}")
def test_kernels_compile_for_hopper(case, monkeypatch, tmp_path):
    launch, *arguments = case
    op, launches = import_module(f"audiossm.kernels.gpu.{launch.__name__}"), []
    for module in (op, import_module("audiossm.kernels.gpu.sums")):
        for name, value in vars(module).items():
            if isinstance(value, JITFunction):
                monkeypatch.setattr(module, name, Recorder(value, launches))
    if hasattr(op, "KERNELS"):
        monkeypatch.setattr(op, "KERNELS", {name: Recorder(value, launches) for name, value in op.KERNELS.items()})
    launch(op, *arguments)
    monkeypatch.undo()  # or the kernels would find recorders in place of what they call
    assert launches
    for kernel in {kernel.hash: kernel for kernel in (compiled(*launch) for launch in launches)}.values():
        assert kernel.metadata.shared <= SHARED
        if "wgmma" in kernel.asm["ptx"]:
            assert not never_written(machine_code(kernel, tmp_path)), f"{kernel.name} is miscompiled"

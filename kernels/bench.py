"""Measure the kernels on this GPU, beside torch's own forms, the peers that can be imported and the memory's floor.

    python -m audiossm.kernels.bench                      # all operations
    python -m audiossm.kernels.bench ssd --json           # one, for a program
    python -m audiossm.kernels.bench ssd --tune           # time the block sizes that its kernels could have

Times are medians of `triton.testing.do_bench` (the L2 cache is cleared before each run), floors are bytes over the copy
rate measured in the same run. The cases of an operation are in `bench_cases_<op>.py`.
"""

import argparse
import datetime
import importlib
import importlib.util
import json
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

OPS = ("ssm_conv", "linear_scan", "selective_scan", "ssd", "causal_conv1d", "cauchy", "vandermonde", "fft_conv")
TOLERATED = 2e-2  # relative difference of gradients between two block sizes, bfloat16's rounding included
COPIED = 1 << 31  # bytes of the copy that measures the memory's rate

Function = Callable[..., Any]  # of a case's inputs; gives a tensor, or a tuple of tensors and None
Clock = Callable[[Callable[[], object]], float]  # median milliseconds of a call


@dataclass(frozen=True)
class Case:
    """One line of the table: an operation at one shape.

    Bytes are each input read once and each output written once; "both" is forward and the gradients of all inputs that
    require one, where the backward reads the inputs again.

    Attributes:
        op: its name in `OPS`.
        shape: as read by people, "B16 H256 N64 L16384".
        dtype: of the sequences, "float32", "bfloat16" or "float16".
        inputs: makes the arguments on a device, random; what is to be differentiated requires a gradient.
        function: ours, called with those arguments.
        bytes_forward: least bytes of the forward.
        bytes_both: least bytes of forward and backward.
        flops_forward: floating-point operations of our form, 0 where memory alone matters.
        flops_both: the same with the backward.
        forms: plain torch's ways to compute the same, by name, called with the same arguments.
        peers: by package name, a function that imports it and returns a function of the same arguments. Raises
            ImportError where the package is missing.
    """

    op: str
    shape: str
    dtype: str
    inputs: Callable[[torch.device], Sequence[Any]]
    function: Function
    bytes_forward: int
    bytes_both: int
    flops_forward: float = 0.0
    flops_both: float = 0.0
    forms: dict[str, Function] = field(default_factory=dict)
    peers: dict[str, Callable[[], Function]] = field(default_factory=dict)


def cases(ops: Sequence[str]) -> list[Case]:
    """Return the cases of some operations, in order."""
    found = []
    for op in ops:
        name = f"audiossm.kernels.bench_cases_{op}"
        if importlib.util.find_spec(name):
            found += importlib.import_module(name).cases()
    return found


def tensors(outputs: Any) -> list[Tensor]:
    """Return what can be differentiated of a function's outputs."""
    outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
    return [y for y in outputs if isinstance(y, Tensor) and y.requires_grad]


def runs(function: Function, inputs: Sequence[Any]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return two calls: the forward, and forward with backward from a random gradient of every output."""
    wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    grads = [torch.randn_like(y) for y in tensors(function(*inputs))]

    def forward() -> Any:
        with torch.no_grad():
            return function(*inputs)

    def both() -> Any:
        return torch.autograd.grad(tensors(function(*inputs)), wanted, grads, allow_unused=True)

    return forward, both


def times(function: Function, inputs: Sequence[Any], clock: Clock) -> tuple[float, float]:
    """Return milliseconds of the forward and of forward and backward."""
    forward, both = runs(function, inputs)
    return clock(forward), clock(both)


def peak_mib(call: Callable[[], object]) -> float | None:
    """Return the memory that a call needs above what is held before it, in MiB."""
    if not torch.cuda.is_available():
        return None
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return (torch.cuda.max_memory_allocated() - held) / 2**20


def gpu_clock(call: Callable[[], object]) -> float:
    """Return the median of many runs, L2 cleared before each."""
    import triton.testing

    return triton.testing.do_bench(call, return_mode="median")


def graph_clock(call: Callable[[], object]) -> float:
    """Return the same of a replayed CUDA graph, so that small kernels do not wait for Python."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return gpu_clock(graph.replay)


def copy_rate(device: torch.device, clock: Clock) -> float:
    """Return the bytes a millisecond, read and written, that a copy moves."""
    source = torch.randn(COPIED // 8, device=device)
    target = torch.empty_like(source)
    return COPIED / clock(lambda: target.copy_(source))


def measure(case: Case, device: torch.device, clock: Clock, rate: float) -> dict[str, Any]:
    """Return a case's line: our times, the floor's, those of torch's forms and of the peers, and why one is missing."""
    inputs = case.inputs(device)
    forward, both = times(case.function, inputs, clock)
    others: dict[str, dict[str, Any]] = {"torch": {}, "peers": {}}
    left_out: dict[str, str] = {}
    loaders: list[tuple[str, str, Callable[[], Function]]]
    loaders = [("torch", name, partial(lambda form: form, form)) for name, form in case.forms.items()]
    loaders += [("peers", name, load) for name, load in case.peers.items()]
    for kind, name, load in loaders:
        try:
            others[kind][name] = times(load(), inputs, clock)
        except Exception as problem:  # out of memory, a peer that is missing or refuses a shape: the others still count
            left_out[name] = " ".join(f"{type(problem).__name__}: {problem}".split())[:160]
        if device.type == "cuda":
            torch.cuda.empty_cache()
    torch.compiler.reset()  # or the compiler gives up on the next shapes
    return {
        "op": case.op,
        "shape": case.shape,
        "dtype": case.dtype,
        "forward_ms": forward,
        "both_ms": both,
        "floor_forward_ms": case.bytes_forward / rate,
        "floor_both_ms": case.bytes_both / rate,
        "gb_per_s": case.bytes_forward / forward / 1e6,
        "tflop_per_s": case.flops_forward / forward / 1e9,
        "both_peak_mib": peak_mib(runs(case.function, inputs)[1]),
        **others,
        "left_out": left_out,
    }


def machine(rate: float) -> dict[str, str]:
    """Return where and when this was measured."""
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    versions = {"torch": str(torch.__version__)}
    for name in ("triton", "mamba_ssm", "causal_conv1d", "accelerated_scan", "fla"):
        try:
            versions[name] = getattr(importlib.import_module(name), "__version__", "no version")
        except Exception:  # a peer may fail in any way while it is imported
            continue
    return {
        "machine": f"{gpu.name}, {gpu.multi_processor_count} SMs"
        if gpu
        else platform.processor() or platform.machine(),
        "copy": f"{rate / 1e9:.2f} TB/s",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "products": f"float32 matrix products: {torch.get_float32_matmul_precision()}",
        "date": datetime.date.today().isoformat(),
    }


def pair(forward: float, both: float, digits: int = 3) -> str:
    """Write forward and forward with backward."""
    return f"{forward:.{digits}f} / {both:.{digits}f}"


def ratios(line: dict[str, Any], others: dict[str, Sequence[float]]) -> str:
    """Write how many times the time of each other we take: under 1 is faster than it."""
    return "\n".join(
        f"{name} {pair(line['forward_ms'] / forward, line['both_ms'] / both, 2)}"
        for name, (forward, both) in others.items()
    )


def print_table(about: dict[str, str], lines: Sequence[dict[str, Any]]) -> None:
    """Print the lines for people; each cell is forward / forward and backward."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 180)
    table = Table(
        title=", ".join(about.values()), caption="forward / forward and backward; ratios under 1: we are faster"
    )
    for name in (
        "operation",
        "shape",
        "dtype",
        "ms",
        "GB/s",
        "of the floor",
        "of torch's best",
        "of a peer",
        "peak MiB",
    ):
        table.add_column(name, justify="left" if name in ("operation", "shape") else "right")
    for line in lines:
        best = dict(sorted(line["torch"].items(), key=lambda item: item[1][1])[:1])
        table.add_row(
            line["op"],
            line["shape"],
            line["dtype"],
            pair(line["forward_ms"], line["both_ms"]),
            f"{line['gb_per_s']:.0f}",
            pair(line["forward_ms"] / line["floor_forward_ms"], line["both_ms"] / line["floor_both_ms"], 2),
            ratios(line, best),
            ratios(line, line["peers"]),
            "" if line["both_peak_mib"] is None else f"{line['both_peak_mib']:.0f}",
        )
    console.print(table)
    for problem in sorted({f"{name}: {why}" for line in lines for name, why in line["left_out"].items()}):
        console.print(f"left out: {problem}", markup=False)


def deviation(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest relative L2 difference of two lists of gradients; infinite where one is not finite."""
    pairs = ((f.double(), e.double()) for f, e in zip(found, expected, strict=True) if e is not None)
    ratios = [((f - e).norm() / e.norm().clamp(min=1e-30)).item() for f, e in pairs]
    return max(ratio if ratio == ratio else float("inf") for ratio in ratios)


def tune(case: Case, device: torch.device, clock: Clock) -> None:
    """Time each candidate of each kernel of an operation, one kernel after another, and print the fastest.

    The operation's GPU module has `CONFIGS`, the constants of each kernel by its name, and `candidates()`, what else
    they could be. The table in the source stays as it is: what wins is to be written there.
    """
    name = f"audiossm.kernels.gpu.{case.op}"
    if not importlib.util.find_spec(name):
        print(f"{case.op} is plain torch: nothing to tune")
        return
    module = importlib.import_module(name)
    inputs = case.inputs(device)
    forward, both = runs(case.function, inputs)
    expected = both()
    for kernel, choices in module.candidates().items():
        before, found = dict(module.CONFIGS[kernel]), []
        for choice in choices:
            module.CONFIGS[kernel].update(choice)
            try:
                if deviation(both(), expected) > TOLERATED:
                    raise ArithmeticError("other gradients than before")  # Hopper miscompiles some tile shapes
                found.append((clock(both), clock(forward), choice))
            except Exception as problem:  # too much shared memory, too many registers
                print(f"{case.op} {kernel} {choice}: {type(problem).__name__} {problem}", flush=True)
            module.CONFIGS[kernel] = dict(before)
        for both_ms, forward_ms, choice in sorted(found, key=lambda line: line[0])[:5]:
            print(f"{case.op} {case.shape} {kernel}: {pair(forward_ms, both_ms)} ms {choice}", flush=True)
        if found:
            module.CONFIGS[kernel].update(min(found, key=lambda line: line[0])[2])


def print_kernels(case: Case, device: torch.device, calls: int = 5) -> None:
    """Print the mean milliseconds that each GPU kernel of forward and backward takes a call."""
    _, both = runs(case.function, case.inputs(device))
    both()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(calls):
            both()
        torch.cuda.synchronize()
    for event in sorted(profile.key_averages(), key=lambda event: -event.device_time_total):
        took = event.device_time_total / calls / 1e3
        print(f"{case.op} {case.shape} {case.dtype}: {took:.3f} ms, {event.count / calls:g} of {event.key[:80]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for and print it."""
    parser = argparse.ArgumentParser(
        prog="python -m audiossm.kernels.bench",
        description="Measure the kernels on this GPU beside torch, peers that can be imported and the memory's floor.",
        epilog="Example: python -m audiossm.kernels.bench ssd causal_conv1d --json",
    )
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"operations: {', '.join(OPS)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line: the machine, then each case")
    parser.add_argument("--tf32", action="store_true", help="let products of float32 matrices be TF32's")
    parser.add_argument("--graph", action="store_true", help="time replays of CUDA graphs, without Python's share")
    parser.add_argument("--alone", action="store_true", help="leave out torch's forms and the peers")
    parser.add_argument("--first", action="store_true", help="only the first case of each operation")
    parser.add_argument("--tune", action="store_true", help="time the block sizes of each kernel instead")
    parser.add_argument("--kernels", action="store_true", help="time each GPU kernel that a call launches instead")
    asked = parser.parse_args(arguments)
    unknown = sorted(set(asked.ops) - set(OPS))
    if unknown:
        parser.error(f"no operation {', '.join(unknown)}: there are {', '.join(OPS)}")
    if not torch.cuda.is_available():
        print("The bench measures GPU kernels, and torch sees no GPU here.", file=sys.stderr)
        return 1
    if asked.tf32:
        torch.set_float32_matmul_precision("high")
    device, clock = torch.device("cuda"), graph_clock if asked.graph else gpu_clock
    rate = statistics.median(copy_rate(device, gpu_clock) for _ in range(3))
    chosen = cases(asked.ops or OPS)
    if asked.first:
        chosen = list({case.op: case for case in reversed(chosen)}.values())[::-1]
    if asked.json and not (asked.tune or asked.kernels):
        print(json.dumps(machine(rate)), flush=True)
    lines = []
    for case in chosen:
        if asked.tune:
            tune(case, device, clock)
            continue
        if asked.kernels:
            print_kernels(case, device)
            continue
        if asked.alone:
            case.forms.clear()
            case.peers.clear()
        lines.append(measure(case, device, clock, rate))
        if asked.json:
            print(json.dumps(lines[-1]), flush=True)
        print(f"measured {case.op} {case.shape} {case.dtype}", file=sys.stderr)
        torch.cuda.empty_cache()
    if lines and not asked.json:
        print_table(machine(rate), lines)
    return 0


if __name__ == "__main__":
    from audiossm.kernels.bench import main as run  # under its own name, so that the cases' `Case` is this one

    sys.exit(run())

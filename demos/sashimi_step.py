"""What SaShiMi of the published size takes on this GPU: a training step, without optimizer, and a sample.

    python demos/sashimi_step.py [--batch 8] [--length 16000] [--bf16] [--no-tf32] [--profile]
    python demos/sashimi_step.py --sample

Prints milliseconds (median) and the peak of memory of a forward with backward: launched one by one, and as a CUDA
graph; with our kernels, and in plain torch (its chunked form). --profile lists the dearest kernels. With --sample it
prints samples a second of `audiossm.training.sampler`, alone and in batches.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from audiossm.kernels import dispatch
from audiossm.kernels.bench import Clock, gpu_clock, graph_clock
from audiossm.tasks import GenerationConfig, GenerationModel
from audiossm.training.sampler import sample


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=16000)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--no-tf32", action="store_true", help="float32 matrix products as they are")
    parser.add_argument("--sample", action="store_true", help="measure sampling, not training")
    parser.add_argument("--profile", action="store_true", help="list the dearest kernels")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("it measures a GPU, and there is none here")
    torch.set_float32_matmul_precision("highest" if asked.no_tf32 else "high")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, B{asked.batch} L{asked.length}", flush=True)
    torch.manual_seed(0)
    model = GenerationModel(GenerationConfig(rate=16000)).cuda()
    codes = torch.randint(model.coding.codes, (asked.batch, asked.length), device="cuda")
    if asked.sample:
        for batch in (1, 128, 16, 512):
            report_rate(model.eval(), batch, asked.profile)
        return

    def step() -> torch.Tensor:
        for parameter in model.parameters():
            parameter.grad = None
        with torch.autocast("cuda", torch.bfloat16) if asked.bf16 else nullcontext():
            loss = model.bits(model(codes)[0], codes).mean()
        loss.backward()
        return loss

    report("ours, eager", step, gpu_clock)
    report("ours, graph", step, graph_clock)
    if asked.profile:
        profile(step)
    installed, dispatch.INSTALLED = dispatch.INSTALLED, False
    report("torch, graph", step, graph_clock)
    dispatch.INSTALLED = installed


def report(name: str, step: Callable[[], object], clock: Clock) -> None:
    """Print the median time of a step and the most memory it takes."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    ms = clock(step)
    print(f"{name:16} {ms:8.2f} ms   {torch.cuda.max_memory_reserved() / 2**30:6.2f} GiB", flush=True)


def report_rate(model: GenerationModel, batch: int, kernels: bool, pieces: int = 200) -> None:
    """Print how many samples a second are drawn, once the graph is recorded, and what a piece of 16 launches."""
    drawn = sample(model, batch, 16 * (pieces + 3), top_p=0.95)
    next(drawn)
    if kernels:
        profile(lambda: next(drawn))
    torch.cuda.synchronize()
    begin = time.perf_counter()
    samples = sum(piece.shape[1] for piece in drawn)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    took = f"{1e6 * seconds / samples:7.1f} us a step"
    print(f"B{batch:<4} {batch * samples / seconds:12,.0f} samples/s   {took}", flush=True)


def profile(step: Callable[[], object]) -> None:
    """Print the kernels that take the most time of a step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
    kernels = sorted(found.key_averages(), key=lambda k: -k.device_time_total)
    print(f"    {sum(k.device_time_total for k in kernels) / 1000:.2f} ms in all")
    for kernel in kernels[:24]:
        print(f"    {kernel.device_time_total / 1000:7.2f} ms {kernel.count:5} x {kernel.key[:90]}", flush=True)


if __name__ == "__main__":
    main()

"""What a training step of a keyword model takes here: forward and backward of a batch of clips, no optimizer.

    python demos/training_step.py [RECIPE] [--mixers s4d,mamba,gru] [--width 128] [--layers 4]

Prints milliseconds, medians: as training runs it on one GPU, recorded as a CUDA graph, with our kernels and with
torch's own forms in their place; and the peak of memory. On a CPU it runs once, as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import median
from time import perf_counter
from typing import Annotated

import torch
import typer
from torch import Tensor

from audiossm.kernels import dispatch
from audiossm.tasks import KeywordConfig, KeywordModel
from audiossm.training.graphed import record
from audiossm.training.module import CLIPS, KeywordTraining
from audiossm.training.options import TrainOptions
from audiossm.training.recipes import load_recipe

WORDS = tuple(f"word{i}" for i in range(19))


def main(
    recipe: Annotated[str, typer.Argument()] = "base",
    mixers: Annotated[str | None, typer.Option(help="Names, separated by commas; the recipe's own by default.")] = None,
    width: int | None = None,
    layers: int | None = None,
    d_state: int | None = None,
) -> None:
    """Measure what was asked for."""
    torch.set_float32_matmul_precision("high")  # as training does
    print(torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU", "torch", torch.__version__)
    for mixer in mixers.split(",") if mixers else [""]:
        chosen = load_recipe(recipe).with_layers(mixer, layers) if mixer else load_recipe(recipe)
        chosen = chosen.changed({"labels": WORDS, "d_model": width, "d_state": d_state}, {})
        for kernels in (True, False) if torch.cuda.is_available() else (False,):
            with triton(kernels):
                ms, mib = step_ms(chosen.config, chosen.options)
            kind = "our kernels" if kernels else "torch's forms"
            print(f"{mixer or recipe:12} {kind:14} {ms:8.2f} ms {mib:8.0f} MiB", flush=True)


@contextmanager
def triton(wanted: bool) -> Iterator[None]:
    """Leave out the Triton kernels unless they are wanted."""
    before, dispatch.INSTALLED = dispatch.INSTALLED, dispatch.INSTALLED and wanted
    yield
    dispatch.INSTALLED = before


def step_ms(config: KeywordConfig, options: TrainOptions, repeats: int = 20) -> tuple[float, float]:
    """Return the median milliseconds of a step and the MiB of GPU memory that it needs at most."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    training = KeywordTraining(KeywordModel(config), replace(options, stream_share=0.0)).to(device).train()
    audio = torch.randn(options.batch, config.rate, device=device) / 10
    key = (config.rate, CLIPS)
    hear: Callable[[Tensor], tuple] = partial(training.hear, rate=config.rate, how=CLIPS)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        hear = record(training.model, training.hear, [(key, (audio,))])[key]
    times, unheard = [], 3 if device == "cuda" else 0  # until clocks and caches have settled
    for _ in range(unheard + (repeats if device == "cuda" else 1)):
        finish()
        begun = perf_counter()
        hear(audio)[0].square().mean().backward()
        finish()
        times.append(1e3 * (perf_counter() - begun))
    return median(times[unheard:]), torch.cuda.max_memory_reserved() / 2**20 if device == "cuda" else 0.0


def finish() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    typer.run(main)

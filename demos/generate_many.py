"""Many clips from a trained generation model: from its run folder at once on a GPU, from its file one by one on a CPU.

    python demos/generate_many.py RUN OUT [--count 20] [--seconds 1] [--top-p 0.95] [--best-of 1] [--seed 0]
    python demos/generate_many.py digits OUT          # or a file of `audiossm export`

RUN is the folder of `audiossm train generate`. Writes OUT/CLASS/0000.wav ..., or OUT/0000.wav where the model has no
classes: `audiossm evaluate` can hear them with a keyword model. With --best-of n, the likeliest of n each.
"""

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
import soundfile
import torch
import typer

from audiossm.streaming.generation import load_generator
from audiossm.tasks.checkpoint import load_model
from audiossm.tasks.generation import GenerationModel
from audiossm.training.sampler import log_likelihood, sample_all

Made = tuple[str, np.ndarray, int]  # a class, "" if the model has none; audio (n,); its rate in Hz


def main(
    run: Path,
    out: Path,
    count: Annotated[int, typer.Option(min=1, help="Clips of each class.")] = 20,
    seconds: Annotated[float, typer.Option(min=0.01)] = 1.0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    best_of: Annotated[int, typer.Option(min=1, help="Draw so many for each clip and keep the likeliest.")] = 1,
    seed: int = 0,
) -> None:
    """Generate and write."""
    begin, chosen = perf_counter(), {"temperature": temperature, "top_p": top_p}
    made = (of_run if run.is_dir() else of_file)(run, count, seconds, best_of, seed, chosen)
    try:
        for i, (name, clip, rate) in enumerate(made):
            (out / name).mkdir(parents=True, exist_ok=True)
            soundfile.write(out / name / f"{i % count:04}.wav", clip, rate, subtype="PCM_16")
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    took = perf_counter() - begin
    print(f"{i + 1} clips of {seconds:g} s in {took:.1f} s: {(i + 1) * seconds / took:.2f} times real time")


def of_run(run: Path, count: int, seconds: float, best_of: int, seed: int, chosen: dict[str, float]) -> Iterator[Made]:
    """Draw all clips at once: a GPU takes them as fast as one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(run, GenerationModel)[0].to(device)
    names = model.config.classes or ("",)
    rows = len(names) * count * best_of
    label = torch.arange(len(names), device=device).repeat_interleave(count * best_of) if model.config.classes else None
    codes = sample_all(model, rows, round(seconds * model.config.rate), label=label, seed=seed, **chosen)
    if best_of > 1:
        each = [log_likelihood(model, *part) for part in zip(codes.split(8), split(label, codes), strict=True)]
        best = torch.cat(each).view(-1, best_of).argmax(1)
        codes = codes.view(-1, best_of, codes.shape[1])[torch.arange(len(best), device=device), best]
    for i, clip in enumerate(model.coding.decode(codes).cpu().numpy()):
        yield names[i // count], clip, model.config.rate


def of_file(
    file: Path, count: int, seconds: float, best_of: int, seed: int, chosen: dict[str, float]
) -> Iterator[Made]:
    """Draw each clip by itself, from a seed of its own: the file on a CPU."""
    model = load_generator(file)
    names = model.facts.classes or ("",)
    for i in range(len(names) * count):
        name = names[i // count]
        sampler = model.sampler(seed + i, label=name or None, batch=best_of, **chosen)
        clips = sampler.audio(round(seconds * model.facts.rate))
        yield name, clips[sampler.bits.argmin()], model.facts.rate


def split(label: torch.Tensor | None, codes: torch.Tensor) -> tuple:
    """Return the labels of each part of eight rows."""
    return label.split(8) if label is not None else (None,) * len(codes.split(8))


if __name__ == "__main__":
    typer.run(main)

"""Many clips at once from a trained generation model, on a GPU where there is one, no export needed.

    python demos/generate_many.py RUN OUT [--count 20] [--seconds 1] [--top-p 0.95] [--best-of 1] [--seed 0]

RUN is the folder of `audiossm train generate`. Writes OUT/CLASS/0000.wav ..., or OUT/0000.wav where the model has no
classes: `audiossm evaluate` can hear them with a keyword model. With --best-of n, the likeliest of n each.
"""

from pathlib import Path
from time import perf_counter
from typing import Annotated

import soundfile
import torch
import typer

from audiossm.tasks.checkpoint import load_model
from audiossm.tasks.generation import GenerationModel
from audiossm.training.sampler import log_likelihood, sample_all


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
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model, _ = load_model(run, GenerationModel)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None
    model.to(device)
    rate, begin = model.config.rate, perf_counter()
    names = model.config.classes or ("",)
    rows = len(names) * count * best_of
    label = torch.arange(len(names), device=device).repeat_interleave(count * best_of) if model.config.classes else None
    chosen = {"temperature": temperature, "top_p": top_p, "seed": seed}
    codes = sample_all(model, rows, round(seconds * rate), label=label, **chosen)  # a GPU takes all at once as fast
    if best_of > 1:
        each = [log_likelihood(model, *part) for part in zip(codes.split(8), split(label, codes), strict=True)]
        best = torch.cat(each).view(-1, best_of).argmax(1)
        codes = codes.view(-1, best_of, codes.shape[1])[torch.arange(len(best), device=device), best]
    for i, clip in enumerate(model.coding.decode(codes).cpu().numpy()):
        folder = out / names[i // count]
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{i % count:04}.wav", clip, rate, subtype="PCM_16")
    made = count * len(names)
    took = perf_counter() - begin
    print(f"{made} clips of {seconds:g} s in {took:.1f} s on {device}: {made * seconds / took:.2f} times real time")


def split(label: torch.Tensor | None, codes: torch.Tensor) -> tuple:
    """Return the labels of each part of eight rows."""
    return label.split(8) if label is not None else (None,) * len(codes.split(8))


if __name__ == "__main__":
    typer.run(main)

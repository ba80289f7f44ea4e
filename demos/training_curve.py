"""One keyword training twice, with our kernels and with torch's forms in their place: the same curve in less time.

    python demos/training_curve.py DATA OUT [--mixer mamba] [--epochs 10]

Trains the same model on the same clips with the same seed, OUT/kernels and OUT/torch, and prints the time of a step,
the most GPU memory and the losses of both. Writes OUT/curve.json and OUT/curve.png. What is there is not trained again.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import typer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_step import triton  # beside this file

from audiossm.training import train_keywords
from audiossm.training.recipes import load_recipe

SMOOTHED = 20  # steps that a point of the picture is the mean of, at most


def main(
    data: Path,
    out: Path,
    mixer: Annotated[str, typer.Option(help="The mixer of the layers.")] = "mamba",
    layers: int = 4,
    width: int = 96,
    epochs: int = 10,
    lr: float = 0.0015,
) -> None:
    """Train what is not there yet, and compare."""
    recipe = load_recipe("base").with_layers(mixer, layers)
    recipe = recipe.changed({"d_model": width}, {"epochs": epochs, "lr": lr})
    runs: dict[str, dict[str, Any]] = {}
    for name in ("kernels", "torch"):
        told = out / f"{name}.json"
        if not told.exists():
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # what the training before has left would count
                torch.cuda.reset_peak_memory_stats()
            run, goes_on = out / name, (out / name / "last.ckpt").exists()
            try:
                with triton(name == "kernels"):
                    train_keywords(data, run, recipe.config, recipe.options, goes_on, devices="1", progress=False)
            except (ValueError, OSError) as problem:
                raise typer.BadParameter(str(problem)) from problem
            told.write_text(json.dumps(facts(run)))
        runs[name] = json.loads(told.read_text())
        print(f"{name:8} {runs[name]['step_ms']:.1f} ms a step, {runs[name]['memory_mib']:.0f} MiB", flush=True)
    compare(runs)
    (out / "curve.json").write_text(json.dumps({"mixer": mixer, "width": width, **runs}))
    draw(runs, out / "curve.png")


def facts(run: Path) -> dict[str, Any]:
    """Return what a training took and how its loss and its validation went."""
    gpu = torch.cuda.is_available()
    events = EventAccumulator(str(run / "logs"), {"scalars": 0})
    events.Reload()
    if "train_loss" not in events.Tags()["scalars"]:
        raise typer.BadParameter("the training was too short to have a curve: give more --epochs")
    return {
        "device": torch.cuda.get_device_name() if gpu else "CPU",
        "step_ms": json.loads((run / "model.json").read_text())["training"]["step_ms"],
        "memory_mib": torch.cuda.max_memory_reserved() / 2**20 if gpu else 0.0,
        **{name: [(e.step, e.value) for e in events.Scalars(name)] for name in ("train_loss", "val_accuracy")},
    }


def compare(runs: dict[str, dict[str, Any]]) -> None:
    """Print the mean loss of each quarter of the training, and the last accuracy on validation."""
    for name, run in runs.items():
        losses = [value for _, value in run["train_loss"]]
        each = max(1, len(losses) // 4)
        quarters = [sum(part) / len(part) for part in (losses[i : i + each] for i in range(0, 4 * each, each)) if part]
        means = ", ".join(f"{mean:.3f}" for mean in quarters)
        print(f"{name:8} loss by quarter {means}; {100 * run['val_accuracy'][-1][1]:.2f} % of the validation clips")


def draw(runs: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw the losses, of both in one picture."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, run in runs.items():
        steps, losses = zip(*run["train_loss"], strict=True)
        each = max(1, min(SMOOTHED, len(losses) // 20))
        means = [sum(losses[i : i + each]) / each for i in range(0, len(losses) - each + 1, each)]
        axes.plot(steps[each - 1 :: each], means, label=f"{name}: {run['step_ms']:.1f} ms a step")
    axes.set(xlabel="step", ylabel="loss in training", yscale="log")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    typer.run(main)

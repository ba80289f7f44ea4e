"""Byte models of audio at three sizes: SaShiMi, WaveNet's convolutions and a GRU, with equal parameters and equal time.

    python demos/compare_generation.py DATA OUT [--minutes 5] [--rates 0.0005,0.001,0.002,0.004] [--at-once 4]

A cell is a model of a size with a learning rate, a run folder in OUT, trained by the clock. The learning rate with the
fewest bits on validation is evaluated on the test split. What is there is not made again and a training that was
stopped goes on, so that the command can be given until the table is complete. With `--at-once` a model's learning rates
share the machine, as those of every other model do; models never train beside one another. Writes OUT/table.md and
OUT/table.json.
"""

import json
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from compare_mixers import audiossm, kept

from audiossm.tasks import GenerationModel, parameter_count
from audiossm.training.recipes import load_recipe

COLUMNS = {
    "params": "parameters",
    "bits": "bits a sample",
    "ci95": "95 % interval",
    "behind": "recordings with more than SaShiMi's",
    "lr": "learning rate",
    "val_bits": "validation, each rate",
    "step_ms": "ms a training step",
    "epochs": "epochs",
}


@dataclass(frozen=True)
class Kind:
    """A model and the options of `audiossm train generate` that build it, but for its width."""

    name: str
    recipe: str
    layers: int
    mixer: str | None = None

    def arguments(self, width: int) -> list[object]:
        """Return the options."""
        mixer = ["--mixer", self.mixer] if self.mixer else []
        return ["--recipe", self.recipe, *mixer, "--layers", self.layers, "--width", width]

    def params(self, width: int) -> int:
        """Return the parameters at a width."""
        recipe = load_recipe(self.recipe, "generation")
        recipe = recipe.with_layers(self.mixer, self.layers) if self.mixer else recipe
        sizes = {"rate": 16000, "d_model": width, "layers": self.layers}
        with torch.device("meta"):
            return parameter_count(GenerationModel(recipe.changed(sizes, {}).config))


WAVENET, GRU = Kind("wavenet", "stack", 3, "tcn"), Kind("gru", "stack", 2, "gru")
SIZES = {"small": (Kind("sashimi", "sashimi", 4), 32), "middle": (Kind("sashimi", "sashimi", 4), 64)}
SIZES |= {"published": (Kind("sashimi", "sashimi", 8), 64)}


def main(
    data: Path,
    out: Path,
    minutes: Annotated[float, typer.Option(help="Of training that each cell gets.")] = 5.0,
    rates: Annotated[str, typer.Option(help="Learning rates to choose from.")] = "0.0005,0.001,0.002,0.004",
    window: Annotated[float, typer.Option(help="Seconds that a step hears.")] = 1.0,
    batch: int = 8,
    speed: Annotated[float, typer.Option(help="Share by which a step hears faster or slower, for small data.")] = 0.0,
    at_once: Annotated[int, typer.Option(help="Learning rates of a model that train at the same time.")] = 1,
    sizes: Annotated[str, typer.Option(help="Which of them.")] = ",".join(SIZES),
    rate: Annotated[int | None, typer.Option(help="Hz to which all is resampled; the recordings' own.")] = None,
    where: Annotated[list[str] | None, typer.Option(help="Rows of the manifest, as column=value.")] = None,
) -> None:
    """Fill the table's cells and write it."""
    if unknown := set(sizes.split(",")) - set(SIZES):
        raise ValueError(f"there is no size {', '.join(sorted(unknown))}; there are {', '.join(SIZES)}")
    chosen = [part for row in where or () for part in ("--where", row)]
    shared = ["--data", data, "--minutes", minutes, "--batch", batch, "--window", window, "--speed", speed]
    shared += [*chosen, *(["--rate", rate] if rate else []), "--no-progress"]
    rows: dict[str, dict[str, Any]] = {}
    out.mkdir(parents=True, exist_ok=True)
    best: dict[str, Path] = {}  # each model's run
    for size in sizes.split(","):
        for kind, width in models(*SIZES[size]):
            name, how = f"{kind.name}-{size}", [*kind.arguments(width), *shared]
            runs = {lr: out / f"{name}-{lr}" for lr in rates.split(",")}
            with ThreadPoolExecutor(at_once) as pool:
                trainings = pool.map(train, runs.values(), [[*how, "--lr", lr] for lr in runs])
                trained = dict(zip(runs, trainings, strict=True))
            told = {lr: training["val_bits"] for lr, training in trained.items()}
            lr = min(told, key=lambda lr: told[lr])
            rows[name] = {"params": kind.params(width), "lr": lr, "val_bits": told}
            rows[name] |= {key: trained[lr][key] for key in ("step_ms", "epochs")}
            best[name] = runs[lr]
            print(f"{name}: {told[lr]:.3f} bits on validation", flush=True)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda run: kept(run / "bits.json", "evaluate", run, "--data", data, *chosen), best.values()))
    reports = {name: json.loads((run / "bits.json").read_text()) for name, run in best.items()}
    for name, report in reports.items():
        ours = reports[f"sashimi-{name.rsplit('-', 1)[1]}"]["clips"].values()  # in one order, wherever they lay
        more = sum(bits > least for bits, least in zip(report["clips"].values(), ours, strict=True))
        rows[name] |= {"bits": report["bits"], "ci95": report["ci95"], "behind": f"{more} of {len(ours)}"}
    (out / "table.json").write_text(json.dumps(rows, indent=1))
    (out / "table.md").write_text(table(rows))
    print(table(rows))


def models(sashimi: Kind, width: int) -> list[tuple[Kind, int]]:
    """Return SaShiMi of a width and its rivals of as many parameters, with theirs."""
    return [(sashimi, width), *((kind, nearest(kind, sashimi.params(width))) for kind in (WAVENET, GRU))]


def nearest(kind: Kind, params: int) -> int:
    """Return the width, a multiple of 8, whose model has nearest to so many parameters."""
    widths = range(8, 1032, 8)
    above = min(max(1, bisect_left(widths, params, key=kind.params)), len(widths) - 1)
    return min(widths[above - 1 : above + 1], key=lambda width: abs(kind.params(width) - params))


def train(run: Path, how: list[object]) -> dict[str, Any]:
    """Train a cell unless that is done; return the summary of its training."""
    if not (run / "model.json").exists():
        resume = ["--resume"] if (run / "last.ckpt").exists() else []
        audiossm("train", "generate", "--out", run, *how, *resume)
    return json.loads((run / "model.json").read_text())["training"]


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = ["| model | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, facts in rows.items():
        shown = dict(facts)
        shown["bits"], shown["ci95"] = f"{facts['bits']:.3f}", "{:.3f} to {:.3f}".format(*facts["ci95"])
        shown["val_bits"] = ", ".join(f"{lr}: {bits:.3f}" for lr, bits in facts["val_bits"].items())
        lines.append(f"| {name} | " + " | ".join(str(shown[key]) for key in COLUMNS) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        typer.run(main)
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(str(error)) from None

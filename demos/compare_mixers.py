"""Every mixer on the same words: equal parameters, equal epochs, several seeds, one table.

    python demos/compare_mixers.py DATA OUT [--mixers s4d,mamba2,gru] [--epochs 30] [--seeds 3] [--at-once 4]

Each cell, a mixer with a seed, is a run folder in OUT. What is there is not made again and a training that was stopped
goes on, so that the command can be given until the table is complete. `--at-once` trainings share the GPU or the cores;
the cost of a frame is measured after them, with nothing else running. Writes OUT/table.md, OUT/table.json and
OUT/table.png (accuracy against cost).
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import typer

from audiossm.data import find_clips
from audiossm.mixers.catalog import known_mixers
from audiossm.tasks import KeywordConfig, KeywordModel, parameter_count
from audiossm.training.recipes import load_recipe

RATES = ("16000", "8000", "48000")
COLUMNS = {
    "params": "parameters",
    "accuracy": "16 kHz, %",
    "seeds": "the seeds",
    "at_8000": "8 kHz, %",
    "at_48000": "48 kHz, %",
    "missed": "missed at 0.5 false alarms an hour, %",
    "step_ms": "ms a training step",
    "frame_us": "us a frame",
    "state_bytes": "state, bytes",
}


def main(
    data: Path,
    out: Path,
    mixers: Annotated[str | None, typer.Option(help="Names, separated by commas; all that stream by default.")] = None,
    params: Annotated[int, typer.Option(help="Parameters that each model has, nearly.")] = 200_000,
    layers: int = 4,
    epochs: int = 30,
    seeds: int = 3,
    at_once: Annotated[int, typer.Option(help="Trainings that run at the same time.")] = 1,
    noise: list[Path] | None = None,
    speech: list[Path] | None = None,
) -> None:
    """Fill the table's cells and write it."""
    names = mixers.split(",") if mixers else [name for name, mixer in known_mixers().items() if mixer.streamable]
    labels = tuple(sorted({clip.label for clip in find_clips(data)}))
    widths = {name: width(name, labels, layers, params) for name in names}
    beds = [part for folder in noise or () for part in ("--noise", folder)]
    beds += [part for folder in speech or () for part in ("--speech", folder)]

    def train(cell: tuple[str, int]) -> None:
        name, seed = cell
        run = out / f"{name}-{seed}"
        if not (run / "model.safetensors").exists():
            size = ["--mixer", name, "--width", widths[name], "--layers", layers, "--epochs", epochs, "--seed", seed]
            resume = ["--resume"] if (run / "last.ckpt").exists() else []
            audiossm("train", "keywords", "--data", data, "--out", run, *size, *beds, *resume, "--no-progress")
        kept(run / "accuracy.json", "evaluate", run, "--data", data, "--rates", ",".join(RATES))
        kept(run / "streams.json", "evaluate", run, "--data", data, "--stream", *beds)
        print(f"{name}, seed {seed}: done", flush=True)

    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(train, [(name, seed) for seed in range(seeds) for name in names]))
    for name in names:
        run = out / f"{name}-0"
        if not (run / "model.onnx").exists():
            audiossm("export", run, "--out", run / "model.onnx")
        kept(run / "bench.json", "bench", run / "model.onnx", "--seconds", "20")
    rows = {name: row([out / f"{name}-{seed}" for seed in range(seeds)]) for name in names}
    rows = dict(sorted(rows.items(), key=lambda item: -item[1]["accuracy"]))
    (out / "table.json").write_text(json.dumps(rows, indent=1))
    (out / "table.md").write_text(table(rows))
    draw(rows, out / "table.png")
    print(table(rows))


def width(name: str, labels: tuple[str, ...], layers: int, params: int) -> int:
    """Return the width, a multiple of 8, whose model has nearest to so many parameters."""

    def size(d_model: int) -> int:
        config = load_recipe("base").with_layers(name, layers).config
        sizes: dict[str, Any] = {**vars(config), "labels": labels, "d_model": d_model}
        return parameter_count(KeywordModel(KeywordConfig(**sizes)))

    return min(range(8, 264, 8), key=lambda d_model: abs(size(d_model) - params))


def audiossm(*arguments: object) -> str:
    """Run the program, with a process to each thread so that several share the cores, and return what it prints."""
    command = [sys.executable, "-m", "audiossm", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{' '.join(command[2:])}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def kept(file: Path, *arguments: object) -> None:
    """Keep the JSON that a command prints, unless it is there."""
    if not file.exists():
        beside = file.with_suffix(".part")
        beside.write_text(audiossm(*arguments, "--json"))
        beside.replace(file)


def row(runs: Sequence[Path]) -> dict[str, Any]:
    """Return a mixer's line: means over the seeds, and the first one's cost."""
    accuracy = [json.loads((run / "accuracy.json").read_text())["rates"] for run in runs]
    streams = [json.loads((run / "streams.json").read_text())["rates"]["16000"]["at"] for run in runs]
    training = [json.loads((run / "model.json").read_text())["training"] for run in runs]
    cost = json.loads((runs[0] / "bench.json").read_text())
    at = {rate: mean(rates[rate]["accuracy"] for rates in accuracy) for rate in RATES}
    return {
        "params": cost["params"],
        "accuracy": at["16000"],
        "seeds": ", ".join(f"{rates['16000']['accuracy']:.1f}" for rates in accuracy),
        "at_8000": at["8000"],
        "at_48000": at["48000"],
        "missed": mean(point["miss_rate"] if point else 100.0 for point in streams),
        "step_ms": mean(1000 * facts["seconds"] / facts["steps"] for facts in training),
        "frame_us": cost["frame_us_p50"],
        "state_bytes": cost["state_bytes"],
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = ["| mixer | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, facts in rows.items():
        cells = (f"{facts[key]:.2f}" if isinstance(facts[key], float) else f"{facts[key]}" for key in COLUMNS)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw accuracy against the cost of a frame."""
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for name, facts in rows.items():
        axes.plot(facts["frame_us"], facts["accuracy"], "o")
        axes.annotate(name, (facts["frame_us"], facts["accuracy"]), xytext=(5, 3), textcoords="offset points")
    axes.set(xscale="log", xlabel="microseconds a frame of 20 ms, one thread", ylabel="accuracy at 16 kHz, %")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    typer.run(main)

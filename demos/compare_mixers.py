"""Every mixer on the same words: equal parameters, equal epochs, several seeds, one table.

    python demos/compare_mixers.py DATA OUT [--mixers "s4d,gru,s4d*3 attention"] [--epochs 30] [--seeds 3] [--at-once 4]

Each cell, a mixer with a seed, is a run folder in OUT. What is there is not made again and a training that was stopped
goes on, so that the command can be given until the table is complete. A cell that fails is told in a line, the others
are made all the same, and the command ends with 1. `--at-once` trainings share the GPU or the cores; the cost of a
frame is measured after them, with nothing else running. Writes OUT/table.md, OUT/table.json and OUT/table.png (accuracy
against cost), of the cells that there are.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import typer

from audiossm.data import find_clips
from audiossm.mixers.catalog import known_mixers
from audiossm.tasks import KeywordModel, parameter_count
from audiossm.training.recipes import load_recipe

# The papers' states are for thousands of steps; a clip is fifty. N that leave the models wide, as each mixer counts it.
STATES = {"s4": 16, "s4d": 16, "lssl": 16, "mamba2": 32, "mamba3": 32, "s4d*3 attention": 16}
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
    mixers: Annotated[
        str | None, typer.Option(help="Mixers or patterns, separated by commas; all mixers that stream by default.")
    ] = None,
    params: Annotated[int, typer.Option(help="Parameters that each model has, nearly.")] = 200_000,
    layers: int = 4,
    epochs: int = 30,
    seeds: int = 3,
    at_once: Annotated[int, typer.Option(help="Trainings that run at the same time.")] = 1,
    noise: list[Path] | None = None,
    speech: list[Path] | None = None,
) -> None:
    """Fill the table's cells and write it."""
    streaming = [name for name, mixer in known_mixers().items() if mixer.streamable]
    names = [name.strip() for name in mixers.split(",")] if mixers else streaming
    try:
        labels = tuple(sorted({clip.label for clip in find_clips(data)}))
        widths = {name: width(name, labels, layers, params) for name in names}
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from None
    beds = [part for folder in noise or () for part in ("--noise", folder)]
    beds += [part for folder in speech or () for part in ("--speech", folder)]

    def train(name: str, seed: int) -> None:
        run = folder(out, name, seed)
        if not (run / "model.safetensors").exists():
            size = ["--pattern", name, "--width", widths[name], "--layers", layers, "--epochs", epochs, "--seed", seed]
            size += ["--d-state", STATES[name]] if name in STATES else []
            resume = ["--resume"] if (run / "last.ckpt").exists() else []
            audiossm("train", "keywords", "--data", data, "--out", run, *size, *beds, *resume, "--no-progress")
        kept(run / "accuracy.json", "evaluate", run, "--data", data, "--rates", ",".join(RATES))
        kept(run / "streams.json", "evaluate", run, "--data", data, "--stream", *beds)

    def measure(name: str, run: Path) -> None:
        if not (run / "model.onnx").exists():
            audiossm("export", run, "--out", run / "model.onnx")
        kept(run / "bench.json", "bench", run / "model.onnx", "--seconds", "20")

    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(at_once) as pool:
        cells = [(name, seed) for seed in range(seeds) for name in names]
        trained = dict(zip(cells, pool.map(lambda cell: made(train, *cell), cells), strict=True))
    rows, complete = {}, all(trained.values())
    for name in names:
        runs = [folder(out, name, seed) for seed in range(seeds) if trained[name, seed]]
        if runs and made(measure, name, runs[0]):
            rows[name] = row(runs)
        else:
            complete = False
    rows = dict(sorted(rows.items(), key=lambda item: -item[1]["accuracy"]))
    (out / "table.json").write_text(json.dumps(rows, indent=1))
    (out / "table.md").write_text(table(rows))
    draw(rows, out / "table.png")
    print(table(rows))
    if not complete:
        raise SystemExit("the table is not complete: see above for what failed; the same command makes the rest")


def folder(out: Path, name: str, seed: int) -> Path:
    """Return the run folder of a cell; a pattern's signs are none for a file system."""
    return out / f"{re.sub(r'[^a-z0-9]+', '-', name)}-{seed}"


def made(make: Callable[..., None], name: str, what: object) -> bool:
    """Make something of a mixer and say that it is done, or in a line why not."""
    try:
        make(name, what)
    except RuntimeError as error:
        print(f"{name}, {make.__name__} {what}: {error}", file=sys.stderr, flush=True)
        return False
    print(f"{name}, {make.__name__} {what}: done", flush=True)
    return True


def width(name: str, labels: tuple[str, ...], layers: int, params: int) -> int:
    """Return the width whose model has nearest to so many parameters: a multiple of 4, of 8 for attention's heads."""
    config = replace(load_recipe("base").with_layers(name, layers).config, labels=labels, d_state=STATES.get(name))

    def size(d_model: int) -> int:
        return parameter_count(KeywordModel(replace(config, d_model=d_model)))

    return min(range(8, 264, 8 if "attention" in name else 4), key=lambda d_model: abs(size(d_model) - params))


def audiossm(*arguments: object) -> str:
    """Run the program, with a process to each thread so that several share the cores, and return what it prints.

    Raises RuntimeError with the line in which it says why it failed.
    """
    command = [sys.executable, "-m", "audiossm", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode} and said nothing"]
        raise RuntimeError(f"{said[-1]} ({' '.join(command[2:])})")
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

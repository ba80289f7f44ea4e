"""Every mixer on the same words: equal parameters, equal epochs, several seeds, one table.

    python demos/compare_mixers.py DATA OUT [--mixers "s4d,mamba2,s4d*3 attention"] [--epochs 40] [--at-once 4]

Each cell, a mixer with a learning rate and a seed, is a run folder in OUT. What is there is not made again and a
training that was stopped goes on, so that the command can be given until the table is complete. The first seed tries
all learning rates; the others take the one that did best on validation. `--at-once` trainings share the GPU or the
cores; what a training step (on a GPU) and a frame take is measured after them, with nothing else running. Writes
OUT/table.md, OUT/table.json and OUT/table.png (accuracy against cost). A cell that fails is told, the others go on.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import typer
from training_step import step_ms  # beside this file

from audiossm.data import find_clips
from audiossm.mixers.catalog import known_mixers
from audiossm.tasks import KeywordConfig, KeywordModel, parameter_count
from audiossm.training.recipes import load_recipe

RATES = ("16000", "8000", "48000")
COLUMNS = {
    "params": "parameters",
    "lr": "learning rate",
    "accuracy": "16 kHz, %",
    "seeds": "the seeds",
    "at_8000": "8 kHz, %",
    "at_48000": "48 kHz, %",
    "missed": "missed at 0.5 false alarms an hour, %",
    "missed_at_20": "at 20, %",
    "step_ms": "ms a training step",
    "frame_us": "us a frame",
    "state_bytes": "state, bytes",
}
# N where the paper's is for thousands of steps: a clip is 50 here, and a larger state is paid for by the width.
D_STATE = {"s4d": 16, "s4": 16, "lssl": 16, "mamba2": 32, "mamba3": 32}


def main(
    data: Path,
    out: Path,
    mixers: Annotated[
        str | None, typer.Option(help="Mixers or patterns, separated by commas; all that stream by default.")
    ] = None,
    params: Annotated[int, typer.Option(help="Parameters that each model has, nearly.")] = 200_000,
    layers: int = 4,
    epochs: int = 40,
    seeds: int = 3,
    lrs: Annotated[
        str, typer.Option(help="Learning rates that the first seed tries, separated by commas.")
    ] = "0.004,0.0015",
    at_once: Annotated[int, typer.Option(help="Trainings that run at the same time.")] = 1,
    noise: list[Path] | None = None,
) -> None:
    """Fill the table's cells and write it."""
    streaming = [name for name, mixer in known_mixers().items() if mixer.streamable]
    names = [name.strip() for name in mixers.split(",")] if mixers else streaming
    try:
        labels = tuple(sorted({clip.label for clip in find_clips(data)}))
        configs = {name: config_of(name, labels, layers, params) for name in names}
    except (ValueError, FileNotFoundError) as problem:
        raise typer.BadParameter(str(problem)) from problem
    heard = [part for folder in noise or () for part in ("--noise", folder)]
    failed: list[str] = []

    def train(name: str, lr: str, seed: int) -> None:
        run, config = folder(out, name, lr, seed), configs[name]
        if not (run / "model.safetensors").exists():
            how = ["--mixer" if name in known_mixers() else "--pattern", name, "--layers", layers]
            how += ["--width", config.d_model] + (["--d-state", config.d_state] if config.d_state else [])
            how += ["--epochs", epochs, "--lr", lr, "--seed", seed]
            resume = ["--resume"] if (run / "last.ckpt").exists() else []
            audiossm("train", "keywords", "--data", data, "--out", run, *how, *heard, *resume, "--no-progress")
            print(f"{name}, learning rate {lr}, seed {seed}: trained", flush=True)

    def evaluate(name: str, lr: str, seed: int) -> None:
        run = folder(out, name, lr, seed)
        kept(run / "accuracy.json", "evaluate", run, "--data", data, "--rates", ",".join(RATES))
        kept(run / "streams.json", "evaluate", run, "--data", data, "--stream")
        print(f"{name}, seed {seed}: evaluated", flush=True)

    def measure(name: str, lr: str, seed: int) -> None:
        run = folder(out, name, lr, seed)
        if not (run / "model.onnx").exists():
            audiossm("export", run, "--out", run / "model.onnx")
        kept(run / "bench.json", "bench", run / "model.onnx", "--seconds", "20")
        if not (run / "step.json").exists() and torch.cuda.is_available():
            ms, _ = step_ms(configs[name], load_recipe("base").options)
            (run / "step.json").write_text(json.dumps({"ms": ms, "device": torch.cuda.get_device_name()}))

    def all_of(work: Callable[[str, str, int], None], cells: list[tuple[str, str, int]], at_once: int) -> None:
        def tell(cell: tuple[str, str, int]) -> None:
            try:
                work(*cell)
            except (RuntimeError, OSError) as problem:
                failed.append(cell[0])
                print(f"{cell[0]}, learning rate {cell[1]}, seed {cell[2]} failed: {problem}", flush=True)

        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(tell, cells))

    out.mkdir(parents=True, exist_ok=True)
    all_of(train, [(name, lr, 0) for lr in lrs.split(",") for name in names], at_once)
    names = [name for name in names if name not in failed]
    best = {name: max(lrs.split(","), key=lambda lr: validated(folder(out, name, lr, 0))) for name in names}
    all_of(train, [(name, best[name], seed) for seed in range(1, seeds) for name in names], at_once)
    all_of(
        evaluate, [(name, best[name], seed) for seed in range(seeds) for name in names if name not in failed], at_once
    )
    all_of(measure, [(name, best[name], 0) for name in names if name not in failed], at_once=1)
    rows = {
        name: row([folder(out, name, best[name], seed) for seed in range(seeds)], best[name])
        for name in names
        if name not in failed
    }
    rows = dict(sorted(rows.items(), key=lambda item: -item[1]["accuracy"]))
    (out / "table.json").write_text(json.dumps(rows, indent=1))
    (out / "table.md").write_text(table(rows))
    draw(rows, out / "table.png")
    print(table(rows))
    if failed:
        raise SystemExit(f"not in the table: {', '.join(sorted(set(failed)))}")


def folder(out: Path, name: str, lr: str, seed: int) -> Path:
    """Return the run folder of a cell."""
    return out / f"{name.replace('*', '').replace(' ', '-')}-lr{lr}-{seed}"


def config_of(name: str, labels: tuple[str, ...], layers: int, params: int) -> KeywordConfig:
    """Return what is built: of a width, a multiple of 4, that has nearest to so many parameters.

    With attention it is a multiple of 8: at others there would be fewer heads.
    """
    recipe = load_recipe("base").with_layers(name, layers)

    def sized(d_model: int) -> KeywordConfig:
        return recipe.changed({"labels": labels, "d_model": d_model, "d_state": D_STATE.get(name)}, {}).config

    widths = range(8, 264, 8 if "attention" in name else 4)
    return sized(min(widths, key=lambda d_model: abs(parameter_count(KeywordModel(sized(d_model))) - params)))


def validated(run: Path) -> float:
    """Return the accuracy on the validation clips that training wrote down."""
    return json.loads((run / "model.json").read_text())["training"]["val_accuracy"]


def audiossm(*arguments: object) -> str:
    """Run the program, with a process to each thread so that several share the cores, and return what it prints."""
    command = [sys.executable, "-m", "audiossm", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return done.stdout


def kept(file: Path, *arguments: object) -> None:
    """Keep the JSON that a command prints, unless it is there."""
    if not file.exists():
        beside = file.with_suffix(".part")
        beside.write_text(audiossm(*arguments, "--json"))
        beside.replace(file)


def row(runs: Sequence[Path], lr: str) -> dict[str, Any]:
    """Return a mixer's line: means over the seeds, and the first one's cost."""
    accuracy = [json.loads((run / "accuracy.json").read_text())["rates"] for run in runs]
    streams = [json.loads((run / "streams.json").read_text())["rates"]["16000"]["curve"] for run in runs]
    cost = json.loads((runs[0] / "bench.json").read_text())
    step = runs[0] / "step.json"
    at = {rate: mean(rates[rate]["accuracy"] for rates in accuracy) for rate in RATES}
    return {
        "params": cost["params"],
        "lr": lr,
        "accuracy": at["16000"],
        "seeds": ", ".join(f"{rates['16000']['accuracy']:.1f}" for rates in accuracy),
        "at_8000": at["8000"],
        "at_48000": at["48000"],
        "missed": mean(missed(curve, 0.5) for curve in streams),
        "missed_at_20": mean(missed(curve, 20) for curve in streams),
        "step_ms": json.loads(step.read_text())["ms"] if step.exists() else "",
        "frame_us": cost["frame_us_p50"],
        "state_bytes": cost["state_bytes"],
    }


def missed(curve: Sequence[dict[str, Any]], most: float) -> float:
    """Return the fewest words missed, in percent, at a threshold with at most so many false alarms an hour."""
    return min((point["miss_rate"] for point in curve if point["false_alarms_per_hour"] <= most), default=100.0)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = ["| mixer | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, facts in rows.items():
        cells = (f"{facts[key]:.2f}" if isinstance(facts[key], float) else f"{facts[key]}" for key in COLUMNS)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw accuracy, the mean and the range of the seeds, against the cost of a frame."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, facts in rows.items():
        seeds = [float(accuracy) for accuracy in facts["seeds"].split(", ")]
        (point,) = axes.plot(facts["frame_us"], facts["accuracy"], "o")
        axes.vlines(facts["frame_us"], min(seeds), max(seeds), color=point.get_color())
        axes.annotate(name, (facts["frame_us"], facts["accuracy"]), xytext=(5, 3), textcoords="offset points")
    axes.set(xscale="log", xlabel="microseconds a frame of 20 ms, one thread", ylabel="accuracy at 16 kHz, %")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.margins(x=0.15)
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    typer.run(main)

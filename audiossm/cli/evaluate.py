"""`audiossm evaluate`: how well a model does, on clips or on long streams, at any sampling rate."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from audiossm.cli.app import app
from audiossm.cli.options import column_value, named_folders

SCORES = {"pesq": ("PESQ", 3), "stoi": ("STOI", 3), "estoi": ("ESTOI", 3), "si_sdr": ("SI-SDR, dB", 2)}
KEYS = ("miss_rate", "false_alarms_per_hour")
CURVE_STEP = 10


@app.command()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Run folder, ONNX file or released model's name; several seeds of a recipe give their mean."
        ),
    ],
    data: Annotated[Path, typer.Option(help="A folder per word, pairs in noisy/ and clean/, or manifest.csv.")],
    rates: Annotated[
        str | None,
        typer.Option(help="Sampling rates in Hz, separated by commas (16000; of an enhancement model: its own)."),
    ] = None,
    window: Annotated[
        float | None, typer.Option(help="Of a generation model: seconds after which it begins anew; else never.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Of a generation model: rows of the manifest, as column=value. Repeatable.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which clips; a folder without splits is used whole.")] = "test",
    label_column: Annotated[str, typer.Option(help="The manifest's column that holds the labels.")] = "label",
    highband: Annotated[
        bool, typer.Option("--highband", help="At rates above the model's, also add sound that only they can hold.")
    ] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Misses against false alarms an hour instead.")] = False,
    noise: Annotated[
        list[Path] | None,
        typer.Option(help="With --stream: folder of recordings without any keyword; may be given several times."),
    ] = None,
    speech: Annotated[
        list[Path] | None,
        typer.Option(help="With --stream: folder of other speech, best without the keywords; several times too."),
    ] = None,
    made: Annotated[
        Path | None, typer.Option(help="Of a generation model: folder of clips that it has made, a folder per class.")
    ] = None,
    judge: Annotated[
        Path | None, typer.Option(help="With --made: run folder of a keyword model that is to recognise them.")
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(help="Of an enhancement model: NAME=DIR, what another made of the noisy files. Repeatable."),
    ] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder to draw the result into, as PNG files.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a model: accuracy at each sampling rate, with a 95 % interval and beside resampling first.

    "decimated" takes every k-th sample with no filter, the literature's test; "over native" is the difference to the
    model's own rate on the same clips, with its 95 % interval.

    With --stream the clips are set into long streams of noise and other speech that the model hears without a break,
    and words missed are counted against false alarms an hour.

    Of a generation model it measures bits a sample, at the model's own rate; and with --made and --judge, how many of
    the clips that it has made are recognised, and how far they are from real ones (Fréchet distance).

    Of an enhancement model it measures PESQ (wide band), STOI, ESTOI and SI-SDR on pairs of noisy and clean files,
    beside the noisy files, what it gains over them, and beside what others made of them; of a file also at other
    sampling rates, beside the model's own on recordings as narrow.

    Examples: audiossm evaluate runs/kw --data speech_commands/ --rates 8000,16000,44100;
    audiossm evaluate kw.onnx --data speech_commands/ --stream --noise noise/ --speech talks/;
    audiossm evaluate runs/dn --data voicebank/ --beside RNNoise=rnnoise/
    """
    try:
        asked = [] if rates is None else [int(rate) for rate in rates.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{rates!r} is not a list of rates in Hz such as 8000,16000") from None
    task = task_of_model(models[0])
    if beside and task != "enhancement":
        raise typer.BadParameter("--beside is for enhancement models")
    if task == "enhancement":
        if where or window or made or judge or noise or speech or stream or highband:
            raise typer.BadParameter(
                "an enhancement model is given --data, --split, --beside, --rates, --pictures and --json"
            )
        evaluate_enhanced(models, data, split, named_folders(beside), asked, pictures, as_json)
        return
    if task == "generation":
        evaluate_generated(models, data, split, label_column, where, window, made, judge, as_json)
        return
    if where or window or made or judge:
        raise typer.BadParameter("--where, --window, --made and --judge are for generation models")
    if (noise or speech) and not stream:
        raise typer.BadParameter("--noise and --speech belong to --stream")
    if stream and (len(models) > 1 or highband):
        raise typer.BadParameter("--stream takes one model, and no --highband")
    from audiossm.training.evaluate import evaluate_model
    from audiossm.training.stream_evaluation import evaluate_streams

    asked = asked or [16000]
    console = Console(stderr=True, soft_wrap=True)
    with console.status("evaluating"):
        if stream:
            report = evaluate_streams(
                models[0], data, asked, split, noise or [], speech or [], label_column, pictures, console.print
            )
        else:
            report = evaluate_model(models, data, asked, split, label_column, highband, pictures, console.print)
    if as_json:
        typer.echo(json.dumps(report))
    elif stream:
        for rate, row in report["rates"].items():
            show_stream(f"{models[0]} at {rate} Hz", row)
    else:
        show_clips(", ".join(models), report)


def task_of_model(model: str) -> str:
    """Return the task of a model; of one that does not say, which its opening tells of, "keywords"."""
    if Path(model).is_dir():
        from audiossm.tasks import checkpoint

        return checkpoint.task_of(model)
    from audiossm.streaming import task_of

    task = task_of(model)
    if task == "generation":
        raise ValueError(f"{model} is a file: evaluate the run folder of a generation model")
    return task or "keywords"


def evaluate_enhanced(
    models: list[str],
    data: Path,
    split: str,
    beside: dict[str, Path],
    rates: list[int],
    pictures: Path | None,
    as_json: bool,
) -> None:
    """Evaluate enhancement models and print what comes out."""
    from audiossm.training.evaluate_enhancement import evaluate_enhancement

    console = Console(stderr=True, soft_wrap=True)
    with console.status("evaluating"):
        report = evaluate_enhancement(models, data, split, beside, rates, pictures, console.print)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        show_enhanced(", ".join(models), report)


def show_enhanced(title: str, report: dict[str, Any]) -> None:
    """Print the scores of all files, and of those of each ratio of speech to noise."""
    table = Table(title=f"{title} on {report['n']} files; in brackets 95 % intervals", box=box.SIMPLE, pad_edge=False)
    table.add_column("", no_wrap=True)
    for head, _ in SCORES.values():
        table.add_column(head, justify="right")

    def cell(score: float | None, digits: int, ci95: list[float] | None = None) -> str:
        if score is None:
            return "none"
        return f"{score:.{digits}f}" + ("" if ci95 is None else " ({:.{d}f}–{:.{d}f})".format(*ci95, d=digits - 1))

    for name, row in report["scores"].items():
        table.add_row(name, *(cell(row[m]["mean"], digits, row[m]["ci95"]) for m, (_, digits) in SCORES.items()))
    parts = {f"{ratio} dB": rows for ratio, rows in report["by_snr"].items()}
    for part, rows in (parts | {f"{rate} Hz": rows for rate, rows in report["rates"].items()}).items():
        table.add_section()
        for name, row in rows.items():
            table.add_row(f"{name}, {part}", *(cell(row[m], digits) for m, (_, digits) in SCORES.items()))
    Console().print(table)


def evaluate_generated(
    models: list[str],
    data: Path,
    split: str,
    label_column: str,
    where: list[str] | None,
    window: float | None,
    made: Path | None,
    judge: Path | None,
    as_json: bool,
) -> None:
    """Evaluate generation models and print what comes out."""
    if (made is None) != (judge is None):
        raise typer.BadParameter("--made DIR and --judge RUN, which recognises what was made, go together")
    from audiossm.training.evaluate_generation import evaluate_generation
    from audiossm.training.judge import judge_made

    console = Console(stderr=True, soft_wrap=True)
    rows = dict(column_value(row) for row in where or ())
    with console.status("evaluating"):
        verdict = {}
        if made is not None and judge is not None:
            verdict = {"made": judge_made(judge, made, data, split, label_column, rows, console.print)}
        report = evaluate_generation(models, data, split, label_column, rows, window, console.print) | verdict
    if as_json:
        typer.echo(json.dumps(report))
    else:
        show_generated(report)


def show_generated(report: dict[str, Any]) -> None:
    """Print bits a sample, and what the judge says."""
    low, high = report["ci95"]
    typer.echo(
        f"{report['bits']:.4f} bits a sample ({low:.4f} – {high:.4f}, 95 % interval) of {report['coding']} codes, "
        f"on {report['n']} recordings, {report['samples']:,} samples"
    )
    if "made" in report:
        made = report["made"]
        low, high = made["ci95"]
        best = "" if made["frechet_real"] is None else f" (real clips of two splits: {made['frechet_real']:.3f})"
        typer.echo(
            f"of {made['n']} made clips {made['accuracy']:.1f} % are recognised ({low:.1f} – {high:.1f}), of real ones "
            f"{made['real_accuracy']:.1f} %; Fréchet distance {made['frechet']:.3f}{best}"
        )


def show_clips(title: str, report: dict[str, Any]) -> None:
    """Print accuracy by rate."""
    table = Table(title=f"{title} on {report['n']} clips: accuracy in %")
    for column in ("rate", "accuracy", "95 % interval", "over native", "decimated", "resampled first", "highband"):
        table.add_column(column, justify="right")
    for rate, row in report["rates"].items():
        low, high = row["ci95"]
        gain = row["over_native"]
        table.add_row(
            f"{rate} Hz",
            f"{row['accuracy']:.2f}",
            f"{low:.1f} – {high:.1f}",
            f"{gain['points']:+.2f} ({gain['ci95'][0]:+.1f} – {gain['ci95'][1]:+.1f})",
            *("" if row[name] is None else f"{row[name]:.2f}" for name in ("decimated", "resampled_first", "highband")),
        )
    Console().print(table)


def show_stream(title: str, row: dict[str, Any]) -> None:
    """Print what the detector does as stored, at the operating points and along the curve."""
    words = row["stored"]["words"]
    table = Table(
        title=f"{title}: {words} words; 95 % intervals in brackets", box=box.SIMPLE, pad_edge=False, show_edge=False
    )
    for column in ("threshold", "missed, %", "false alarms", "an hour"):
        table.add_column(column, justify="left" if column == "threshold" else "right", no_wrap=True)

    def add(name: str, point: dict[str, Any]) -> None:
        cells = [
            "{:.1f} ({:.1f}–{:.1f})".format(point[key], *point[f"{key}_ci95"]) if key in point else "" for key in KEYS
        ]
        table.add_row(name, cells[0], f"{point['false_alarms']} in {point['hours']:.2f} h", cells[1])

    add(f"{row['stored']['threshold']:g}, as stored", row["stored"])
    for name, point in row["stored"]["streams"].items():
        add(f"  {name}", point)
    table.add_section()
    for key, name in {"at": "0.5 an hour", "at_certain": "0.5, no speech"}.items():
        if row[key] is None:
            table.add_row(f"none, {name}")
        else:
            add(f"{row[key]['threshold']:g}, {name}", row[key])
    table.add_section()
    for point in row["curve"][::CURVE_STEP]:
        add(f"{point['threshold']:g}", point)
    Console().print(table)

"""`audiossm denoise`: clean a sound file, a folder of them, or a microphone as it is heard."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiossm.cli.app import app

if TYPE_CHECKING:
    from audiossm.streaming import Enhancer


@app.command()
def denoise(
    model: Annotated[str, typer.Argument(help="An enhancement model's file, or a released model's name.")],
    source: Annotated[Path | None, typer.Argument(help="Sound file, or a folder of them.")] = None,
    out: Annotated[Path | None, typer.Argument(help="File to write, or folder.")] = None,
    strength: Annotated[
        float, typer.Option(min=0, max=1, help="1 is the model's output, 0 the input, between them a mix of both.")
    ] = 1.0,
    live: Annotated[bool, typer.Option("--live", help="From the microphone to the speaker.")] = False,
    device: Annotated[
        str | None, typer.Option(help="With --live, the microphone: an index or a part of its name.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="With --live, the speaker or virtual device: an index or a part of its name.")
    ] = None,
    buffer: Annotated[
        float, typer.Option(min=0, max=1000, help="With --live, ms that the devices may hold: more where it stutters.")
    ] = 0.0,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Take the noise out of speech. A file's output is as long as the file and aligned with it.

    Rate, channels and kind of samples stay. What lies above the band of the model is dropped, so that a recording at
    48 kHz comes out as a 16 kHz model hears it.

    With --live, b on the keyboard lets everything pass and back, q or Ctrl-C ends it.

    Examples: `audiossm denoise dn.onnx in.wav out.wav`, `audiossm denoise dn.onnx recordings/ clean/`,
    `audiossm denoise dn.onnx --live --output virtual`
    """
    from audiossm.cli.waiting import stopped_as_by_hand
    from audiossm.streaming import load_enhancer

    files = source is not None and out is not None
    if live == files or (live and source is not None):
        raise typer.BadParameter("give an input and an output, or --live")
    if not live and (device is not None or output is not None or buffer):
        raise typer.BadParameter("--device, --output and --buffer are for --live")
    loaded = load_enhancer(model)
    with stopped_as_by_hand():
        if live:
            from audiossm.cli.denoise_live import run_live

            run_live(loaded, device, output, buffer / 1000, strength, as_json)
        elif source is not None and out is not None:
            (folder if source.is_dir() else single)(loaded, source, out, strength, progress, as_json)


def single(model: "Enhancer", source: Path, out: Path, strength: float, progress: bool, as_json: bool) -> None:
    """Clean a file."""
    from audiossm.cli.waiting import bar
    from audiossm.streaming import AudioFile
    from audiossm.streaming.enhancement.recording import denoise_file

    with AudioFile(source) as file:
        seconds = file.seconds
    with bar("cleaning", round(1000 * seconds), 1000, progress) as tell:
        report = denoise_file(model, source, out, strength, partial(tell_more, tell, 0.0))
    latency = 1000 * model.stream(report.rate).latency / report.rate
    if as_json:
        facts = {"path": str(out), "seconds": report.seconds, "real_time_factor": report.real_time_factor}
        facts |= {"rate": report.rate, "channels": report.channels, "latency_ms": latency, "strength": strength}
        print(json.dumps(facts | {"bad_samples": report.bad_samples}))
        return
    bad = f", {report.bad_samples} samples that were no number taken as silence" if report.bad_samples else ""
    print(
        f"{out}: {report.seconds:.2f} s at {report.rate} Hz, aligned with the input (live: {latency:.0f} ms late), "
        f"real-time factor {report.real_time_factor:.4f}{bad}"
    )


def folder(model: "Enhancer", source: Path, out: Path, strength: float, progress: bool, as_json: bool) -> None:
    """Clean the files of a folder; one that cannot be is told of, and the others go on."""
    from audiossm.cli.lines import remark
    from audiossm.cli.waiting import bar
    from audiossm.streaming.audiofile import seconds_of
    from audiossm.streaming.enhancement.recording import denoise_file, pairs

    todo = pairs(source, out)
    seconds = took = 0.0
    failed = []
    total = sum(seconds_of(path) for path, _ in todo)
    with bar("cleaning", round(1000 * total), 1000, progress) as tell:
        for path, place in todo:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                report = denoise_file(model, path, place, strength, partial(tell_more, tell, seconds))
            except (OSError, ValueError) as error:
                failed.append(str(path))
                remark(f"{path} is left out: {' '.join(str(error).split())}")
                continue
            seconds, took = seconds + report.seconds, took + report.took
    factor = took / seconds if seconds else 0.0
    if as_json:
        facts = {"path": str(out), "files": len(todo) - len(failed), "failed": failed, "seconds": seconds}
        print(json.dumps(facts | {"real_time_factor": factor, "strength": strength}))
    else:
        print(f"{out}: {len(todo) - len(failed)} files, {seconds:.0f} s, real-time factor {factor:.4f}")
    if failed:
        raise typer.Exit(1)


def tell_more(tell: Callable[[int], None], before: float, done: float) -> None:
    """Tell a progress bar in milliseconds of the seconds that are done, with those before."""
    tell(round(1000 * (before + done)))

"""`audiossm generate`: make audio, and hear it as it is made."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from audiossm.cli.app import app


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="A generation model's file, or a released model's name.")],
    out: Annotated[Path, typer.Argument(help="Sound file to write: .wav, .flac or .ogg.")],
    seconds: Annotated[float, typer.Option(help="Length of the file, with the prompt.")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same file.")] = 0,
    temperature: Annotated[float, typer.Option(help="Below 1: likelier samples; above 1: unlikelier ones.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Draw only from the likeliest that have this share together.")] = 1.0,
    prompt: Annotated[Path | None, typer.Option(help="Sound file to go on from.")] = None,
    label: Annotated[str | None, typer.Option("--class", help="What is to be heard, of the model's classes.")] = None,
    best_of: Annotated[int, typer.Option(min=1, help="Make several, keep the likeliest.")] = 1,
    play: Annotated[bool, typer.Option("--play", help="Play it as it is made.")] = False,
    guard: Annotated[
        bool, typer.Option(help="Begin anew where the level has left that of the training data for 3 seconds.")
    ] = True,
    engine: Annotated[str | None, typer.Option(help="native or onnxruntime; the fastest if left out.")] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make audio, sample by sample, in constant memory. Ctrl-C leaves a file with what there is by then.

    Example: audiossm generate gen.onnx out.wav --seconds 10 --seed 0 --play

    A spoken digit: audiossm generate digits.onnx seven.wav --class 7 --seconds 1 --best-of 8
    """
    from rich.console import Console

    from audiossm.cli.lines import remark
    from audiossm.cli.waiting import bar, stopped_as_by_hand
    from audiossm.streaming import load_generator
    from audiossm.streaming.generation.recording import read_prompt, record
    from audiossm.streaming.speaker import Speaker

    if not 0 < seconds < float("inf"):
        raise typer.BadParameter(f"--seconds must be a number above 0, not {seconds:g}")
    if play and best_of > 1:
        raise typer.BadParameter("--play hears what is made at once, --best-of chooses at the end: leave out one")
    loaded = load_generator(model)
    rate = loaded.facts.rate
    samples = round(seconds * rate) or 1
    heard = None if prompt is None else read_prompt(prompt, rate, samples, remark)
    with Console(stderr=True).status("preparing (the first time, the step is compiled: some ten seconds)"):
        sampler = loaded.sampler(seed, temperature, top_p, label, heard, best_of, engine)
    if engine is None and (hint := loaded.hint()):
        remark(hint)
    with ExitStack() as opened:
        opened.enter_context(stopped_as_by_hand())
        speaker = opened.enter_context(Speaker(rate)) if play else None
        tell = opened.enter_context(bar("generating", samples, rate, progress))
        arguments = {"play": speaker.play} if speaker else {}
        report = record(sampler, out, samples, heard, guard, tell=tell, say=remark, **arguments)
    stuttered = speaker.stuttered if speaker else 0
    if as_json:
        facts = {"path": str(out), "seconds": report.seconds, "real_time_factor": report.real_time_factor}
        facts |= {"rate": rate, "seed": seed, "engine": sampler.engine, "left_level_at": report.left}
        print(json.dumps(facts | {"stopped": report.stopped, "stuttered": stuttered}))
    else:
        stopped = "stopped: " if report.stopped else ""
        late = f", playing stuttered {stuttered} times" if stuttered else ""
        print(
            f"{stopped}{out}: {report.seconds:.2f} s at {rate} Hz, real-time factor {report.real_time_factor:.3f} "
            f"({sampler.engine}){late}"
        )
    if report.stopped:
        raise typer.Exit(130)

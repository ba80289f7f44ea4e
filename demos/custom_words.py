"""Words that nobody recorded: train on a synthetic voice alone, test on real people, then add ten recordings of each.

    apt-get install flite; pip install 'audiossm[voices]'    # optional, and most of the result
    python demos/custom_words.py REAL [--words yes,no,stop,go,left,right] [--clips 800] [--epochs 10]

REAL is a data folder with real recordings of the words and of others, split by speaker (Speech Commands, say). The
model never hears it in the first part; in the second it hears ten clips of each word, and ten of `_other_`, from the
split "train". Prints the accuracy on the words of the split "test", where `_other_` and `_silence_` are answers too,
and how many of the clips of everything else are taken for one of the words. What it makes is in .audiossm-custom/.
"""

import csv
import shutil
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from audiossm.data import find_clips, installed_voices, load_clips, synthesise
from audiossm.tasks import KeywordConfig
from audiossm.training import TrainOptions, load_model, train_keywords
from audiossm.training.predict import module_predictor
from audiossm.training.statistics import percent, wilson

HERE = Path(".audiossm-custom")
# For a small model that sees few steps: the defaults' augmentation is for long training.
GENTLE = {
    "lr": 0.014,
    "balance": 0.5,  # `_other_` has twice the clips of a word, and takes for its own what is unlike synthesis
    "mixup": 0.0,
    "time_mask": 12,
    "channel_mask": 5,
    "label_smoothing": 0.05,
    "noise_share": 0.4,
    "stream_share": 0.3,
}


def main(
    real: Path,
    words: str = "yes,no,stop,go,left,right",
    clips: Annotated[int, typer.Option(help="Synthetic clips of each word.")] = 800,
    own: Annotated[int, typer.Option(help="Real recordings of each word for the second part.")] = 10,
    epochs: int = 10,
    batch: int = 32,
    width: int = 64,
    layers: int = 4,
    d_state: int = 8,
    channels: int = 40,
    modes: int = 3,
    seed: int = 0,
    voices: Annotated[
        str | None, typer.Option(help="Voices beside espeak-ng's, or '' for none; all that are installed by default.")
    ] = None,
) -> None:
    """Run both parts and print the two results."""
    spoken, mine, asked = HERE / "spoken", HERE / "mine", words.split(",")
    lacking = set(asked) - {clip.label for clip in find_clips(real, split="test")}
    if lacking:
        raise SystemExit(f"custom_words: {real} has no test recordings of {', '.join(sorted(lacking))}")
    shutil.rmtree(HERE, ignore_errors=True)
    others = installed_voices() if voices is None else [voice for voice in voices.split(",") if voice]
    made = synthesise(asked, spoken, clips, seed, voices=others)
    by = ", ".join(["espeak-ng", *others])
    print(f"{len(made)} clips of {', '.join(asked)}, near misses, other words and silence by {by}")
    size = KeywordConfig((), channels=channels, modes=modes, d_model=width, layers=layers, d_state=d_state)
    options = TrainOptions(epochs=epochs, batch=batch, seed=seed, **GENTLE)
    train_keywords(spoken, HERE / "run", size, options)
    report("from spelling alone", HERE / "run", real, asked)

    # Other words too: else the model learns that whoever is no synthetic voice says one of the words.
    few = record(real, mine, [*asked, "_other_"], own, seed)
    print(f"{few} recordings of these and of other words by real people")
    options = TrainOptions(epochs=max(1, epochs // 2), batch=batch, seed=seed, **GENTLE | {"lr": 0.0014})
    train_keywords(mine, HERE / "more", size, options, extend=(HERE / "run", spoken))
    report(f"with {own} real recordings of each word", HERE / "more", real, asked)


def record(real: Path, out: Path, words: list[str], count: int, seed: int) -> int:
    """Write a manifest that names `count` training clips of each word, each by another speaker; return how many."""
    rng = np.random.default_rng(seed)
    clips = find_clips(real, split="train")
    out.mkdir(parents=True)
    with open(out / "manifest.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "speaker", "split"])
        total = 0
        for word in words:
            by_speaker = {clip.speaker: clip for clip in clips if clip.label == word}  # none if REAL has no `_other_`
            for speaker in rng.permutation(sorted(by_speaker))[:count]:
                rows.writerow([by_speaker[speaker].path.resolve(), word, speaker, "train"])
                total += 1
    return total


def report(what: str, run: Path, real: Path, words: list[str]) -> None:
    """Print how a model does on the test split's people."""
    model, _ = load_model(run)
    labels, predict = list(model.config.labels), module_predictor(model)
    found = find_clips(real, split="test")
    heard = load_clips(found, model.config.rate, 1.0, sorted({clip.label for clip in found}), progress=False)
    answers = np.array(labels)[predict(heard.samples(slice(None)), model.config.rate).argmax(axis=1)]
    truth = np.array([clip.label for clip in found])
    said = np.isin(truth, words)
    right = (answers == truth)[said]
    low, high = wilson(int(right.sum()), len(right))
    wrong = np.isin(answers, words)[~said]
    print(
        f"{what}: {percent(right):.1f} % of {len(right)} words of real people (95 % interval {low:.1f} to {high:.1f})"
    )
    print("  " + ", ".join(f"{word} {percent((answers == truth)[truth == word]):.0f}" for word in words))
    print(f"  {percent(wrong):.1f} % of {len(wrong)} clips of other words and silence are taken for one of them")


if __name__ == "__main__":
    typer.run(main)

"""Add people who say digits to a pack of keywords, as the released model's training data had them.

    python demos/add_digits.py KEYWORDS DIGITS OUT

KEYWORDS and DIGITS are folders with a manifest.csv. OUT gets a manifest.csv of all clips of KEYWORDS and the English
training clips of DIGITS, labelled by KEYWORDS' words where it has them and as `_other_` where not. Such a clip is
trimmed, at 8 kHz; here it becomes a second at 16 kHz that ends 0.1 to 0.4 s after the word, over faint noise.
"""

import csv
import os
import sys
from pathlib import Path

import numpy as np
import soundfile

from audiossm.data import read_audio
from audiossm.data.folder import MANIFEST, OTHER

RATE = 16000  # Hz
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
COLUMNS = ("path", "label", "label12", "speaker", "split")


def main(keywords: str, digits: str, out: str) -> None:
    """Write OUT, the clips first."""
    rng = np.random.default_rng(0)
    rows = [row | {"path": Path(keywords, row["path"]).resolve()} for row in manifest(keywords)]
    known = {row["label"] for row in rows}
    os.makedirs(out, exist_ok=True)
    for row in manifest(digits):
        if (row["language"], row["split"]) != ("en", "train"):
            continue
        said = read_audio(Path(digits, row["path"]), RATE)[0]
        if len(said) > 0.97 * RATE:
            continue  # no room for it
        word, name = WORDS[int(row["label"])], row["path"].replace("/", "-")
        path = Path(out, f"{word}_{name}").with_suffix(".opus").resolve()
        soundfile.write(path, second(said, rng), RATE, format="OGG", subtype="OPUS")
        label = word if word in known else OTHER
        rows.append({"path": path, "label": label, "label12": "_unknown_", "speaker": row["speaker"], "split": "train"})
    with open(Path(out, MANIFEST), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{out}: {len(rows)} clips; try: audiossm train keywords --data {out} --out runs/kw")


def manifest(folder: str) -> list[dict[str, str]]:
    """Return the rows of a folder's manifest.csv."""
    with open(Path(folder, MANIFEST), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def second(said: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Set a word (n,) into a second of faint noise, near its end."""
    clip = rng.normal(0, 3e-4, RATE).astype(np.float32)
    begin = max(0, RATE - round(rng.uniform(0.1, 0.4) * RATE) - len(said))
    clip[begin : begin + len(said)] += said * min(1, 0.9 / np.abs(said).max())
    return clip


if __name__ == "__main__":
    main(*sys.argv[1:])

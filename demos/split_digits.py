"""A manifest of the Free Spoken Digit Dataset in its own split, to train a judge of made digits on.

    python demos/split_digits.py DIGITS OUT
    audiossm train keywords --data OUT --out runs/judge --rate 8000 --stream-share 0
    audiossm evaluate runs/digits --data OUT --made MADE --judge runs/judge

DIGITS is a folder whose manifest.csv has the columns language and official_split. There recordings 0 to 4 of a speaker
and a digit are the test, so that the judge knows all voices, as it must: what is made has the voices of the training.
OUT gets a manifest.csv alone, which names the files where they are; recording 5 of each is for validation. Bits a
sample are to be measured on DIGITS: of this test a generation model may have learnt some.
"""

import csv
from pathlib import Path

import typer

from audiossm.data.folder import MANIFEST


def main(digits: str, out: str) -> None:
    """Write OUT."""
    folder = Path(digits).resolve()
    if not (folder / MANIFEST).is_file():
        raise typer.BadParameter(f"no {MANIFEST} in {digits}")
    with open(folder / MANIFEST, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("language") == "en" and "official_split" in row]
    if not rows:
        raise typer.BadParameter(f"{digits}/{MANIFEST} has no row with language 'en' and an official_split")
    Path(out).mkdir(parents=True, exist_ok=True)
    with open(Path(out, MANIFEST), "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "speaker", "split"))
        for row in rows:
            split = "val" if Path(row["path"]).stem.endswith("_5") else row["official_split"]
            writer.writerow((folder / row["path"], row["label"], row["speaker"], split))
    print(f"{out}: {len(rows)} clips; try: audiossm train keywords --data {out} --out runs/judge --rate 8000")


if __name__ == "__main__":
    typer.run(main)

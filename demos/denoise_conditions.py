"""How a denoiser does where recordings are worse than noisy: clipped, from a telephone, coded, in a room, over music.

    python demos/denoise_conditions.py MODEL PAIRS OUT [--over music=DIR --over voices=DIR]

PAIRS holds noisy/ and clean/, files of equal names. Each condition is made of them in OUT/CONDITION, the same at every
call, and `audiossm evaluate` compares what is heard and what the model makes of it with the clean speech; in a room,
with what of it comes within 50 ms. Writes OUT/conditions.json and OUT/conditions.md.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import torch
import typer
from compare_mixers import audiossm
from torch import Tensor

from audiossm.data import augment, find_clips, read_audio
from audiossm.training.codec import quantised_bands, telephone

CLIPPED = 0.2  # of the peak: what is above is cut off
CODED_DB = 10.0  # of each band over the noise of its steps
DECAY, EARLY = 0.4, 0.05  # seconds in which a room's sound decays by 60 dB, and of it those that count as speech
OVER_DB = 5.0  # of speech over what stands in the place of the noise
METRICS = ("pesq", "stoi", "estoi", "si_sdr")

# Noisy, clean (1, n) at a rate in Hz -> the same, worse.
Change = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def as_recorded(noisy: Tensor, clean: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """Change nothing."""
    return noisy, clean


def clipped(noisy: Tensor, clean: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """Cut off peaks."""
    limit = CLIPPED * noisy.abs().amax()
    return noisy.clamp(-limit, limit), clean


def by_telephone(noisy: Tensor, clean: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """Send it as G.711 does; the clean speech gets as narrow."""
    return telephone(noisy, rate), telephone(clean, rate)


def coded(noisy: Tensor, clean: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """Keep few bits of each band."""
    return quantised_bands(noisy, rate, torch.full((1, 1), CODED_DB)), clean


def in_a_room(noisy: Tensor, clean: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """Let speech and noise sound in a room."""
    response = augment.rooms(1, round(DECAY * rate), rate, DECAY, DECAY, noisy.device)
    early = response * (torch.arange(response.shape[1]) < EARLY * rate)
    return augment.heard_in(noisy, response), augment.heard_in(clean, early)


def in_place_of_noise(recordings: list[Path]) -> Change:
    """Return what puts a recording in the place of the noise, another for each file."""

    def change(noisy: Tensor, clean: Tensor, rate: int) -> tuple[Tensor, Tensor]:
        piece, _ = read_audio(recordings[int(torch.randint(len(recordings), ()))], rate)
        begin = int(torch.randint(max(1, len(piece) - clean.shape[1]), ()))
        heard = torch.from_numpy(np.resize(piece[begin:], clean.shape[1])).unsqueeze(0)
        gain = augment.active_level(clean, rate) / augment.level(heard) * 10 ** (-OVER_DB / 20)
        return clean + gain * heard, clean

    return change


def main(
    model: str,
    pairs: Path,
    out: Path,
    over: Annotated[list[str] | None, typer.Option(help="NAME=DIR of what else may lie under speech.")] = None,
) -> None:
    """Make the conditions, and a table of what the model gains in each."""
    changes = {c.__name__.replace("_", " "): c for c in (as_recorded, clipped, by_telephone, coded, in_a_room)}
    for name, _, folder in (each.partition("=") for each in over or ()):
        changes[f"over {name}"] = in_place_of_noise([clip.path for clip in find_clips(Path(folder), "test")])
    rows = {}
    for name, change in changes.items():
        folder = out / name.replace(" ", "-")
        for path, heard, clean, rate in worse(pairs, change):
            for kind, audio in (("noisy", heard), ("clean", clean)):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / kind / path.with_suffix(".wav").name, audio, rate, "FLOAT")
        rows[name] = json.loads(audiossm("evaluate", model, "--data", folder, "--json"))
        print(f"{name}: done", flush=True)
    (out / "conditions.json").write_text(json.dumps(rows, indent=1))
    (out / "conditions.md").write_text(table(rows))
    print(table(rows))


def worse(pairs: Path, change: Change) -> Iterator[tuple[Path, np.ndarray, np.ndarray, int]]:
    """Give each pair as it is in a condition: the noisy file's path, both recordings (n,), the rate in Hz."""
    torch.manual_seed(0)
    for path in sorted((pairs / "noisy").iterdir()):
        noisy, rate = read_audio(path)
        clean, _ = read_audio(pairs / "clean" / path.name, rate)
        heard, wanted = change(torch.from_numpy(noisy)[None], torch.from_numpy(clean)[None], rate)
        yield path, heard[0].numpy(), wanted[0].numpy(), rate


def table(rows: dict[str, dict]) -> str:
    """Return the rows as Markdown: heard -> enhanced."""
    lines = ["| | PESQ | STOI | ESTOI | SI-SDR, dB |", "|---|---|---|---|---|"]
    for name, report in rows.items():
        before, after = report["scores"]["noisy"], report["scores"]["model"]
        lines.append(
            f"| {name} | " + " | ".join(f"{before[m]['mean']:.3f} → {after[m]['mean']:.3f}" for m in METRICS) + " |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        typer.run(main)
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(str(error)) from None

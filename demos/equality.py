"""Is the exported file the trained module, over minutes of speech and however the audio is cut?

    python demos/equality.py RUN MODEL DATA [MINUTES]

RUN is the run folder that MODEL was exported from, DATA a folder of clips; its test split, one after another, is the
speech. Prints the largest relative L2 distance of the posteriors, for each rate and chunk length.
"""

import sys

import numpy as np
import torch
from rich.progress import track

import audiossm.streaming
from audiossm.data import find_clips, read_audio, resample
from audiossm.training import load_model

CHUNKS = [1, 7, 160, 4096]
RATES = [16000, 44100]


def main(run: str, file: str, data: str, minutes: str = "10") -> None:
    """Compare and print."""
    module, _ = load_model(run)
    model = audiossm.streaming.load(file)
    native = module.config.rate
    need, pieces, clips = int(60 * float(minutes) * native), [], iter(find_clips(data, split="test"))
    while sum(map(len, pieces)) < need:
        pieces.append(read_audio(next(clips).path, native)[0])
    speech = np.concatenate(pieces)[:need]
    for rate in RATES:
        audio = resample(speech, native, rate)
        want = reference(module, audio, rate)
        for size in CHUNKS:
            stream = model.stream(rate=rate)
            cuts = range(0, len(audio), size)
            got = [stream.scores(audio[i : i + size]) for i in track(cuts, f"{rate} Hz by {size}", transient=True)]
            got = np.concatenate([row for row in got if len(row)])
            error = np.linalg.norm(got - want[: len(got)]) / np.linalg.norm(want)
            print(f"{rate} Hz, {size} samples at a time, {len(got)} frames: {error:.1e}", flush=True)


@torch.inference_mode()
def reference(module: torch.nn.Module, audio: np.ndarray, rate: int) -> np.ndarray:
    """Return the module's probabilities at the end of each frame, (frames, classes), from calls of ten seconds."""
    state, rows = None, []
    for piece in torch.from_numpy(audio)[None, :, None].split(10 * rate, dim=1):
        logits, state = module(piece, state, rate=rate)
        rows.append(logits[0])
    return torch.cat(rows).softmax(-1).numpy()


if __name__ == "__main__":
    main(*sys.argv[1:])

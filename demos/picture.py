"""Draw what a model hears: one recording delivered by microphones at three rates, and the words it finds in each.

    python demos/picture.py OUT.png [MODEL]

The voice is espeak-ng's, so the picture needs no data; the model (default: keywords) was trained on people at 16 kHz.
"""

import json
import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np

import audiossm.streaming
from audiossm.data import read_audio, resample, synthesise

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WORDS = ["yes", "stop", "left", "happy", "go"]
RATES = [8000, 16000, 44100]


def main(out: str, name: str = "keywords") -> None:
    """Write the picture and print what was heard, as JSON."""
    audio, rate = speech()
    model = audiossm.streaming.load(name)
    labels = model.metadata.labels
    figure, axes = plt.subplots(len(RATES), 2, figsize=(11, 5.5), sharex=True, width_ratios=(3, 2))
    heard = {}
    for (left, right), at in zip(axes, RATES, strict=True):
        sound = resample(audio, rate, at)
        left.specgram(sound, NFFT=at // 50, Fs=at, noverlap=at // 100, cmap="magma", vmin=-130)
        left.set(ylim=(0, min(at / 2, 8000)), ylabel=f"{at / 1000:g} kHz in\nHz")
        stream = model.stream(rate=at)
        posteriors = stream.scores(sound)
        time = model.metadata.frame_seconds * (1 + np.arange(len(posteriors)))
        for i, label in enumerate(labels):
            if label in WORDS:
                right.plot(time, posteriors[:, i], label=label)
            elif not label.startswith("_"):
                right.plot(time, posteriors[:, i], color="0.8", lw=0.6)
        right.set(ylim=(0, 1.02), ylabel="probability")
        stream.reset()
        heard[at] = [(e.label, round(e.time, 2)) for e in stream.push(sound)]
    axes[0, 1].legend(loc="upper center", ncols=len(WORDS), fontsize=8, bbox_to_anchor=(0.5, 1.3), frameon=False)
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    print(json.dumps(heard))


def speech() -> tuple[np.ndarray, int]:
    """Return the words, spoken one after another by one voice, with a little noise, as (samples, rate in Hz)."""
    with tempfile.TemporaryDirectory() as folder:
        clips = synthesise(WORDS, Path(folder) / "words", 1, seed=55, rate=44100, background=False, progress=False)
        by_word = {clip.label: clip.path for clip in clips}
        audio = np.concatenate([read_audio(by_word[word])[0] for word in WORDS])
    noise = np.random.default_rng(0).standard_normal(len(audio))
    return (audio + 0.001 * noise).astype(np.float32), 44100


if __name__ == "__main__":
    main(*sys.argv[1:])

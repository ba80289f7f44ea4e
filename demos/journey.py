"""The whole journey in small: speak words, train on them, export, evaluate at rates never heard, listen.

`make demo` runs it: no data set, no microphone, no GPU; under five minutes on two cores. Everything it makes is in
.audiossm-demo/, and each step is also a command of `audiossm`, shown as it goes.
"""

import shutil
import time
from pathlib import Path

import numpy as np
import soundfile

import audiossm.streaming
from audiossm.data import find_clips, read_audio, resample, synthesise
from audiossm.export import export_keywords
from audiossm.tasks import KeywordConfig
from audiossm.training import TrainOptions, train_keywords
from audiossm.training.evaluate import evaluate_model

HERE = Path(".audiossm-demo")
WORDS = ["hello", "stop", "music", "window", "seven", "lamp"]
RATES = [16000, 8000, 11025, 22050, 44100, 48000]
# Small and short, for 90 seconds on two cores; the defaults are for a GPU and take their time.
SMALL = KeywordConfig(labels=(), channels=28, modes=2, d_model=56, layers=3, dropout=0.0)
SHORT = TrainOptions(
    epochs=18,
    batch=16,
    lr=0.03,
    label_smoothing=0.0,
    mixup=0.0,
    noise_share=0.4,
    room_share=0.0,
    clip_share=0.0,
    band_share=0.3,
    time_mask=0,
    channel_mask=0,
    stream_share=0.3,
)
MICROPHONE = 44100  # Hz: a rate that the training never saw


def main() -> None:
    """Run every step and say what it does."""
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    data, run, model = HERE / "data", HERE / "run", HERE / "keywords.onnx"

    step("1  Speak", f"audiossm synth {' '.join(WORDS)} --clips 120 --out {data}")
    clips = synthesise(WORDS, data, clips_per_word=120, seed=0)
    speakers = len({clip.speaker for clip in clips})
    print(f"{len(clips)} clips of {len(WORDS)} words, other words and silence, by {speakers} voices of espeak-ng")

    step("2  Train", f"audiossm train keywords --data {data} --out {run}   (here a small model, a short time)")
    begun = time.monotonic()
    train_keywords(data, run, SMALL, SHORT)
    print(f"trained in {time.monotonic() - begun:.0f} s")

    step("3  Export", f"audiossm export {run} --out {model}")
    done = export_keywords(run, model)
    print(f"one file of {done.bytes / 1e6:.1f} MB, equal to the trained module to {done.error:.0e}")

    step("4  Evaluate", f"audiossm evaluate {model} --data {data} --rates {','.join(map(str, RATES))}")
    report = evaluate_model(model, data, RATES)
    print(f"{report['n']} clips of voices that the training never heard; it heard 16000 Hz and no other rate:")
    for rate, row in report["rates"].items():
        print(f"  {rate:>5} Hz  {row['accuracy']:5.1f} %  (95 % interval {row['ci95'][0]:.0f} to {row['ci95'][1]:.0f})")

    recording = HERE / "recording.wav"
    spoken = record(data, recording)
    step("5  Listen", f"audiossm listen {model} --input {recording}")
    print(f"a recording at {MICROPHONE} Hz, in pieces of 10 ms as a microphone delivers it:")
    listen(model, recording, spoken)

    step("Your turn", f"audiossm listen {model}")
    print(f"Say one of: {', '.join(WORDS)}. On a machine without a microphone, give a file: --input x.wav")
    print("The model trained on real people that comes with audiossm: audiossm listen keywords")


def step(title: str, command: str) -> None:
    """Announce a step and the command that does the same."""
    print(f"\n\033[1m{title}\033[0m   $ {command}", flush=True)


def record(data: Path, path: Path) -> list[tuple[str, float]]:
    """Write test clips of unheard voices one after another with pauses; return (word, its end in seconds)."""
    rng = np.random.default_rng(1)
    clips = [clip for clip in find_clips(data, split="test") if not clip.label.startswith("_")]
    pieces, spoken, now = [], [], 0.0
    for i in rng.choice(len(clips), 10, replace=False):
        audio, rate = read_audio(clips[i].path)
        pause = np.zeros(int(rng.uniform(0.3, 1.0) * rate), np.float32)
        pieces += [audio, pause]
        heard = np.flatnonzero(np.abs(audio) > 0.1 * np.abs(audio).max())
        spoken.append((clips[i].label, now + heard[-1] / rate))
        now += (len(audio) + len(pause)) / rate
    audio = resample(np.concatenate(pieces), rate, MICROPHONE)
    soundfile.write(path, audio + 0.001 * rng.standard_normal(len(audio)), MICROPHONE)
    return spoken


def listen(model: Path, recording: Path, spoken: list[tuple[str, float]]) -> None:
    """Stream a recording through the exported file and print what was said beside what was heard."""
    audio, rate = soundfile.read(recording, dtype="float32")
    stream = audiossm.streaming.load(model).stream(rate=rate)
    begun = time.process_time()
    events = [event for chunk in np.array_split(audio, len(audio) * 100 // rate) for event in stream.push(chunk)]
    took = time.process_time() - begun
    for word, end in spoken:
        heard = [e for e in events if abs(e.time - end) < 0.6]  # within what a person takes for "at once"
        events = [e for e in events if e not in heard]
        answer = ", ".join(f"{e.label} ({e.score:.2f}) at {e.time:.2f} s" for e in heard) or "nothing"
        print(f"  said {word:<6} ending at {end:5.2f} s   heard {answer}")
    for event in events:
        print(f"  heard {event.label} ({event.score:.2f}) at {event.time:.2f} s where nothing was said")
    print(f"real-time factor {took * rate / len(audio):.3f} on one thread of this CPU")


if __name__ == "__main__":
    main()

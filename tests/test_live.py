"""`audiossm listen` through real sound cards: words, noise, a microphone that is unplugged, and the terminal.

They are null sinks of PulseAudio (pulse.py), so that everything here happens in real time; what can go on at once does.
AUDIOSSM_SHARED names the folder with recordings of people, AUDIOSSM_LIVE_MODEL the model in place of the released one.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from audiossm.streaming import load

from .terminal import Terminal

HERE = Path(__file__).resolve().parent
tiny = SimpleNamespace(**run_path(str(HERE / "tiny_model.py")))
pulse = SimpleNamespace(**run_path(str(HERE / "pulse.py")))

RATE = 16000  # of what is played; the sound server brings it to the microphone's
RATES = (16000, 44100, 48000)
CLIPS = {"tones": 20, "synthesised": 20, "people": 44}  # in a recording; people as long as the noise
EVERY = 1.3  # seconds from one clip to the next
PROMPT = 0.5  # seconds from a word's end to its line
SHARED = Path(os.environ.get("AUDIOSSM_SHARED", pulse.PROJECT.parent / "shared"))

# ALSA's PulseAudio device calls 44.1 kHz its own whatever lies behind it. This is `audiossm` with another answer.
AT_RATE = """
import sys
from dataclasses import replace
import audiossm.streaming.microphone as microphone
rate, find = int(sys.argv.pop(1)), microphone.find_device
microphone.find_device = lambda wanted=None: replace(find(wanted), rate=rate)
from audiossm.cli import main
main()
"""


class Listening:
    """A running `audiossm listen --json`, with the time at which each of its lines came."""

    def __init__(self, server, model, *options, rate=44100):
        self.model, self.lines, self.remarks = model, [], []
        self.process = subprocess.Popen(
            [sys.executable, "-c", AT_RATE, str(rate), "listen", str(model), "--json", *options],
            env=server.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.lines), (self.process.stderr, self.remarks))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe, lines):
        for line in pipe:
            lines.append((time.monotonic(), line.strip()))

    def remark(self, text, seconds=60):
        """Wait for a line on stderr that begins with `text`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _, line in self.remarks:
                if line.startswith(text):
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no line {text!r} in {seconds} s; there are {[line for _, line in self.remarks]}")

    @property
    def events(self):
        return [(when, json.loads(line)) for when, line in self.lines]

    def end(self):
        """Press Ctrl-C; return the summary."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0, self.remarks
        for reader in self._readers:
            reader.join(60)
        return next(line for _, line in reversed(self.remarks) if " s heard, " in line)  # PortAudio may write after it


def tones():
    """Words of the tiny model: low and high, half a second each. A list of (label, samples)."""
    t = np.arange(RATE) / RATE
    within = (t > 0.2) & (t < 0.7)
    sounds = {label: 0.3 * within * np.sin(2 * np.pi * hz * t) for label, hz in (("low", 500), ("high", 1500))}
    return list(sounds.items()) * (CLIPS["tones"] // 2)


def synthesised(model, folder):
    """Words as espeak-ng speaks them, of those that the model finds in a file: what is tested is the way to it."""
    data = pytest.importorskip("audiossm.data")
    words = [label for label in model.metadata.labels if not label.startswith("_")]
    clips = data.synthesise(words, folder, 6, seed=1, background=False, noise=False, progress=False)
    # With room: those that it still finds with a higher threshold, one after another as they are played.
    settings = model.metadata.detector
    stern = replace(model, metadata=replace(model.metadata, detector=replace(settings, threshold=0.6)))
    step, found, audio = round(EVERY * RATE), [], np.zeros(0, np.float32)
    for clip in np.random.default_rng(0).permutation(np.array(clips, object)):
        longer = np.concatenate([audio, np.zeros(step, np.float32)])
        samples = data.read_audio(clip.path)[0][:step]
        longer[len(audio) : len(audio) + len(samples)] += samples
        events = stern.stream(RATE).push(np.concatenate([longer, np.zeros(step, np.float32)]))
        if [event.label for event in events] == [label for label, _ in found] + [clip.label]:
            found.append((clip.label, samples))
            audio = longer
        if len(found) == CLIPS["synthesised"]:
            return found
    raise AssertionError(f"only {len(found)} synthesised words are found one after another")


def people(model):
    """Clips of speakers that no training heard, the words in turn."""
    with open(SHARED / "data" / "keywords" / "manifest.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test" and row["label"][0] != "_"]
    rng = np.random.default_rng(0)
    words = sorted({row["label"] for row in rows} & set(model.metadata.labels))
    chosen = []
    for i in range(CLIPS["people"]):
        label = words[i % len(words)]
        row = rng.choice([row for row in rows if row["label"] == label])
        chosen.append((label, soundfile.read(SHARED / "data" / "keywords" / row["path"], dtype="float32")[0]))
    return chosen


class Recording:
    """Clips one after the other in a file, and where in it each word begins and ends."""

    def __init__(self, path, clips):
        self.path, self.spans = path, []
        step = round(EVERY * RATE)
        audio = np.random.default_rng(0).normal(0, 1e-4, (len(clips) + 1) * step)
        for i, (label, samples) in enumerate(clips):
            audio[i * step : i * step + len(samples)] += samples
            power = np.convolve(np.square(samples), np.ones(320), "same")
            loud = np.flatnonzero(power > 0.01 * power.max())
            self.spans.append((label, i * EVERY + loud[0] / RATE, i * EVERY + loud[-1] / RATE))
        soundfile.write(path, audio.clip(-1, 1), RATE)

    def in_file(self, model):
        """How many of its words a stream finds in the file itself."""
        audio, rate = soundfile.read(self.path, dtype="float32")
        return self.heard(
            0.0, [(e.time, {"event": "keyword", "label": e.label}) for e in model.stream(rate).push(audio)]
        )

    def heard(self, began, events):
        """How many of its words came in time, when it began to be played at `began`."""
        return sum(
            any(
                event["event"] == "keyword" and event["label"] == label and first <= when - began <= last + PROMPT
                for when, event in events
            )
            for label, first, last in self.spans
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if reason := pulse.missing():
        pytest.skip(reason)
    names = [f"{words}{rate}" for words in CLIPS for rate in RATES]
    folder = tmp_path_factory.mktemp("pulse")
    server = pulse.Pulse(folder, {name: int(name[-5:]) for name in names} | {"noise": 48000, "screen": 16000})
    yield server
    server.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="module")
def released():
    """The model to listen with for words, or the reason why there is none: tones are heard without it."""
    name = os.environ.get("AUDIOSSM_LIVE_MODEL", "keywords")
    try:
        return load(name)
    except ValueError as error:
        return str(error)


@pytest.fixture(scope="module")
def played(server, model, released, tmp_path_factory):
    """Everything that takes long, begun at once."""
    folder = tmp_path_factory.mktemp("played")
    recordings = {"tones": (model, Recording(folder / "tones.wav", tones()))}
    if not isinstance(released, str):
        clips = {"synthesised": synthesised(released, folder / "synthesised")}
        if (SHARED / "data" / "keywords").exists():
            clips["people"] = people(released)
        for words in clips:
            recordings[words] = (released.name, Recording(folder / f"{words}.wav", clips[words]))
    soundfile.write(folder / "noise.wav", np.random.default_rng(0).normal(0, 0.03, 60 * RATE), RATE)

    listening = {
        f"{words}{rate}": Listening(server, who, "--device", f"{words}{rate}", rate=rate)
        for words, (who, _) in recordings.items()
        for rate in RATES
    }
    # A model hears the noise once, whatever else it is for.
    unmoved = [
        Listening(server, who, "--device", "noise") for who in dict.fromkeys(who for who, _ in recordings.values())
    ]
    for one in (*listening.values(), *unmoved):
        one.remark("listening to ")
    sounds = {name: recordings[name[:-5]][1].path for name in listening} | {"noise": folder / "noise.wav"}
    began, players = {}, {}

    def play(name):
        began[name] = time.monotonic()
        players[name] = server.play(sounds[name], name)

    def finish(name):
        """Wait for the end; a player that a busy machine's sound server dropped, no listener's fault, plays again."""
        for _ in range(2):
            if players[name].wait(120) == 0:
                return
            print(f"{name} is played again, since paplay said: {players[name].stderr.read()}")
            play(name)
        assert players[name].wait(120) == 0

    def result(words, rate):
        """Wait until it is over: (the listener, when its recording began, the recording)."""
        name = f"{words}{rate}"
        finish(name)
        time.sleep(PROMPT)
        return listening[name], began[name], recordings[words][1]

    for name in sounds:
        play(name)
    yield SimpleNamespace(result=result, finish=finish, unmoved=unmoved)
    for one in (*listening.values(), *unmoved):
        one.process.kill()


def test_a_terminal_shows_what_is_heard(server, played, model, tmp_path):
    """The log above, the panel below, and a terminal left as it was after Ctrl-C."""
    clips = Recording(tmp_path / "tones.wav", tones()[:2])
    terminal = Terminal(
        [sys.executable, "-m", "audiossm", "listen", model, "--device", "screen"], server.environment, columns=90
    )
    try:
        terminal.wait_for("screen at 44100 Hz")
        server.play(clips.path, "screen").wait()
        for label in ("low", "high"):
            terminal.wait_for(f"\x1b[1;32m{label}\x1b[0m")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(60) == 0
    finally:
        terminal.process.kill()
    terminal.check("dBFS, peak", "real-time factor", "behind by", "dropped 0.0 s", "latency 20 ms", "2 keywords")


@pytest.mark.parametrize("wanted", [None, "second"])
def test_a_microphone_lost_and_back(model, tmp_path, wanted):
    """Unplugged while it is heard, and plugged in again: the same program goes on, and so does its time."""
    if reason := pulse.missing():
        pytest.skip(reason)
    rates = {"first": 16000, "second": 48000}
    server = pulse.Pulse(tmp_path, rates)
    name = wanted or "first"
    word = Recording(tmp_path / "tones.wav", tones()[:1])
    options = ["--device", wanted] if wanted else []
    listening = Listening(server, model, *options)
    try:
        listening.remark("listening to ")
        server.play(word.path, name).wait()
        server.stop()
        gone = listening.remark("device lost: ")
        time.sleep(1)
        server.start()
        listening.remark(f"listening to {wanted or 'default'} at 44100 Hz again")
        server.play(word.path, name).wait()
        summary = listening.end()
    finally:
        listening.process.kill()
        server.stop()
    events = [event for _, event in listening.events]
    assert [event["event"] for event in events] == ["keyword", "lost", "back", "keyword"]
    times = [event["time"] for event in events]
    assert times == sorted(times) and times[2] - times[1] > 1
    assert "waiting for it" in gone and "device lost 1 times" in summary and "2 keywords" in summary


def test_ctrl_c_while_a_microphone_is_lost(model, tmp_path):
    if reason := pulse.missing():
        pytest.skip(reason)
    server = pulse.Pulse(tmp_path, {"only": 44100})
    listening = Listening(server, model)
    try:
        listening.remark("listening to default")
        server.stop()
        listening.remark("device lost: ")
        assert "device lost 1 times" in listening.end()
    finally:
        listening.process.kill()
        server.stop()
    assert not any("Traceback" in line for _, line in listening.remarks)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("words", CLIPS)
def test_words_come_in_time(played, released, words, rate):
    """At least 90 % of those that the same file gives, each within half a second of its end, and few for nothing."""
    if words != "tones" and isinstance(released, str):
        pytest.skip(released)
    if words == "people" and not (SHARED / "data" / "keywords").exists():
        pytest.skip(f"no recordings of people in {SHARED}/data/keywords (AUDIOSSM_SHARED names another folder)")
    listening, began, recording = played.result(words, rate)
    heard = recording.heard(began, listening.events)
    said = [event["label"] for when, event in listening.events if when >= began]
    assert heard >= 0.9 * recording.in_file(load(listening.model)), (heard, said)
    assert len(said) <= 1.25 * CLIPS[words], said


def test_nine_people_of_ten_are_heard(played, released):
    if isinstance(released, str) or not (SHARED / "data" / "keywords").exists():
        pytest.skip(f"no model or no recordings of people in {SHARED}/data/keywords")
    listening, began, recording = played.result("people", 16000)
    assert recording.heard(began, listening.events) >= 0.9 * CLIPS["people"]


def test_noise_says_nothing(played):
    played.finish("noise")
    for listening in played.unmoved:
        summary = listening.end()
        assert listening.events == [], listening.events
        seconds = float(summary.split(" s heard")[0])
        assert seconds > 55 and "dropped" not in summary, summary

"""`audiossm denoise --live` through sound cards: null sinks of PulseAudio (pulse.py); and its policy without one."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from audiossm.streaming import load_enhancer
from audiossm.streaming.enhancement.live import Live
from audiossm.streaming.enhancement.playback import Waiting

from .terminal import Terminal

HERE = Path(__file__).resolve().parent
tiny = SimpleNamespace(**run_path(str(HERE / "tiny_enhancer.py")))
pulse = SimpleNamespace(**run_path(str(HERE / "pulse.py")))

RATE = 48000


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("model") / "tiny.onnx")


# What waits for the sound card


def take(waiting, samples):
    out = np.full((samples, 1), np.nan, np.float32)
    waiting.take(out)
    return out[:, 0]


def ramp(begin, samples):
    return np.arange(begin, begin + samples, dtype=np.float32)[:, None]


def test_audio_waits_for_a_step_and_then_flows():
    waiting = Waiting(1, 1000, step=10)
    waiting.put(ramp(1, 9))
    assert not take(waiting, 5).any()  # less than a step: silence
    waiting.put(ramp(10, 6))
    np.testing.assert_array_equal(take(waiting, 5), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(take(waiting, 10), ramp(6, 10)[:, 0])
    assert waiting.stuttered == 0


def test_an_underrun_adds_a_step_of_delay():
    waiting = Waiting(1, 1000, step=10)
    waiting.put(ramp(1, 10))
    np.testing.assert_array_equal(take(waiting, 8), range(1, 9))
    np.testing.assert_array_equal(take(waiting, 4), [9, 10, 0, 0])
    assert waiting.stuttered == 1
    waiting.put(ramp(11, 19))
    assert not take(waiting, 5).any()  # two steps must wait now
    waiting.put(ramp(30, 1))
    np.testing.assert_array_equal(take(waiting, 5), ramp(11, 5)[:, 0])


def test_delay_is_given_back_smoothly_when_it_was_not_needed():
    waiting = Waiting(1, 1000, step=10)
    waiting.put(ramp(0, 50))
    jumps, before = [], None
    for i in range(800):
        got = take(waiting, 5)
        waiting.put(ramp(50 + 5 * i, 5))
        jumps += list(np.diff(got if before is None else [before, *got]))
        before = got[-1]
        waiting.relax()
    assert 10 <= len(waiting) <= 40 and waiting.stuttered == 0
    assert max(jumps) <= 3  # 20 samples of the ramp in the time of 10


def test_much_delay_is_given_back_within_seconds():
    """As after a moment in which the whole program was held up."""
    waiting = Waiting(1, 1000, step=10)
    waiting.put(ramp(0, 400))
    for i in range(3000):
        take(waiting, 5)
        waiting.put(ramp(400 + 5 * i, 5))
        waiting.relax()
    assert 10 <= len(waiting) <= 40 and waiting.stuttered == 0


def test_no_more_waits_than_half_a_second():
    waiting = Waiting(2, 1000, step=10)
    for _ in range(20):
        waiting.put(np.ones((100, 2), np.float32))
    assert len(waiting) == 500 and waiting.dropped == 1500


# The overload policy, with a microphone and a speaker that are played


class Played:
    """A microphone with so many seconds of audio that wait, and a speaker that keeps what it gets."""

    def __init__(self, audio, waiting):
        self.audio, self._waiting, self.device = audio, waiting, SimpleNamespace(name="played")
        self.rate, self.channels, self.latency, self.dropped = 16000, 1, 0.01, 0.0

    @property
    def waiting(self):
        return next(self._waiting)

    def blocks(self):
        yield from self.audio.reshape(-1, 160, 1)


def test_what_waits_for_too_long_passes(file, monkeypatch):
    heard = []
    speaker = SimpleNamespace(
        active=True, put=heard.append, waiting=SimpleNamespace(relax=lambda: None, stuttered=0), close=lambda: None
    )
    monkeypatch.setattr("audiossm.streaming.enhancement.live.Playback", lambda *_: speaker)
    audio = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    backlog = iter([0.0] * 40 + [0.2, 0.1, 0.05, 0.02] + [0.0] * 56)
    live = Live(load_enhancer(file), Played(audio, backlog))
    turns = live.turns()
    for _ in range(100):
        next(turns)
    got = np.concatenate(heard)[:, 0]
    assert live.heard == pytest.approx(1) and live.passed == pytest.approx(0.04)
    assert len(got) >= 16000 - live.stream.latency  # sound keeps flowing
    want = tiny.reference(audio)
    np.testing.assert_allclose(got[:6300], want[:6300], atol=1e-6)
    np.testing.assert_array_equal(got[6480:6800], audio[6480:6800])
    np.testing.assert_allclose(got[7400:], want[7400 : len(got)], atol=1e-6)


# Real sound cards


@pytest.fixture
def server(tmp_path):
    if reason := pulse.missing():
        pytest.skip(reason)
    server = pulse.Pulse(tmp_path, {"vmic": RATE, "vspk": RATE})
    with open(tmp_path / "asound.conf", "a") as file:
        file.write("pcm.cable { type pulse device vspk }\n")
    yield server
    server.stop()


def play(server, folder, name):
    """Say x.wav to the microphone, and record what the speaker plays."""
    command = ["parecord", "-d", "vspk.monitor", "--raw", f"--rate={RATE}", "--channels=1", "--format=s16le"]
    with open(folder / name, "wb") as file:
        recorder = subprocess.Popen(command, env=server.environment, stdout=file)
    time.sleep(0.5)
    assert server.play(folder / "x.wav", "vmic").wait() == 0
    time.sleep(0.8)
    recorder.terminate()
    recorder.wait()


def command(file, *options):
    devices = ["--device", "vmic", "--output", "cable", "--buffer", "200"]
    return [sys.executable, "-m", "audiossm", "denoise", str(file), "--live", *devices, *options]


def likeness(played, wanted):
    """The largest correlation of what is wanted with a stretch of what was played."""
    size = 1 << (len(played) + len(wanted)).bit_length()
    product = np.fft.rfft(played, size) * np.conj(np.fft.rfft(wanted, size))
    place = int(np.fft.irfft(product, size)[: len(played)].argmax())
    stretch = played[place : place + len(wanted)]
    shorter = wanted[: len(stretch)]
    return float(stretch @ shorter / np.sqrt((stretch @ stretch) * (wanted @ wanted)))


def test_from_microphone_to_speaker(server, file, tmp_path):
    """What a virtual device plays is the model's output, and the devices' loss and return is borne."""
    audio = 0.2 * np.convolve(np.random.default_rng(0).normal(size=RATE), np.ones(40) / 40, "same")
    soundfile.write(tmp_path / "x.wav", audio, RATE)
    process = subprocess.Popen(
        command(file, "--json"), env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert any(line == "vmic to cable at 44100 Hz; Ctrl-C ends\n" for line in process.stderr)
        play(server, tmp_path, "heard.raw")
        server.stop()
        assert any("lost: waiting for it" in line for line in process.stderr)
        server.start()
        assert any(line == "vmic to cable at 44100 Hz again\n" for line in process.stderr)
        play(server, tmp_path, "again.raw")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in err, err
    facts = json.loads(out)
    assert facts["losses"] == 1 and facts["seconds"] > 4 and facts["latency_ms"] == pytest.approx(18.8, abs=0.1)
    assert facts["passed_seconds"] < 1 and facts["real_time_factor"] < 0.5
    stream = load_enhancer(file).stream(RATE)
    want = np.concatenate([stream.push(audio), stream.flush()])
    for name in ("heard.raw", "again.raw"):
        played = np.frombuffer((tmp_path / name).read_bytes(), np.int16) / 32768
        # A busy machine may stutter, after which the rest is later.
        assert max(likeness(played, want[begin : begin + RATE // 4]) for begin in range(0, len(want), RATE // 4)) > 0.99


def test_a_terminal_shows_meters_and_takes_keys(server, file):
    terminal = Terminal(command(file), server.environment, columns=100)
    try:
        terminal.wait_for("vmic to cable at 44100 Hz")
        terminal.wait_for("b: bypass")
        terminal.press(b"b")
        terminal.wait_for("BYPASSED")
        terminal.press(b"q")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.process.kill()
    terminal.check("latency 19 ms", "with the devices", "real-time factor", "dBFS, peak", " s cleaned")


def test_devices_that_are_not_there(server, file):
    for options, words in ((["--device", "nothing"], "no input device"), (["--output", "nothing"], "no output device")):
        done = subprocess.run([*command(file), *options], env=server.environment, capture_output=True, text=True)
        lines = [line for line in done.stderr.splitlines() if line.startswith("audiossm: ")]
        assert done.returncode == 1 and len(lines) == 1 and words in lines[0], done.stderr
    listed = subprocess.run(
        [sys.executable, "-m", "audiossm", "devices", "--output", "--json"],
        env=server.environment,
        capture_output=True,
        text=True,
    )
    assert "cable" in [device["name"] for device in json.loads(listed.stdout)]

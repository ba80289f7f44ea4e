"""The microphone: ring, choice of a device, overload and loss with a played sound card, and a real one.

The real one is PortAudio on ALSA with a file as its microphone: no hardware, no daemon, no clock.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from runpy import run_path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from audiossm.streaming import Back, Listener, Lost, Microphone, find_device, input_devices, load
from audiossm.streaming import listener as listening
from audiossm.streaming import microphone as module
from audiossm.streaming.ring import Ring

tiny = SimpleNamespace(**run_path(str(Path(__file__).with_name("tiny_model.py"))))


# The ring


def block(value, n=4):
    return np.full((n, 1), value, np.float32)


def test_ring_keeps_the_order():
    ring = Ring(3, (4, 1))
    for value in range(10):
        ring.put(block(value, n=4 if value % 2 else 3))
        got = ring.get(0)
        np.testing.assert_array_equal(got, block(value, n=4 if value % 2 else 3))
    assert ring.get(0) is None and ring.dropped == 0


def test_ring_drops_the_oldest_and_counts():
    ring = Ring(3, (4, 1))
    store = ring._store
    for value in range(8):
        ring.put(block(value))
    assert ring.dropped == 5 * 4
    assert [ring.get(0)[0, 0] for _ in range(3)] == [5, 6, 7]
    assert ring.get(0) is None and ring._store is store


def test_ring_wakes_a_waiting_reader():
    ring, got = Ring(3, (4, 1)), []
    reader = threading.Thread(target=lambda: got.append(ring.get(60)))
    reader.start()
    ring.put(block(1))
    reader.join(60)
    np.testing.assert_array_equal(got[0], block(1))


# A sound card that is played


class PortAudioError(Exception):
    pass


class PlayedStream:
    """Stands in for sounddevice.InputStream; the test calls the callback."""

    def __init__(self, **options):
        self.options, self.active, self.latency = options, False, 0.04

    def start(self):
        self.active = True

    def close(self):
        self.active = False

    def deliver(self, value, overflow=False):
        shape = (self.options["blocksize"], self.options["channels"])
        data = np.full(shape, value, np.float32)
        self.options["callback"](data, len(data), None, SimpleNamespace(input_overflow=overflow))
        data[:] = np.nan  # PortAudio's buffer is valid only during the callback


def device(index, name, host=0, channels=2, rate=48000.0):
    return {
        "index": index,
        "name": name,
        "hostapi": host,
        "max_input_channels": channels,
        "default_samplerate": rate,
    }


@pytest.fixture
def card(monkeypatch):
    """Replace sounddevice; its devices and what they accept can be changed."""
    sd = ModuleType("sounddevice")
    sd.devices = [
        device(0, "Speaker", channels=0),
        device(1, "Built-in Microphone", rate=44100.0),
        device(2, "USB Microphone"),
        device(3, "USB Microphone", host=1),
        device(4, "Loopback", channels=6),
    ]
    sd.accepts = lambda rate, channels: True
    sd.query_devices = lambda: sd.devices
    sd.query_hostapis = lambda: [{"name": "Core"}, {"name": "Old"}]
    sd.default = SimpleNamespace(device=[1, 0])
    sd.PortAudioError = PortAudioError
    sd.InputStream = PlayedStream
    sd.looks = 0

    def _initialize():
        sd.looks += 1

    sd._terminate, sd._initialize = lambda: None, _initialize

    def check_input_settings(device, samplerate, channels, dtype):
        if not sd.accepts(samplerate, channels):
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")

    sd.check_input_settings = check_input_settings
    monkeypatch.setitem(sys.modules, "sounddevice", sd)
    return sd


def test_only_inputs_are_listed(card):
    assert [found.index for found in input_devices()] == [1, 2, 3, 4]
    assert [found.default for found in input_devices()] == [True, False, False, False]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (None, 1),
        (4, 4),
        ("4", 4),
        ("built", 1),
        ("LOOP", 4),
        ("usb mic", 2),
        ("USB Microphone, Old", 3),
        (3, 3),
    ],
)
def test_find_device(card, wanted, index):
    assert find_device(wanted).index == index


def test_unknown_and_ambiguous_devices_list_the_candidates(card):
    with pytest.raises(ValueError, match=r"no input device 'Webcam'; there are 1: Built-in Microphone"):
        find_device("Webcam")
    with pytest.raises(ValueError, match="no input device '0'"):  # a speaker
        find_device(0)
    with pytest.raises(ValueError, match=r"several input devices: 1: Built-in.*, 2: USB.*; give an index"):
        find_device("microphone")
    with pytest.raises(ValueError, match="name is empty"):
        find_device(" ")


def test_exact_name_wins(card):
    card.devices.append(device(5, "Loopback 2"))
    assert find_device("loopback").index == 4


def test_no_input_device(card):
    card.devices = card.devices[:1]
    with pytest.raises(OSError, match="there is no input device"):
        find_device()


def test_no_default_device(card):
    card.default.device = [-1, -1]
    with pytest.raises(OSError, match="no default input device; choose one of 1: "):
        find_device()


def test_the_device_chooses_the_rate(card):
    assert (Microphone().rate, Microphone().channels) == (44100, 1)
    assert Microphone("loop").rate == 48000
    card.accepts = lambda rate, channels: channels == 6
    assert (Microphone("loop").rate, Microphone("loop").channels) == (48000, 6)
    card.accepts = lambda rate, channels: rate == 16000
    assert Microphone().rate == 16000
    card.accepts = lambda rate, channels: False
    with pytest.raises(OSError, match=r"'Built-in Microphone' accepts none of .*-9997"):
        Microphone()


def test_blocks_arrive_in_order(card):
    with Microphone() as mic:
        blocks = mic.blocks()
        for value in range(500):  # more than the ring holds
            mic._stream.deliver(value, overflow=value == 7)
            got = next(blocks)
            assert got.shape == (441, 1) and (got == value).all()
        stream = mic._stream
    assert mic.overflows == 1 and mic.dropped == 0 and not stream.active


def test_overload_drops_the_oldest(card):
    with Microphone(block=0.01, buffer=0.05) as mic:
        for value in range(8):
            mic._stream.deliver(value)
        blocks = mic.blocks()
        assert [next(blocks)[0, 0] for _ in range(5)] == [3, 4, 5, 6, 7]
    assert mic.dropped == pytest.approx(0.03)


def test_a_stream_that_stops_is_a_lost_device(card):
    with Microphone() as mic:
        mic._stream.deliver(1)
        mic._stream.active = False
        blocks = mic.blocks()
        assert next(blocks)[0, 0] == 1  # what was heard is still delivered
        with pytest.raises(RuntimeError, match="device lost: 'Built-in Microphone'"):
            next(blocks)


def test_silence_of_the_callback_is_a_lost_device(card, monkeypatch):
    monkeypatch.setattr(module, "SILENT", 0.0)
    monkeypatch.setattr(module, "POLL", 0.001)
    with Microphone() as mic, pytest.raises(RuntimeError, match="device lost"):
        next(mic.blocks())


@pytest.mark.parametrize(
    ("wanted", "devices", "found"),
    [
        (None, [device(0, "Headset", rate=16000.0)], 0),  # another default will do
        ("built", [device(0, "Headset"), device(2, "Built-in Microphone")], 2),
        (1, [device(0, "Built-in Microphone"), device(1, "Headset")], 0),  # the index means another one now
        (2, [device(1, "USB Microphone"), device(2, "USB Microphone")], 2),  # twins
        ("built", [device(1, "Headset")], None),
        (1, [device(1, "Headset")], None),
        (None, [], None),
    ],
)
def test_a_lost_device_is_known_again(card, wanted, devices, found):
    with Microphone(wanted, buffer=0.02) as mic:
        for _ in range(3):
            mic._stream.deliver(0)
        assert mic.dropped == pytest.approx(0.01)
        card.devices, card.default.device = devices, [0, 0]
        assert mic.reopen() == (found is not None) and card.looks == 1
        assert mic.dropped == pytest.approx(0.01)  # whatever the rate is now
        if found is not None:
            assert mic.device.index == found and mic.rate == mic.device.rate
            mic._stream.deliver(7)
            assert (next(mic.blocks()) == 7).all()


def test_ctrl_c_waits_until_a_look_for_devices_is_over(card):
    """Half done, it would leave PortAudio and sounddevice of two minds, and the program would end with a traceback."""
    card._terminate = lambda: signal.raise_signal(signal.SIGINT)
    with Microphone() as mic, pytest.raises(KeyboardInterrupt):
        mic.reopen()
    assert card.looks == 1
    card._terminate = lambda: None
    with Microphone() as mic:
        assert mic.reopen()  # and the next one is as before


def test_behind_is_what_waits_and_what_the_clock_misses(card, monkeypatch):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with Microphone("loop") as mic:
        blocks = mic.blocks()

        def second(delivered, heard):
            nonlocal now
            now += 1
            for _ in range(delivered):
                mic._stream.deliver(0)
            for _ in range(heard):
                next(blocks)
            return pytest.approx(mic.behind, abs=1e-9)

        assert second(100, 100) == 0
        assert second(100, 70) == 0.3  # we are slow: it waits in the ring
        assert second(100, 130) == 0
        assert second(60, 60) == 0.4  # the card is slow, and no flag is set
        assert second(100, 100) == 0.4
        for _ in range(10):
            late = second(100, 100)
        assert late == 0  # lost for good, and long ago


def test_a_listener_goes_on_when_its_microphone_is_back(card, tmp_path, monkeypatch):
    """The default is lost; another one, at another rate, takes its place. The words are heard on one clock."""
    monkeypatch.setattr(module, "POLL", 0.001)
    monkeypatch.setattr(module, "SILENT", 0.02)
    monkeypatch.setattr(listening, "POLL", 0.001)
    monkeypatch.setattr(listening, "AGAIN", 0.002)
    with Microphone(buffer=10) as mic:
        listener = Listener(load(tiny.build(tmp_path / "tiny.onnx")), mic)
        news = listener.news()

        def say(hz, seconds):
            """Deliver a tone in blocks; return what is told until all are heard."""
            told = []
            for block in range(round(seconds * 100)):
                t = (np.arange(mic.rate // 100) + block * mic.rate // 100) / mic.rate
                mic._stream.deliver(0.3 * np.sin(2 * np.pi * hz * t)[:, None])
                told += next(news)
            return told

        (low,) = say(500, 0.5)
        assert low.label == "low" and listener.heard == pytest.approx(0.5) and listener.level.rms > -15
        mic._stream.active = False
        card.devices = []
        (lost,) = next(news)
        assert lost == Lost("Built-in Microphone", pytest.approx(0.5))
        assert listener.waiting and listener.level.peak == -120 and not listener.stream.posteriors.any()
        assert [next(news) for _ in range(5)] == [[]] * 5  # there is time to draw
        card.devices, card.default.device = [device(0, "Headset", rate=16000.0)], [0, 0]
        assert next(news) == []  # it opens, but delivers nothing

        def start(stream):
            stream.active = True
            stream.deliver(0)

        monkeypatch.setattr(PlayedStream, "start", start)
        assert listener.waiting
        (back,) = next(news)
        assert back == Back("Headset", 16000, back.time) and back.time > lost.time and not listener.waiting
        (high,) = say(1500, 0.5)
        assert high.label == "high" and back.time < high.time < back.time + 0.5
        assert listener.heard == pytest.approx(1.01)


def test_a_device_that_does_not_open_or_start(card, monkeypatch):
    def fail(*_, **__):
        raise PortAudioError("Device unavailable [PaErrorCode -9985]")

    monkeypatch.setattr(PlayedStream, "start", fail)
    with pytest.raises(OSError, match=r"cannot start .*-9985"), Microphone():
        pass
    card.InputStream = fail
    with pytest.raises(OSError, match=r"cannot open .*-9985"):
        Microphone()


def test_without_portaudio(monkeypatch, tmp_path):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with pytest.raises(OSError, match="apt install libportaudio2") as error:
        Microphone()
    assert "\n" not in str(error.value)


# A real one: PortAudio and ALSA


def has_portaudio():
    code = "import sounddevice as sd; sd.query_hostapis(sd.default.hostapi)['name'] == 'ALSA' or 1 / 0"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def has_alsa():
    return sys.platform == "linux" and Path("/usr/share/alsa/alsa.conf").exists() and has_portaudio()


needs_alsa = pytest.mark.skipif(not has_alsa(), reason="needs ALSA: apt install libportaudio2 libasound2-plugins")


@pytest.fixture
def sound_card(tmp_path):
    """Environment of a machine whose default microphone plays `in.raw`, one second at 44.1 kHz.

    The file holds what is asked of the device (float32, mono): converting, ALSA would lose samples here.
    """
    samples = np.random.default_rng(0).normal(0, 0.1, 44100).astype("<f4")
    samples.tofile(tmp_path / "in.raw")
    config = tmp_path / "asound.conf"
    config.write_text(f"""
        pcm.filemic {{
            type file
            slave {{ pcm {{ type null }} }}
            file "/dev/null"
            infile "{tmp_path}/in.raw"
            format raw
        }}
        pcm.!default {{
            type plug
            slave.pcm "filemic"
        }}
    """)
    return os.environ | {"ALSA_CONFIG_PATH": str(config)}, samples


@needs_alsa
def test_real_device_delivers_its_samples(sound_card):
    environment, samples = sound_card
    code = """
import sys, numpy as np
from audiossm.streaming import Microphone
heard = []
with Microphone("default", buffer=120) as mic:  # the device is not clocked: leave room for all it delivers
    for block in mic.blocks():
        heard.append(block)
        if len(heard) == 100:
            break
assert mic.rate == 44100 and mic.channels == 1
sys.stdout.buffer.write(np.concatenate(heard).tobytes())
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32), samples)


@needs_alsa
def test_listen_live_until_interrupted(sound_card, tmp_path):
    model = tiny.build(tmp_path / "tiny.onnx")
    process = subprocess.Popen(
        [sys.executable, "-m", "audiossm", "listen", model, "--device", "default"],
        env=sound_card[0],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stderr.readline()
    while line and not line.startswith("listening to default at 44100 Hz"):
        line = process.stderr.readline()  # ALSA's own remarks
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert line and process.returncode == 0 and " s heard, " in err and "Traceback" not in err


@needs_alsa
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "Webcam"], "there is no input device 'Webcam'; there are 0: "),
        (["--device", "999"], "'999'"),
    ],
)
def test_listen_to_an_unknown_device(sound_card, tmp_path, arguments, message):
    model = tiny.build(tmp_path / "tiny.onnx")
    command = [sys.executable, "-m", "audiossm", "listen", model, *arguments]
    done = subprocess.run(command, env=sound_card[0], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stdout == ""
    assert message in done.stderr.splitlines()[-1] and done.stderr.splitlines()[-1].startswith("audiossm: ")


@needs_alsa
def test_devices_of_a_real_machine(sound_card):
    command = [sys.executable, "-m", "audiossm", "devices", "--json"]
    done = subprocess.run(command, env=sound_card[0], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and '"name": "default"' in done.stdout and '"rate": 44100' in done.stdout

"""The edge runtime through real ONNX Runtime, on a small model whose definition is known (tiny_model.py)."""

import json
import os
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from audiossm.streaming import (
    FrameClock,
    Metadata,
    load,
    rate_constants,
    released_models,
    taps,
    windows,
    with_constants,
)

tiny = SimpleNamespace(**run_path(str(Path(__file__).with_name("tiny_model.py"))))
CUTS = (0, 1, 7, 160, 4096)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny.build(tmp_path_factory.mktemp("model") / "tiny.onnx"))


def speech(rate, seconds=2.0):
    """Two 'words': a tone of 500 Hz, a pause, one of 1500 Hz, in faint noise; (n,) float32."""
    t = np.arange(round(rate * seconds)) / rate
    word = ((t > 0.3) & (t < 0.6)) * np.sin(2 * np.pi * 500 * t)
    word += ((t > 1.1) & (t < 1.4)) * np.sin(2 * np.pi * 1500 * t)
    return (0.3 * word + np.random.default_rng(1).normal(0, 1e-3, len(t))).astype(np.float32)


def cut(audio, seed):
    """Yield audio in random pieces of CUTS samples."""
    rng, begin = np.random.default_rng(seed), 0
    while begin < len(audio):
        size = int(rng.choice(CUTS))
        yield audio[begin : begin + size]
        begin += size


# Taps and windows


def brute_taps(rate, tick):
    """FORMAT.md by numerical quadrature, in exact positions: {sample: (K,)} for a tick of the stream."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    start = Fraction(tick, 200)
    centre = tiny.POLES.imag.mean(1) / (2 * np.pi)
    gain = np.array([np.pi * c / rate / np.sin(np.pi * c / rate) if c < rate / 2 else 0 for c in centre])
    result = {}
    for sample in range(floor(start * rate), ceil((start + Fraction(1, 200)) * rate)):
        columns = []
        for r in range(1, tiny.R + 1):
            read = start + Fraction(r, 200 * tiny.R)
            a, b = (min(max(Fraction(n, rate), start), read) for n in (sample, sample + 1))
            times = float(b - a) / 2 * (nodes + 1) + float(a - start)
            kernel = np.exp(tiny.POLES[..., None] * (float(read - start) - times))
            mode = (kernel * weights).sum(-1) * float(b - a) / 2 * gain[:, None]
            columns.append((mode * tiny.WEIGHTS).sum(1))
        modes = np.stack([mode.real.T, mode.imag.T])  # (2, M, C)
        outputs = np.stack([[column.real, column.imag] for column in columns])  # (R, 2, C)
        result[sample] = np.concatenate([modes.ravel(), outputs.ravel()])
    return result


@pytest.mark.parametrize("rate", [4000, 6025, 8000, 11025, 12000, 16000, 22050, 44100, 48000])
def test_taps_are_the_integral_of_the_held_signal(rate):
    clock = FrameClock(rate)
    count = 1 if rate % 200 == 0 else 2 if rate % 100 == 0 else 4  # phases
    for frame in range(3):
        first = floor(Fraction(frame * rate, 50))
        assert clock.samples == ceil(Fraction((frame + 1) * rate, 50)) - first
        tap, window = taps(tiny.BANK, clock, frame), windows(clock, frame)
        assert tap.dtype == np.float32 and window.dtype == np.int64
        assert len(tap) == count and window.shape == (4, tap.shape[1])
        assert window.min() >= 0 and window.max() == clock.samples - 1
        for i in range(4):
            expected = np.zeros((clock.samples, tap.shape[2]))
            for sample, row in brute_taps(rate, 4 * frame + i).items():
                expected[sample - first] = row
            got = np.zeros_like(expected)
            np.add.at(got, window[i], tap[i % count])
            assert np.linalg.norm(got - expected) <= 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100])
def test_the_constants_of_a_file_are_the_taps_of_each_tick(rate):
    clock = FrameClock(rate)
    for frame in range(clock.period):
        found, tap = rate_constants(tiny.BANK, clock, frame), taps(tiny.BANK, clock, frame)
        audio = np.random.default_rng(0).normal(size=clock.samples).astype(np.float32)
        rows = (audio[found["windows"]] @ found["taps"]).reshape(4 * len(tap), -1)[found["picked"]]
        for i in range(4):
            np.testing.assert_allclose(rows[i], audio[found["windows"][i]] @ tap[i % len(tap)], rtol=1e-4, atol=1e-6)


def test_constants_of_a_file_are_exchanged_in_its_bytes(tmp_path):
    """As any protobuf library would: other shapes, other values, all else as it was."""
    path = tiny.build(tmp_path / "tiny.onnx")
    new = {"taps": np.arange(6, dtype=np.float32).reshape(2, 3), "windows": np.arange(300).reshape(1, 300)}
    before = onnx.load(path)
    after = onnx.ModelProto.FromString(with_constants(path.read_bytes(), new))
    for tensor in after.graph.initializer:
        old = next(t for t in before.graph.initializer if t.name == tensor.name)
        expected = new.get(tensor.name, numpy_helper.to_array(old))
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), expected)
        tensor.CopyFrom(old)
    assert after == before
    with pytest.raises(ValueError, match="lacks the constant nothing"):
        with_constants(path.read_bytes(), {"nothing": new["taps"]})


@pytest.mark.parametrize(
    ("rate", "grid"), [(16001, 16000), (11012, 11000), (11013, 11025), (44056, 44050), (4000, 4000)]
)
def test_an_odd_rate_is_laid_out_on_the_nearest_multiple_of_25(model, rate, grid):
    stream = model.stream(rate)
    assert stream.clock.grid == grid and stream.rate == rate
    stream.push(np.zeros(rate, np.float32))
    assert stream.clock.seconds(50) == grid / rate


@pytest.mark.parametrize("rate", [0, -1, 3999, 192001, 16000.5, 44100.0, "44100", True, float("nan")])
def test_impossible_rates(model, rate):
    with pytest.raises(ValueError, match="sampling rate must be"):
        model.stream(rate)


# One meaning


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 16000, 22050, 44100, 48000])
def test_stream_is_the_model_by_definition(model, rate):
    audio = speech(rate)
    expected = tiny.reference(audio, rate)
    got = model.stream(rate).scores(audio)
    assert got.shape == expected.shape == (100, 4)
    assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)


def test_the_file_runs_without_our_runtime(model):
    """At the native rate audio and state are enough, and our stream is the same to the last bit."""
    audio, state, rows = speech(16000), np.zeros((1, model.metadata.state_size), np.float32), []
    for frame in audio.reshape(-1, 1, 320):
        row, state = model.sessions(FrameClock(16000))[0].run(
            ["posteriors", "state_out"], {"audio": frame, "state": state}
        )
        rows.append(row[0])
    np.testing.assert_array_equal(model.stream().scores(audio), rows)


@pytest.mark.parametrize("rate", [16000, 44100, 11025, 48000])
def test_results_do_not_depend_on_the_cuts(model, rate):
    audio, stream = speech(rate), model.stream(rate)
    scores = stream.scores(audio)
    stream.reset()
    events = stream.push(audio) + stream.flush()
    assert [event.label for event in events] == ["low", "high"]
    for seed in range(4):
        stream = model.stream(rate)
        np.testing.assert_array_equal(np.concatenate([stream.scores(c) for c in cut(audio, seed)]), scores)
        stream.reset()
        found = [event for chunk in cut(audio, seed) for event in stream.push(chunk)]
        assert found + stream.flush() == events


def test_a_lost_state_would_be_seen(model):
    """The mutation that the tests above must catch."""
    audio, stream, broken = speech(44100), model.stream(44100), model.stream(44100)
    whole = stream.scores(audio)
    head = broken.scores(audio[:30000])
    broken._states[:] = 0
    tail = broken.scores(audio[30000:])
    assert np.abs(np.concatenate([head, tail]) - whole).max() > 1e-3


def test_events_at_every_rate(model):
    for rate in (8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000):
        events = model.stream(rate).push(speech(rate))
        assert [event.label for event in events] == ["low", "high"]
        assert 0.3 < events[0].time < 0.7 and 1.1 < events[1].time < 1.5
        assert all(0.6 <= event.score <= 1 for event in events)


def test_two_streams_share_a_model(model):
    audio = speech(16000)
    alone = model.stream().scores(audio)
    one, two, rows = model.stream(), model.stream(), []
    for begin in range(0, len(audio), 500):
        rows.append(one.scores(audio[begin : begin + 500]))
        two.push(-audio[begin : begin + 777])
    np.testing.assert_array_equal(np.concatenate(rows), alone)


# What may come in


def test_int16_is_the_same_audio(model):
    samples = np.round(speech(16000) * 32768).astype(np.int16)
    same = samples / np.float32(32768)
    scores = model.stream().scores(same)
    np.testing.assert_array_equal(model.stream().scores(samples), scores)
    np.testing.assert_array_equal(model.stream().scores(same.astype(np.float64)), scores)


def test_channels_are_averaged(model):
    left, right = speech(44100), np.random.default_rng(2).normal(0, 0.1, 88200).astype(np.float32)
    both = np.stack([left, right], 1)
    mean = ((left.astype(np.float64) + right) / 2).astype(np.float32)
    scores = model.stream(44100).scores(mean)
    np.testing.assert_array_equal(model.stream(44100).scores(both), scores)
    np.testing.assert_array_equal(model.stream(44100).scores(np.asfortranarray(both)), scores)
    stream = model.stream(44100)
    np.testing.assert_array_equal(np.concatenate([stream.scores(c) for c in cut(both, 3)]), scores)
    np.testing.assert_array_equal(model.stream(44100).scores(left[:, None]), model.stream(44100).scores(left))


@pytest.mark.parametrize("rate", [16000, 11025])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bad_samples_never_reach_the_state(model, dtype, rate):
    audio = speech(rate).astype(dtype)
    poisoned, clean = audio.copy(), audio.copy()
    where = [0, 1000, 1001, 5000, 5001, 5002, 20000]
    poisoned[where] = [np.nan, np.inf, -np.inf, 1e7, -1e7, 1.1e6, 1e30]
    clean[where] = 0
    expected = model.stream(rate).scores(clean)
    for cuts in (1, 7, 160, 4096, len(audio)):
        stream = model.stream(rate)
        got = [stream.scores(poisoned[begin : begin + cuts]) for begin in range(0, len(audio), cuts)]
        np.testing.assert_array_equal(np.concatenate(got), expected)
        assert stream.bad_samples == len(where) and np.isfinite(stream._states).all()
    stream.push(np.stack([poisoned, audio], 1))
    assert stream.bad_samples == 2 * len(where)
    stream.reset()
    assert stream.bad_samples == 0


@pytest.mark.parametrize("value", [999.0, 1001.0, 5e5, -5e5, 1e6])
def test_a_loud_sample_passes_at_any_chunking(model, value):
    audio = speech(16000)
    audio[5000] = value
    reference = model.stream()
    expected = reference.scores(audio)
    assert reference.bad_samples == 0
    assert np.abs(expected - model.stream().scores(speech(16000))).max() > 1e-3  # it was heard
    for cuts in (1, 7, 160, 4096):
        stream = model.stream()
        got = [stream.scores(audio[begin : begin + cuts]) for begin in range(0, len(audio), cuts)]
        np.testing.assert_array_equal(np.concatenate(got), expected)
        assert stream.bad_samples == 0


@pytest.mark.parametrize(
    "chunk",
    [
        np.zeros(5, np.int32),
        np.zeros(5, np.uint8),
        np.zeros(5, complex),
        np.zeros(5, np.float16),
        "text",
        None,
    ],
)
def test_wrong_type(model, chunk):
    with pytest.raises(ValueError, match="a chunk must"):
        model.stream().push(chunk)


@pytest.mark.parametrize("shape", [(), (2, 2, 2), (5, 0)])
def test_wrong_shape(model, shape):
    with pytest.raises(ValueError, match="a chunk must have shape"):
        model.stream().push(np.zeros(shape, np.float32))


def test_empty_chunks(model):
    stream = model.stream()
    assert stream.push(np.zeros(0, np.float32)) == stream.push(np.zeros((0, 2), np.int16)) == []
    assert stream.scores(np.zeros(0, np.float32)).shape == (0, 4)
    assert stream.flush() == [] and stream.seconds == 0


# The life of a stream


def test_reset_is_as_new(model):
    for rate in (16000, 11025):
        audio, stream = speech(rate), model.stream(rate)
        first = stream.scores(audio[:-100])
        assert stream.seconds > 0 and stream.posteriors.any()
        np.testing.assert_array_equal(stream.posteriors, first[-1])
        stream.reset()
        assert stream.seconds == 0 and not stream.posteriors.any()
        np.testing.assert_array_equal(stream.scores(audio[:-100]), first)
        stream.reset()
        stream.push(audio[: rate // 2])  # ends inside the first word, already reported
        stream.reset()
        assert stream.push(audio) == model.stream(rate).push(audio)


@pytest.mark.parametrize("rate", [16000, 11025])
def test_flush_completes_the_last_frame_with_zeros(model, rate):
    audio = speech(rate)[: rate // 2 + 100]
    padded = np.concatenate([audio, np.zeros(rate // 50, np.float32)])
    stream = model.stream(rate)
    expected = model.stream(rate).scores(padded)[: len(audio) * 50 // rate + 1]
    np.testing.assert_array_equal(stream.scores(audio, last=True), expected)
    assert stream.seconds == 0
    events = stream.push(audio) + stream.flush()
    assert [event.label for event in events] == ["low"]
    assert stream.flush() == []


def test_flush_adds_no_frame_to_whole_ones(model):
    for rate in (16000, 11025):
        assert len(model.stream(rate).scores(speech(rate, 1.0), last=True)) == 50
    # At 11025 Hz frame 0 ends amid sample 220, which frame 1 reads again: it alone begins no frame.
    assert len(model.stream(11025).scores(np.zeros(221, np.float32), last=True)) == 1
    assert len(model.stream(11025).scores(np.zeros(222, np.float32), last=True)) == 2


def test_an_event_of_a_flush_lies_within_the_input(model):
    audio = speech(16000)
    time = model.stream().push(audio)[0].time
    stream = model.stream()
    short = audio[: round(time * 16000) - 100]
    assert stream.push(short) == []
    assert [event.time for event in stream.flush()] == [len(short) / 16000]


def test_memory_does_not_grow(model):
    stream, audio = model.stream(44100), speech(44100)
    buffers = [stream._audio, stream._states, stream._posteriors, stream._detector._ring]
    places = [(buffer.ctypes.data, buffer.nbytes) for buffer in buffers]
    stream.push(audio)
    tracemalloc.start()
    try:
        for _ in range(3):
            stream.push(audio)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(30):
            stream.push(audio)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 2000
    assert places == [(buffer.ctypes.data, buffer.nbytes) for buffer in buffers]


# Loading


def test_metadata(model):
    meta = model.metadata
    assert (meta.task, meta.rate, meta.frame, meta.labels) == ("keywords", 16000, 320, tuple(tiny.LABELS))
    assert [(part.name, part.shape, part.size) for part in meta.state] == [
        ("modes", (2, 2, 3), 12),
        ("memory", (3,), 3),
    ]
    np.testing.assert_array_equal(meta.filterbank.poles, tiny.POLES)
    json.dumps(meta.summary())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 3}, "pip install --upgrade audiossm"),
        ({"format": 1}, "export it again"),
        ({"format": None}, "no format number"),
        ({"task": "dancing"}, "task 'dancing' is unknown"),
        ({"labels": None}, "lacks 'labels'"),
        ({"labels": ["one"]}, "posteriors has shape"),
        ({"state": []}, "state has shape"),
        ({"state": [{"name": "modes", "shape": [3], "offset": 7}]}, "gap or an overlap at 'modes'"),
        ({"detector": {}}, "lacks 'smoothing'"),
        ({"filterbank": {"poles": [1, 2], "weights": [], "readouts": 1}}, "malformed"),
        ({"rate": 8000}, "does not allow: frame"),
        ({"tick": 0.01}, "does not allow: tick"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, changes, message):
    path = tiny.build(tmp_path / "m.onnx", changes)
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert "m.onnx" in str(error.value) and "\n" not in str(error.value)


def test_metadata_that_is_no_json():
    with pytest.raises(ValueError, match="no JSON"):
        Metadata.parse("{")
    with pytest.raises(ValueError, match="no format number"):
        Metadata.parse("[1]")


def test_files_that_are_no_models(tmp_path):
    good = tiny.build(tmp_path / "good.onnx").read_bytes()
    for name, content in {"text": b"hello", "empty": b"", "torn": good[: len(good) // 2]}.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is not an (ONNX file|audiossm model)") as error:
            load(path)
        assert "\n" not in str(error.value)
    foreign = tiny.build(tmp_path / "foreign.onnx", key="something")
    with pytest.raises(ValueError, match="not an audiossm model"):
        load(foreign)
    with pytest.raises(FileNotFoundError, match="no released model"):
        load(tmp_path / "nowhere.onnx")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        load(tmp_path)


@pytest.mark.parametrize("name", released_models("keywords"))
def test_released_models_load(name):
    model = load(name)
    assert model.stream(44100).scores(np.zeros(44100, np.float32)).shape == (50, len(model.metadata.labels))


def test_the_runtime_needs_no_torch():
    code = "import sys, audiossm.streaming; print(sorted({'torch', 'onnx', 'sounddevice'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("asked", "given"), [(None, "1"), ("0", "0")])
def test_onnx_runtime_sends_no_telemetry_unasked(asked, given):
    """It reads the variable when it is imported, so ours comes first; what the user has set stays."""
    code = "import audiossm.streaming, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"ORT_DISABLE_TELEMETRY": asked} if asked else {}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == given

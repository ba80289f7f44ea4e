"""The exported file is the module: at every rate and chunking, from any state, and an export that is not says so."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from audiossm.backbones import Block, Stack
from audiossm.export import export_keywords, keywords
from audiossm.export.frame import StateLayout
from audiossm.export.stack import is_one_system
from audiossm.export.verify import verify
from audiossm.mixers import S4D
from audiossm.streaming import FrameClock, Metadata, load, rate_constants
from audiossm.streaming.metadata import DetectorSettings
from audiossm.tasks import KeywordConfig, KeywordModel
from audiossm.tasks.pooling import FadingMean
from audiossm.training import load_model, save_model

SECONDS = 20
LABELS = ("one", "two", "three", "_other_")
TRAINING = {"clips": 0, "note": "none"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a model of random parameters and statistics."""
    torch.manual_seed(0)
    model = KeywordModel(KeywordConfig(LABELS, channels=12, modes=2, d_model=10, layers=2, d_state=6))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(8.0 if name.startswith("norm.") else 0.0, 1.0)
            if name.endswith("running_var"):
                buffer.uniform_(4.0, 16.0) if name.startswith("norm.") else buffer.uniform_(0.5, 2.0)
        logits = model.eval()(torch.from_numpy(speech(16000, 10)).reshape(1, -1, 1))[0]
        scale = 1.5 / logits.std(1)[0]  # so that every posterior moves
        model.head.weight.mul_(scale.unsqueeze(1))
        model.head.bias.copy_(scale * (model.head.bias - logits.mean(1)[0]))
    folder = tmp_path_factory.mktemp("run")
    save_model(folder, model, TRAINING)
    return folder


@pytest.fixture(scope="module")
def module(run):
    return load_model(run)[0]


@pytest.fixture(scope="module")
def path(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "native.onnx"
    done = export_keywords(run, out, data_terms="CC0")
    assert done.path == out and done.bytes == out.stat().st_size and done.error < 1e-4
    assert [file.name for file in out.parent.iterdir()] == ["native.onnx"]
    return out


@pytest.fixture(scope="module")
def path_44100(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "44100.onnx"
    export_keywords(run, out, rate=44100)
    return out


@pytest.fixture(scope="module")
def proto(path):
    return onnx.load(path)


def speech(rate, seconds=SECONDS):
    """A buzzing voice with a moving pitch, hisses, and pauses of true silence; (n,) float32."""
    rng, t = np.random.default_rng(0), np.arange(round(rate * seconds)) / rate
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 25))
    hiss = rng.standard_normal(len(t)) * (np.sin(2 * np.pi * 1.3 * t) > 0.7)
    rhythm = np.clip(np.sin(2 * np.pi * 3 * t), 0, None) * (t % 5 > 1)
    return (rhythm * (0.1 * voice + 0.05 * hiss)).astype(np.float32)


def hear(module, audio, rate, state=None):
    """The module on whole audio: posteriors at the end of each frame (frames, classes), and the last state."""
    with torch.inference_mode():
        logits, state = module(torch.from_numpy(audio).reshape(1, -1, 1), state, rate=rate)
    return logits.softmax(-1)[0].numpy(), state


def packed(module, state, rate=16000):
    return StateLayout(module).pack(state).numpy()


def relative(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def state_error(module, got, want):
    """The largest relative error of the state's parts."""
    ends = [offset for _, _, offset in StateLayout(module).parts[1:]]
    return max(relative(a, b) for a, b in zip(np.split(got, ends, 1), np.split(want, ends, 1), strict=True))


def frames(path, audio, state, samples):
    """The file by itself, without our runtime: posteriors (frames, batch, classes) and the last state."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rows = []
    for begin in range(0, audio.shape[1] - samples + 1, samples):
        inputs = {"audio": audio[:, begin : begin + samples], "state": state}
        row, state = session.run(["posteriors", "state_out"], inputs)
        rows.append(row)
    return np.stack(rows), state


def one_line(raised):
    message = str(raised.value)
    assert message and "\n" not in message
    return message


# One meaning


@pytest.mark.parametrize("rate", [16000, 44100, 11025])
def test_the_file_is_the_module_at_any_chunking(module, path, rate):
    audio = speech(rate)[rate:]  # after the first pause
    want, state = hear(module, audio, rate)
    assert want.std(0).max() > 0.05  # it says something
    model = load(path)
    rng = np.random.default_rng(rate)
    for cuts in ([1], [7], [160], [4096], [0, 1, 7, 160, 333, 4096]):
        stream, begin, got = model.stream(rate), 0, []
        end = min(len(audio), 10_000 * max(cuts))  # small pieces are slow
        while begin < end:
            size = int(rng.choice(cuts))
            got.append(stream.scores(audio[begin : min(begin + size, end)]))
            begin += size
        got = np.concatenate(got)
        assert len(got) == end * 50 // rate
        assert relative(got, want[: len(got)]) < 1e-4
    assert state_error(module, stream._states[stream._frames % 2], packed(module, state, rate)) < 1e-4


@pytest.mark.parametrize("rate", [4000, 8000, 12100, 22050, 44056, 48000, 96000])
def test_the_file_is_the_module_at_other_rates(module, path, rate):
    audio = speech(rate, 3)
    got = load(path).stream(rate).scores(audio)
    assert relative(got, hear(module, audio, rate)[0][: len(got)]) < 1e-4


def test_a_stack_of_other_mixers_is_exported_as_it_is():
    """Only blocks with S4D mixers of one size run as one system; any stack may stand in their place."""
    torch.manual_seed(0)
    model = KeywordModel(KeywordConfig(LABELS, channels=12, modes=2, d_model=10, layers=1, d_state=6))
    blocks = [Block(mixer, 10) for mixer in (FadingMean(10, memory=20.0), S4D(10, 4), S4D(10, 6))]
    assert not any(is_one_system(Stack(some)) for some in (blocks[:1], blocks[:2], blocks[1:]))
    model.backbone = Stack(blocks)
    built = keywords.build(model.eval(), TRAINING, None, "none", DetectorSettings())
    assert verify(built, model, 16000) < 1e-4


def test_from_a_state_that_is_not_zero(module, path):
    _, state = hear(module, speech(16000, 5)[::-1].copy(), 16000)
    audio = speech(16000)
    want, last = hear(module, audio, 16000, state)
    got, after = frames(path, audio[None], packed(module, state), 320)
    assert relative(got[:, 0], want) < 1e-4
    assert state_error(module, after, packed(module, last)) < 1e-4
    zero, _ = frames(path, audio[None], np.zeros_like(after), 320)
    assert relative(zero[:, 0], want) > 1e-3  # the state was heard


def test_a_batch_is_its_rows(path):
    audio = np.stack([speech(16000, 2), speech(16000, 2)[::-1], 0 * speech(16000, 2)])
    state = np.random.default_rng(0).normal(0, 0.01, (3, load(path).metadata.state_size)).astype(np.float32)
    together, last = frames(path, audio, state, 320)
    for i in range(3):
        alone, end = frames(path, audio[i : i + 1], state[i : i + 1], 320)
        assert relative(together[:, i], alone[:, 0]) < 1e-5
        assert relative(last[i], end[0]) < 1e-5


@pytest.mark.parametrize("rate", [16000, 44100])
def test_silence(module, path, rate):
    """Zeros in, the module's finite probabilities out: the floor under the logarithm is in the file."""
    want, _ = hear(module, np.zeros(2 * rate, np.float32), rate)
    got = load(path).stream(rate).scores(np.zeros(2 * rate, np.float32))
    assert np.isfinite(got).all() and relative(got, want) < 1e-4
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5)


def test_another_rate_is_three_constants(module, proto):
    """Exchanged as any ONNX library can: models/FORMAT.md."""
    bank, clock, audio = Metadata.parse(proto.metadata_props[0].value).filterbank, FrameClock(48000), speech(48000, 3)
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.name in (new := rate_constants(bank, clock)):
            tensor.CopyFrom(numpy_helper.from_array(new[tensor.name], tensor.name))
    got, _ = frames(copy.SerializeToString(), audio[None], packed(module, module.initial_state(1)), 960)
    assert relative(got[:, 0], hear(module, audio, 48000)[0]) < 1e-4


def test_another_rate_baked_in(module, path_44100):
    model, audio = load(path_44100), speech(44100)
    assert (model.metadata.rate, model.metadata.frame, model.metadata.latency) == (44100, 882, 882)
    got, _ = frames(path_44100, audio[None], packed(module, module.initial_state(1)), 882)
    want, _ = hear(module, audio, 44100)
    assert relative(got[:, 0], want) < 1e-4
    assert relative(model.stream().scores(audio), want) < 1e-4
    native = speech(16000, 3)
    assert relative(model.stream(16000).scores(native), hear(module, native, 16000)[0]) < 1e-4


# The file


def test_only_plain_operators(proto):
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    kinds = {node.op_type for node in proto.graph.node}
    assert {node.domain for node in proto.graph.node} == {""} and not proto.functions
    assert not kinds & {"Loop", "Scan", "If", "STFT", "DFT", "Constant", "ConstantOfShape", "Identity"}
    real = {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL}
    assert {tensor.data_type for tensor in proto.graph.initializer} <= real
    assert not any(tensor.external_data for tensor in proto.graph.initializer)


def test_a_frame_is_few_operators(proto, module):
    """Their number, not their work, is what a frame costs: a runtime spends about half a microsecond on each."""
    assert len(proto.graph.node) <= 59 + 12 * module.config.layers


@pytest.mark.parametrize("which", ["path", "path_44100"])
def test_nothing_of_this_machine_is_in_the_file(which, request):
    content = request.getfixturevalue(which).read_bytes()
    for trace in (b"/work", b"site-packages", b"/home", b"/tmp", b".py", b"torch"):
        assert trace not in content


def test_inputs_outputs_and_constants(proto, path, module):
    def shape(value):
        return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]

    inputs = {value.name: shape(value) for value in proto.graph.input}
    outputs = {value.name: shape(value) for value in proto.graph.output}
    size, batch = load(path).metadata.state_size, inputs["audio"][0]
    assert isinstance(batch, str)
    assert inputs == {"audio": [batch, "samples"], "state": [batch, size]}
    assert outputs == {"posteriors": [batch, 4], "state_out": [batch, size]}
    values = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    for name, expected in rate_constants(load(path).metadata.filterbank, FrameClock(16000)).items():
        np.testing.assert_array_equal(values[name], expected)
    assert relative(values["taps"], module.encoder.taps(16000)[0].detach().numpy()) < 1e-6


def test_metadata_is_complete(proto, module):
    assert [entry.key for entry in proto.metadata_props] == ["audiossm"]
    facts = json.loads(proto.metadata_props[0].value)
    state, bank, detector = facts.pop("state"), facts.pop("filterbank"), facts.pop("detector")
    assert facts == {
        "format": 2,
        "task": "keywords",
        "rate": 16000,
        "frame": 320,
        "tick": 0.005,
        "frame_ticks": 4,
        "latency": 320,
        "labels": list(LABELS),
        "params": sum(p.numel() for p in module.parameters()),
        "training": TRAINING,
        "data_terms": "CC0",
    }
    assert set(detector) == {"smoothing", "threshold", "refractory"}
    assert set(bank) == {"poles", "weights", "readouts"} and bank["readouts"] == 2
    assert np.shape(bank["poles"]) == np.shape(bank["weights"]) == (12, 2, 2)
    shapes = {"encoder.modes": [2, 2, 12], "backbone.x": [2, 3, 2, 10], "pool.sums": [11]}
    assert {part["name"]: part["shape"] for part in state} == shapes
    ends = [part["offset"] + int(np.prod(part["shape"])) for part in state]
    assert [part["offset"] for part in state] == [0, *ends[:-1]]


# What cannot be exported


@pytest.mark.parametrize(
    ("rate", "message"),
    [(11025, "cannot be baked in"), (16001, "cannot be baked in"), (100, "4000 to 192000"), (-16000, "rate")],
)
def test_rates_that_cannot_be_baked_in(run, tmp_path, rate, message):
    with pytest.raises(ValueError, match=message) as raised:
        export_keywords(run, tmp_path / "m.onnx", rate=rate)
    one_line(raised)
    assert list(tmp_path.iterdir()) == []


def test_no_folder_to_write_into(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere") as raised:
        export_keywords(run, tmp_path / "nowhere" / "m.onnx")
    one_line(raised)
    assert list(tmp_path.iterdir()) == []


def edit(folder, **changes):
    about = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps({key: value for key, value in about.items() if value is not None}))


def truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


BROKEN = {
    "no folder": lambda run: shutil.rmtree(run),
    "no model": lambda run: [file.unlink() for file in run.iterdir()],
    "unfinished": lambda run: (run / "model.json").rename(run / "last.ckpt"),
    "no weights": lambda run: (run / "model.safetensors").unlink(),
    "no safetensors": lambda run: (run / "model.safetensors").write_bytes(b"these are no weights" * 9),
    "truncated": lambda run: truncate(run / "model.safetensors"),
    "no JSON": lambda run: (run / "model.json").write_text("{"),
    "JSON of something else": lambda run: (run / "model.json").write_text("[1]"),
    "newer format": lambda run: edit(run, format=2),
    "unknown option": lambda run: edit(run, config={"labels": ["a", "b"], "colour": "red"}),
    "no summary": lambda run: edit(run, training=None),
    "weights of another size": lambda run: edit(run, config={"labels": ["a", "b"], "layers": 1}),
}
SAYS = {
    "no folder": "no trained model in",
    "no model": "no trained model in .* expected model.json and model.safetensors",
    "unfinished": "has not finished: go on with --resume",
    "newer format": "format 2; this audiossm reads up to 1",
}


@pytest.mark.parametrize(
    "how",
    BROKEN,
)
def test_a_run_folder_that_holds_no_model(run, tmp_path, how):
    copy, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(run, copy)
    out.mkdir()
    BROKEN[how](copy)
    with pytest.raises((ValueError, FileNotFoundError), match=SAYS.get(how, "cannot be read")) as raised:
        export_keywords(copy, out / "m.onnx")
    assert str(copy) in one_line(raised)
    assert list(out.iterdir()) == []


# Verification


def changed(proto, name, change):
    """A copy with one initializer replaced."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    return copy


def test_every_weight_is_verified(proto, module):
    assert verify(proto, module, 16000) < 1e-5
    rng = np.random.default_rng(0)
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    weights = {name: w for name, w in weights.items() if w.dtype == np.float32 and w.size > 4 and w.any()}
    assert len(weights) > 20
    for name in weights:
        with pytest.raises(RuntimeError, match="differs from the module") as raised:
            verify(changed(proto, name, lambda w: w * rng.normal(1, 0.01, w.shape).astype(np.float32)), module, 16000)
        one_line(raised)


def test_a_lost_state_is_noticed(proto, module):
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for node in copy.graph.node:
        for i, name in enumerate(node.output):
            if name == "state_out":
                node.output[i] = "kept"
    copy.graph.node.append(onnx.helper.make_node("Sub", ["kept", "kept"], ["state_out"]))
    with pytest.raises(RuntimeError, match="differs from the module"):
        verify(copy, module, 16000)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_numbers_are_noticed(proto, module, value):
    with pytest.raises(RuntimeError, match="differs from the module"):
        verify(changed(proto, "taps", lambda w: np.full_like(w, value)), module, 16000)


def test_states_that_are_no_numbers_are_noticed(proto, module, monkeypatch):
    monkeypatch.setattr("audiossm.export.verify.state_distance", lambda *_: float("nan"))
    with pytest.raises(RuntimeError, match="differs from the module"):
        verify(proto, module, 16000)


def test_a_file_that_is_not_the_module_is_not_written(run, proto, tmp_path, monkeypatch):
    wrong = changed(proto, "taps", lambda w: (w * 1.01).astype(np.float32))
    monkeypatch.setattr(keywords, "build", lambda *_: wrong)
    out = tmp_path / "m.onnx"
    out.write_bytes(b"an earlier file")
    with pytest.raises(RuntimeError, match="nothing was written"):
        export_keywords(run, out)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"an earlier file"]

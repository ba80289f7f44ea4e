"""Toy words and a model trained on them, made once for all tests that need one."""

import contextlib
import gc
import importlib
import io
import os
from functools import cache
from itertools import chain, count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

# Small models on machines that others use too: a second thread only waits. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

RATE = 16000
SPEAKERS = {"train": 14, "val": 3, "test": 7}


def toy_word(word, rng, rate=RATE, seconds=1.0):
    """A 'word' of half a second in a clip (n,) float32: low and high are tones, warble alternates between them."""
    t = np.arange(round(rate * seconds)) / rate
    low, high = 500 * rng.uniform(0.95, 1.05), 2000 * rng.uniform(0.95, 1.05)
    hz = {"low": low + 0 * t, "high": high + 0 * t, "warble": np.where(t % 0.2 < 0.1, low, high)}[word]
    start = rng.uniform(0.15, 0.35)
    tone = np.sin(2 * np.pi * np.cumsum(hz) / rate) * ((t > start) & (t < start + 0.5))
    return (rng.uniform(0.1, 0.4) * tone + rng.normal(0, 0.003, len(t))).astype(np.float32)


def make_toys(root, words=("high", "low", "warble"), speakers=SPEAKERS):
    """Write Speech Commands' layout, a clip of each word by each speaker; the speakers' names decide the splits."""
    from audiossm.data import which_split

    rng = np.random.default_rng(0)
    names = {split: [] for split in SPEAKERS}
    for i in count():
        split = which_split(f"speaker{i}")
        if len(names[split]) < speakers.get(split, 0):
            names[split].append(f"speaker{i}")
        if all(len(names[split]) == number for split, number in speakers.items()):
            break
    for word in words:
        (root / word).mkdir(parents=True)
        for name in chain(*names.values()):
            soundfile.write(root / word / f"{name}_nohash_0.wav", toy_word(word, rng), RATE)
    return root


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    """A data folder of three words: 42 clips for training, 9 for validation, 21 for test."""
    return make_toys(tmp_path_factory.mktemp("toys") / "data")


@pytest.fixture(scope="session")
def make():
    """Return the makers above: importlib mode gives tests no module to import them from."""
    return SimpleNamespace(word=toy_word, toys=make_toys)


@pytest.fixture(scope="session")
def program():
    """Run the program in this process, as `run` does, for fixtures that outlive a test."""
    from audiossm.cli import main

    def program(*arguments):
        out, err = io.StringIO(), io.StringIO()
        with pytest.raises(SystemExit) as left, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(argument) for argument in arguments])
        return left.value.code, out.getvalue(), err.getvalue()

    return program


@pytest.fixture(scope="session")
def trained(program, toys, tmp_path_factory):
    """Return a run folder: a small model that `audiossm train` has taught the toy words, with its output in `said`."""
    out = tmp_path_factory.mktemp("trained") / "run"
    size = "--width 16 --layers 2 --d-state 4 --channels 24 --batch 14 --lr 0.01 --epochs 30 --no-progress"
    code, said, err = program("train", "keywords", "--data", toys, "--out", out, *size.split())
    assert code == 0, err
    (out / "said").write_text(said)
    return out


@pytest.fixture(scope="session")
def exported(program, trained, tmp_path_factory):
    """Return the trained model as a file, and what `audiossm export --json` said in `said`."""
    out = tmp_path_factory.mktemp("exported") / "toy.onnx"
    code, said, err = program("export", trained, "--out", out, "--data-terms", "CC0 [toys]", "--json")
    assert code == 0, err
    out.with_name("said").write_text(said)
    return out


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the program in this process: (exit code, stdout, stderr)."""
    from audiossm.cli import main

    monkeypatch.delenv("AUDIOSSM_DEBUG", raising=False)

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return left.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def one_thread():
    """Let torch compute on one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def closed(monkeypatch):
    """Let nobody read folders of the name closed: the tests may run as root, whom no mode keeps out."""
    scan = os.scandir

    def scandir(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.fixture
def demo(monkeypatch):
    """Import a program of demos/, by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "demos"))  # where they find one another
    return importlib.import_module


# The order


# Real sound cards: they take their time, and share a process so that no two are heard at once. Then what takes longest.
FIRST = ["test_live.py", "test_denoise_live.py", "test_interpreter.py"]


def pytest_configure(config):
    """Name the marker that `kernel_checks.kernel` sets."""
    config.addinivalue_line("markers", "kernel: runs Triton kernels, on a GPU or in the interpreter")


def pytest_collection_modifyitems(config, items):
    """Leave the kernels' tests to tests/test_interpreter.py where there is no GPU, and put first what is to be first.

    Of several processes (pytest-xdist, --dist worksteal) each begins with a run of neighbours and takes over from the
    end of another's: what comes first stays together, and fixtures of a module are rarely made twice.
    """
    import torch

    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        return
    kernels = [item for item in items if item.get_closest_marker("kernel")]
    config.hook.pytest_deselected(items=kernels)
    items[:] = [item for item in items if item not in kernels]


def pytest_collection_finish():
    """Let exports not look again, each time, at what stays as it is: a fifth of what they take.

    The garbage collector leaves alone what was imported and waits for more, and the exporter keeps its operators.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000)
    ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))

"""The house: what is installed, which floor imports which, and what runs without torch.

All of it is asked of a wheel, unpacked outside the checkout, because that is what a user gets and because the
checkout hides the layout (kernels/ is installed as audiossm.kernels) from import-linter.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Where each installed package lies in the checkout: pyproject.toml's package-dir.
FOLDERS = {
    "audiossm": "audiossm",
    "kernels": "audiossm/kernels",
    "export": "audiossm/export",
    "models": "audiossm/models",
}

SOUNDS = {".wav", ".flac", ".ogg", ".opus"}

# What the extras bring (import names) and an edge device has not; scipy comes in through librosa.
EXTRAS = ["espeakng_loader", "lightning", "librosa", "matplotlib", "numba", "onnx", "onnxscript", "pytorch_lightning"]
EXTRAS += ["safetensors", "scipy", "soxr", "tensorboard", "torch", "torchaudio", "torchmetrics", "triton"]

REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def tracked():
    """Paths of the project's files: those git knows, or in a tree without git all that lie in its folders.

    A module that was never added to git is missing here, as it will be for everybody else.
    """
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        paths = [Path(name) for name in listed.stdout.split("\0") if name]
    else:
        places = [ROOT / "pyproject.toml", ROOT / "README.md", *(ROOT / folder for folder in FOLDERS)]
        found = (path for place in places for path in ([place] if place.is_file() else place.rglob("*")))
        paths = [path.relative_to(ROOT) for path in found if "__pycache__" not in path.parts]
    return [path for path in paths if (ROOT / path).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the tracked files: its unpacked `path`, its `names` and its `metadata`."""
    place = tmp_path_factory.mktemp("wheel")
    for path in tracked():
        target = place / "tree" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        place,
        ".",
    ]
    built = subprocess.run(command, cwd=place / "tree", capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    [file] = place.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(place / "site")
        names = [name for name in archive.namelist() if not name.endswith("/")]
        [metadata] = [archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA")]
    return SimpleNamespace(path=place / "site", names=names, metadata=Parser().parsestr(metadata))


def python(wheel, code, *, refused=()):
    """Run `code` in a new Python that has the wheel and lacks the `refused` packages."""
    code = REFUSE.format(refused=set(refused) or "()") + code
    environment = {key: value for key, value in os.environ.items() if key != "AUDIOSSM_DEBUG"}
    environment["PYTHONPATH"] = str(wheel.path)
    return subprocess.run([sys.executable, "-c", code], cwd=wheel.path, env=environment, capture_output=True, text=True)


def test_nothing_but_audiossm_is_installed(wheel):
    tops = {name.split("/")[0] for name in wheel.names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"audiossm"}


def test_every_module_and_every_model_is_installed(wheel):
    """A new package must be named in pyproject.toml; forgetting it shows only once installed."""
    for path in tracked():
        folder, *rest = path.parts
        if folder in FOLDERS and rest:
            # The sounds beside a model are for its card's readers.
            wanted = path.suffix not in SOUNDS
            assert ("/".join([FOLDERS[folder], *rest]) in wheel.names) == wanted, f"{path} and the wheel"
    assert "audiossm/models/FORMAT.md" in wheel.names


def test_the_base_install_brings_no_torch(wheel):
    required = wheel.metadata.get_all("Requires-Dist")
    base = {line.split(";")[0].strip().lower() for line in required if "extra ==" not in line}
    assert base == {"numpy", "onnxruntime", "rich", "sounddevice", "soundfile", "typer"}


def lint_imports(site, place):
    """Run import-linter with our contracts on the package in `site`, from outside the checkout."""
    shutil.copyfile(ROOT / "pyproject.toml", place / "pyproject.toml")
    code = "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"
    return subprocess.run(
        [sys.executable, "-c", code, "--config", "pyproject.toml", "--no-cache"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


def test_a_floor_imports_only_the_floors_below(wheel, tmp_path):
    done = lint_imports(wheel.path, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("audiossm/kernels/__init__.py", "import audiossm.cli"),
        ("audiossm/mixers/__init__.py", "from audiossm.backbones import *"),
        ("audiossm/data/__init__.py", "import audiossm.tasks"),
        ("audiossm/tasks/__init__.py", "import audiossm.streaming"),
        ("audiossm/streaming/__init__.py", "def late():\n    import torch"),
        ("audiossm/attic/__init__.py", ""),  # a package on no floor
    ],
)
def test_the_floors_notice_a_bad_import(wheel, tmp_path, module, line):
    site = tmp_path / "site"
    shutil.copytree(wheel.path, site)
    (site / module).parent.mkdir(exist_ok=True)
    with open(site / module, "a") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(site, tmp_path)
    assert done.returncode == 1
    assert "BROKEN" in done.stdout, done.stdout + done.stderr


def test_the_runtime_and_the_command_line_run_without_torch(wheel):
    code = """
import audiossm.streaming
from audiossm.cli import main
main(["--help"])
"""
    done = python(wheel, code, refused=EXTRAS)
    assert done.returncode == 0, done.stderr
    assert "Usage: audiossm" in done.stdout


def test_training_without_torch_says_what_to_install(wheel, tmp_path):
    (tmp_path / "yes").mkdir()
    code = f"""
from audiossm.cli import main
main(["train", "keywords", "--data", {str(tmp_path)!r}, "--out", {str(tmp_path / "run")!r}])
"""
    done = python(wheel, code, refused=EXTRAS)
    if "No such command" in done.stderr:
        pytest.skip("there is no train command yet")
    assert done.returncode == 1
    assert "pip install 'audiossm[train]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_only_triton_kernels_need_triton_and_nothing_needs_torchaudio(wheel):
    """As on Windows, macOS and beside a CPU-only torch. Triton kernels lie in `audiossm.kernels.gpu`."""
    code = """
import importlib, pkgutil
import audiossm
for module in pkgutil.walk_packages(audiossm.__path__, "audiossm."):
    if not module.name.startswith("audiossm.kernels.gpu.") and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import audiossm.tasks, audiossm.training, audiossm.export
"""
    done = python(wheel, code, refused=["triton", "torchaudio"])
    assert done.returncode == 0, done.stderr

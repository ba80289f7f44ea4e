"""The conventions of the command line, asked of every registered command, whatever it does."""

import os
import subprocess
import sys

import pytest
import typer
from typer.main import get_command

import audiossm.cli.commands
from audiossm.cli import app

module = sys.modules["audiossm.cli.app"]  # as an attribute of the package, `app` is the typer object


def walk(command, path=()):
    """Yield (path, command) for every command, those in groups included."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from walk(inner, (*path, name))
    elif path:
        yield path, command


COMMANDS = dict(walk(get_command(app)))
NEEDY = {path: command for path, command in COMMANDS.items() if any(p.required for p in command.params)}
every_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


@pytest.fixture
def failing(monkeypatch, run):
    """Run a program whose only command raises the given exception."""

    def failing(error):
        app = typer.Typer(pretty_exceptions_enable=False)

        @app.command()
        def command():
            raise error

        monkeypatch.setattr(module, "app", app)
        return run()

    return failing


def test_help_of_the_program(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "Usage: audiossm" in out
    assert "Example" in out


def test_version(run):
    assert run("--version") == (0, f"audiossm {audiossm.__version__}\n", "")


def test_unknown_command(run):
    code, out, err = run("frobnicate")
    assert (code, out) == (2, "")
    assert err == "audiossm: No such command 'frobnicate'. See: audiossm --help\n"


@every_command
def test_help_has_an_example(path, run):
    code, out, err = run(*path, "--help")
    assert (code, err) == (0, "")
    assert "Example" in out
    assert f"audiossm {path[0]}" in out.split("Example", 1)[1]


@every_command
def test_unknown_option(path, run):
    code, _, err = run(*path, "--no-such-option")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert f"audiossm {path[0]}" in err


@pytest.mark.parametrize("path", NEEDY, ids=" ".join)
def test_missing_argument(path, run):
    code, _, err = run(*path)
    assert code == 2
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("path", NEEDY, ids=" ".join)
def test_a_file_that_cannot_be_there(path, run, tmp_path, monkeypatch):
    """Every required argument is a path below a plain file: it can be neither read nor made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    arguments = []
    for parameter in NEEDY[path].params:
        if parameter.required:
            if parameter.param_type_name == "option":
                arguments.append(parameter.opts[0])
            arguments.append(tmp_path / "file" / "missing")
    code, _, err = run(*path, *arguments)
    assert code in (1, 2)
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("audiossm: ")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError("no file kw.onnx: export one first"), "no file kw.onnx: export one first"),
        (ValueError("two\n  lines"), "two lines"),
        (RuntimeError(), "RuntimeError"),
        (
            ModuleNotFoundError("", name="torch.nn"),
            "this command needs the package 'torch': pip install 'audiossm[train]'",
        ),
        (
            ModuleNotFoundError("", name="espeakng_loader"),
            "this command needs the package 'espeakng_loader': pip install 'audiossm[synth]'",
        ),
        (
            ModuleNotFoundError("No module named 'audiossm.x'", name="audiossm.x"),
            "No module named 'audiossm.x'",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_exception_becomes_one_line(failing, error, line):
    assert failing(error) == (1, "", f"audiossm: {line}\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()], ids=["ctrl-c", "abort"])
def test_interrupted(failing, error):
    code, _, err = failing(error)
    assert code == 130
    assert err.strip() == "audiossm: interrupted"


def test_a_command_may_choose_its_code(failing):
    assert failing(typer.Exit(3)) == (3, "", "")


def test_debugging_shows_the_traceback(failing, monkeypatch):
    monkeypatch.setenv("AUDIOSSM_DEBUG", "1")
    with pytest.raises(ValueError, match="seen"):
        failing(ValueError("seen"))


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX pipe")
def test_as_a_program():
    """`python -m audiossm`, and a reader that leaves before we write."""
    shown = subprocess.run([sys.executable, "-m", "audiossm", "--version"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert shown.stdout.startswith("audiossm ")
    reader, writer = os.pipe()
    os.close(reader)
    broken = subprocess.run([sys.executable, "-m", "audiossm", "--help"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert broken.returncode == 1
    assert broken.stderr == b""

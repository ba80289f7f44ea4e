"""The `audiossm` program: its commands, and the one place where an exception becomes a line on stderr.

Exit codes: 0 success, 1 the work failed, 2 bad usage, 130 interrupted. The library raises ordinary exceptions
whose message is one line that says what is wrong and what to do; here they are printed without a traceback
(AUDIOSSM_DEBUG=1 shows it).
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import audiossm

app = typer.Typer(
    name="audiossm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

# Typer once depended on click and now holds a copy of it; either way BadParameter derives from UsageError.
UsageError: Any = typer.BadParameter.__bases__[0]

# Packages of the extras: what to install when one of them is missing.
EXTRAS = {"espeakng_loader": "synth"}


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        print(f"audiossm {audiossm.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Real-time audio built on state space models: train, export, listen.

    Example: `audiossm listen keywords`. `audiossm COMMAND --help` shows one for every command.
    """


def missing_package(error: ModuleNotFoundError) -> str:
    """Say which extra brings the package that an import did not find."""
    package = (error.name or "").split(".")[0]
    if package in ("", "audiossm"):  # our own mistake: no extra mends it
        return str(error)
    extra = EXTRAS.get(package, "train")
    return f"this command needs the package {package!r}: pip install 'audiossm[{extra}]'"


def say(message: str) -> None:
    """Print one line on stderr."""
    print(f"audiossm: {' '.join(message.split())}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code. `argv` has no program name; None is the process's own."""
    code: object = 0
    try:
        from audiossm.cli import commands  # noqa: F401  (registers the commands on `app`)

        code = app(args=argv, prog_name="audiossm", standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help text
            error.show()
        else:
            message = error.format_message().strip()
            stop = "" if message.endswith((".", "?")) else "."
            say(f"{message}{stop} See: {context.command_path if context else 'audiossm'} --help")
        code = 2
    except typer.Exit as error:
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # the reader of our output has gone: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if os.environ.get("AUDIOSSM_DEBUG"):
            raise
        what = missing_package(error) if isinstance(error, ModuleNotFoundError) else str(error)
        say(what.strip() or type(error).__name__)
        code = 1
    if code == 130:  # typer itself turns Ctrl-C into this code, without a word
        say("interrupted")
    sys.exit(code if isinstance(code, int) else 0)

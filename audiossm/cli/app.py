"""The `audiossm` program: its commands, and the one place where an exception becomes a line on stderr.

Exit codes: 0 success, 1 the work failed, 2 bad usage, 130 interrupted. The library raises ordinary exceptions whose
message is one line that says what is wrong and what to do; here they are printed without a traceback
(AUDIOSSM_DEBUG=1 shows it).
"""

import os
import sys

import click
import typer

app = typer.Typer(
    name="audiossm",
    help="Real-time audio built on state space models: train, export, listen.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

# Packages of the extras: what to install when one of them is missing.
EXTRAS = {"espeakng_loader": "synth"}


def missing_package(error: ModuleNotFoundError) -> str:
    """Say which extra brings the package that an import did not find."""
    package = (error.name or "").split(".")[0]
    extra = EXTRAS.get(package, "train")
    return f"this command needs the package {package!r}: pip install 'audiossm[{extra}]'"


def main() -> None:
    """Run the command line and exit with its code."""
    from audiossm.cli import commands  # noqa: F401  (registers the commands on `app`)

    try:
        code = app(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        code = 2
    except click.exceptions.Exit as error:
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("audiossm: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our output has gone: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if os.environ.get("AUDIOSSM_DEBUG"):
            raise
        what = missing_package(error) if isinstance(error, ModuleNotFoundError) else str(error)
        print(f"audiossm: {' '.join(what.split()) or type(error).__name__}", file=sys.stderr)
        code = 1
    sys.exit(code or 0)

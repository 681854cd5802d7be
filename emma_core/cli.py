"""The command line: the core commands, and the tasks that installed packages offer.

Nothing heavy is imported here, so that ``--help`` answers at once; each command imports what it needs.
"""

from __future__ import annotations

import re
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from emma_core import __version__, commands
from emma_core.errors import EmmaError
from emma_core.files import at_home
from emma_core.plugins import TASKS, load_task, plugins
from emma_core.text import plain
from emma_core.train_commands import train_app

HELP = "Does fusing two cameras help? Fuse image pairs, and measure beside each camera alone."

_INTERRUPTED = 130
"""What typer makes of Ctrl-C: 128 and the number of the signal, as shells do."""

_SHORT_OF_MEMORY = re.compile("can't allocate memory|out of memory")
"""What torch says of a processor's memory and of a GPU's, in a RuntimeError."""

_LINK_LOOP = re.compile("Symlink loop")
"""What pathlib before Python 3.13 says, likewise, of links that lead to each other."""


def build_app() -> typer.Typer:
    """Make the command line out of the core commands and the installed tasks."""
    app = typer.Typer(
        name="emma-tasks",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback(help=HELP)(_options)
    for name, command in commands.COMMANDS.items():
        app.command(name)(command)
    app.add_typer(train_app(), name="train")
    for entry in plugins(TASKS):
        if entry.name in {*commands.COMMANDS, "train"}:
            _complain(f"Warning: the task {entry.name!r} of {entry.value} is left out: a core command has that name")
            continue
        try:
            app.command(entry.name)(load_task(entry))
        except Exception as error:  # a broken task of somebody else must not take the core commands along
            _complain(f"Warning: the task {entry.name!r} cannot be loaded: {error}")
    return app


def main() -> None:
    """Run the command line; errors made on purpose become one line and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # an arrow that a narrow encoding lacks must not stop the answer
            stream.reconfigure(errors="replace")
    try:
        build_app()(args=[_home_expanded(text) for text in sys.argv[1:]])
    except SystemExit as left:
        if left.code == _INTERRUPTED:
            _complain("Stopped. What is finished is kept; the same command goes on.")
        raise
    except EmmaError as error:
        _complain(f"Error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:  # the operating system's refusals; whatever was written whole is kept
        _complain(f"Error: {error.filename or 'input or output'}: {error.strerror or error}")
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or _SHORT_OF_MEMORY.search(str(error)):
            _complain("Error: not enough memory; tiles (--tile 512) or a smaller batch (--config) need less")
        elif _LINK_LOOP.match(str(error)):
            _complain(f"Error: {error}; expected a file or folder")
        else:
            raise
        sys.exit(1)


def _home_expanded(argument: str) -> str:
    """Make of ``--option=~/place`` what shells make of ``--option ~/place``."""
    option, equals, value = argument.partition("=")
    is_one = option.startswith("--") and equals and value.startswith("~")
    return f"{option}={at_home(value)}" if is_one else argument


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"emma-tasks {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Take the options that stand before the command."""


def _complain(text: str) -> None:
    """Write one line to standard error, whatever a file name may have put into it."""
    print(plain(text), file=sys.stderr)  # noqa: T201 - this is the command line


if __name__ == "__main__":
    main()

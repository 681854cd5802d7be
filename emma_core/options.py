"""What the commands share: options, finding what they name, progress, and how faults are told.

The core commands and the tasks of other packages spell the same thing the same way by taking it from here. Imports
stand inside the functions, as in :mod:`emma_core.commands`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from emma_core.errors import UsageError
from emma_core.text import plain

if TYPE_CHECKING:
    from emma_core.datasets import Fault, PairSet

Recipe = TypeVar("Recipe")

Runs = Annotated[Path, typer.Option(help="Folder in which everything is kept.")]
Root = Annotated[Path | None, typer.Option(help="Folder that holds the data set.")]
InfraredFolder = Annotated[Path | None, typer.Option("--ir", help="Instead of --root: your infrared folder.")]
VisibleFolder = Annotated[Path | None, typer.Option("--vis", help="Instead of --root: your visible folder.")]
SplitName = Annotated[str | None, typer.Option("--split", help="Only this part of the data set.")]
SplitFile = Annotated[Path | None, typer.Option(help="Only the ids listed in this file, one a line.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[
    str, typer.Option(help="Number format of the network: fp32, bf16, or auto: bf16 where the processor has it.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]

InfraredRow = Annotated[bool, typer.Option("--ir", help="Run the row of the infrared images.")]
VisibleRow = Annotated[bool, typer.Option("--vis", help="Run the row of the visible images.")]
FusedRow = Annotated[bool, typer.Option("--fused", help="Run a row for everything that fuse-dataset made.")]
FusedFolders = Annotated[
    list[str] | None, typer.Option("--fused-dir", help="NAME=DIR: a row for fused images made elsewhere (repeatable).")
]
Seeds = Annotated[str, typer.Option(help="Seeds of the runs, separated by commas; tables print mean and deviation.")]


def find_dataset(
    name: str,
    root: Path | None,
    infrared: Path | None = None,
    visible: Path | None = None,
    split: str | None = None,
    split_file: Path | None = None,
) -> PairSet:
    """Find the pairs that the options ask for: a known data set under --root, or two folders.

    Raises:
        UsageError: options that exclude each other, or an unknown data set.
        DataError: it is not there.
    """
    from emma_core.datasets import dataset_spec, find_pairs, folder_spec

    if (infrared is None) != (visible is None):
        raise UsageError("--ir and --vis go together: give both folders")
    if infrared is not None and visible is not None:
        if root is not None:
            raise UsageError("Give either --root, or --ir and --vis")
        spec = folder_spec(name, infrared, visible)
        return find_pairs(spec, infrared.resolve().parent, split=split, split_file=split_file)
    spec = dataset_spec(name)
    if root is None:
        raise UsageError(f"Where is {spec.name}? Add --root DIR. Where to get it: emma-tasks datasets {spec.name}")
    return find_pairs(spec, root, split=split, split_file=split_file)


def named_folders(option: str, texts: list[str] | None) -> list[tuple[str, Path]]:
    """Read a repeatable option of the form NAME=DIR.

    Raises:
        UsageError: one is not of that form.
    """
    return [(name, Path(folder).expanduser()) for name, folder in (named(option, text) for text in texts or [])]


def named(option: str, text: str) -> tuple[str, str]:
    """Part NAME=REST.

    Raises:
        UsageError: it is not of that form.
    """
    name, equals, rest = text.partition("=")
    if not equals or not name or not rest:
        raise UsageError(f"{option} {text!r}: expected NAME=PATH, e.g. {option} SeAFusion=results/seafusion")
    return name, rest


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Read whole numbers, not negative, separated by commas; each counts once.

    Raises:
        UsageError: something else stands there.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise UsageError(f"{option} {text!r}: expected whole numbers separated by commas, e.g. {option} 0,1,2")
    return tuple(dict.fromkeys(map(int, parts)))


def configured(recipe: Recipe, config: Path | None, change: Callable[[Recipe, dict[str, Any]], Recipe]) -> Recipe:
    """Change a recipe as the TOML file of --config says.

    Args:
        recipe: what to begin with.
        config: the file, if one is given.
        change: applies what is in it.

    Raises:
        UsageError: the file cannot be read, is not TOML, or ``change`` refuses what it says; the line names the file.
    """
    import tomllib

    if config is None:
        return recipe
    try:
        return change(recipe, tomllib.loads(config.read_text("utf-8")))
    except OSError as error:
        raise UsageError(f"{config}: cannot be read ({error.strerror})") from None
    except (UsageError, ValueError, RecursionError) as error:
        raise UsageError(f"{config}: {error}") from None


def finish(faults: tuple[Fault, ...]) -> None:
    """Name what could not be used; the exit status says that there was something."""
    for fault in faults:
        typer.echo(f"Left out {plain(str(fault))}", err=True)
    if faults:
        typer.echo(f"{len(faults)} left out; everything else is done.", err=True)
        raise typer.Exit(1)


@contextlib.contextmanager
def progress_bar(title: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal, and nothing elsewhere; yields the function that advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)

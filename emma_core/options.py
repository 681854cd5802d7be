"""What the commands share: options, finding what they name, progress, and how faults are told.

The core commands and the tasks of other packages spell the same thing the same way by taking it from here. Imports
stand inside the functions, as in :mod:`emma_core.commands`.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from emma_core.errors import DataError, UsageError
from emma_core.files import at_home
from emma_core.text import counted, plain

if TYPE_CHECKING:
    from emma_core.images import FloatImage
    from emma_core.pairs import Fault, PairSet

Recipe = TypeVar("Recipe")

LINE_SECONDS = 60
"""Between two lines of progress where nobody watches a bar."""

_SHOWN = 3  # faults that a refusal spells

Runs = Annotated[Path, typer.Option(help="Folder in which everything is kept.")]
Root = Annotated[Path | None, typer.Option(help="Folder that holds the data set.")]
InfraredFolder = Annotated[
    Path | None,
    typer.Option("--ir", help="Instead of --root: your infrared folder; {split} in it is train, val and test."),
]
VisibleFolder = Annotated[Path | None, typer.Option("--vis", help="Instead of --root: your visible folder; likewise.")]
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

    ``{split}`` in both folders stands for ``train``, ``val`` and ``test``: the parts are those that are there.

    Raises:
        UsageError: options that exclude each other, or an unknown data set.
        DataError: it is not there.
    """
    from emma_core.datasets import SPLIT_FIELD, dataset_spec, folder_spec
    from emma_core.pairs import find_pairs

    if (infrared is None) != (visible is None):
        raise UsageError("--ir and --vis go together: give both folders")
    if infrared is not None and visible is not None:
        if root is not None:
            raise UsageError("Give either --root, or --ir and --vis")
        refuse_same({"--ir": infrared, "--vis": visible})
        spec = folder_spec(name, infrared, visible)
        folder = infrared.resolve()
        root = next((place for place in folder.parents if SPLIT_FIELD not in str(place)), folder)
        return find_pairs(spec, root, split=split, split_file=split_file)
    spec = dataset_spec(name)
    if root is None:
        raise UsageError(f"Where is {spec.name}? Add --root DIR. Where to get it: emma-tasks datasets {spec.name}")
    return find_pairs(spec, root, split=split, split_file=split_file)


def refuse_same(sides: Mapping[str, Path]) -> None:
    """Refuse one file or folder for both sides of a pair: fused with itself, every figure of it would mean nothing.

    Args:
        sides: what two options were given.

    Raises:
        UsageError: it is the same.
    """
    (first, one), (second, other) = sides.items()
    if one.resolve() == other.resolve():
        raise UsageError(f"{first} and {second} are both {one}; expected one of each camera or scanner")


def named_folders(option: str, texts: list[str] | None) -> list[tuple[str, Path]]:
    """Read a repeatable option of the form NAME=DIR.

    Raises:
        UsageError: one is not of that form.
    """
    return [(name, at_home(folder)) for name, folder in (named(option, text) for text in texts or [])]


def named(option: str, text: str) -> tuple[str, str]:
    """Part NAME=REST.

    Raises:
        UsageError: it is not of that form.
    """
    name, equals, rest = text.partition("=")
    if not equals or not name or not rest:
        raise UsageError(f"{option} {text!r}: expected NAME=PATH, e.g. {option} SeAFusion=results/seafusion")
    return name, rest


SEED_LIMIT = 2**32
"""Seeds lie below this: numpy's generators, which detectors are seeded by too, take no larger ones."""


def read_seeds(option: str, text: str) -> tuple[int, ...]:
    """Read seeds separated by commas: whole numbers, not negative, below :data:`SEED_LIMIT`; each counts once.

    Raises:
        UsageError: something else stands there.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise UsageError(f"{option} {text!r}: expected whole numbers separated by commas, e.g. {option} 0,1,2")
    if max(map(int, parts)) >= SEED_LIMIT:
        raise UsageError(f"{option} {text!r}: expected numbers below {SEED_LIMIT}")
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
    from emma_core.config import from_toml

    return recipe if config is None else from_toml(config, lambda content: change(recipe, content))


def refuse_faults(dataset: str, faults: Sequence[Fault], lists: str) -> None:
    """Refuse to train on a data set of which pairs cannot be used: what is left is a split that nobody asked for.

    Args:
        dataset: its name.
        faults: what cannot be used.
        lists: options by which the pairs to use can be listed.

    Raises:
        DataError: there are faults; the line names the first.
    """
    if faults:
        number = counted(len(faults), "pair")
        shown = [*map(str, faults[:_SHOWN]), *[f"and {len(faults) - _SHOWN} more"] * (len(faults) > _SHOWN)]
        raise DataError(
            f"{dataset}: {number} cannot be used ({'; '.join(shown)}); mend the data, or list the pairs to use: {lists}"
        )


class SayIfFlat:
    """Tells, once and as soon as it is seen, of a source that uses little of its range as it is read."""

    def __init__(self) -> None:
        self._seen = 0
        self._counting = Lock()

    def __call__(self, path: Path, image: FloatImage) -> None:
        """Look at a source; any number of threads may."""
        from emma_core.images import narrow_range

        if not (used := narrow_range(image)):
            return
        with self._counting:
            self._seen += 1
            first = self._seen == 1
        if first:
            sys.stderr.write(  # looked up now: a progress bar puts lines above itself that go this way
                f"{path}: 16 bits, of which it uses {used:.1%} of the range; values are divided by 65535, so it is "
                "dark or flat. Stretch such images first, all by one window (docs/metrics.md)\n"
            )

    def say_of_others(self) -> None:
        """Say how many more there were."""
        if self._seen > 1:
            typer.echo(f"{counted(self._seen - 1, 'more source')} like that", err=True)


def finish(faults: tuple[Fault, ...]) -> None:
    """Name what could not be used; the exit status says that there was something."""
    for fault in faults:
        typer.echo(f"Left out {plain(str(fault))}", err=True)
    if faults:
        typer.echo(f"{len(faults)} left out; everything else is done.", err=True)
        raise typer.Exit(1)


@contextlib.contextmanager
def progress_bar(title: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal, and elsewhere a line a minute; yields the function that advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(title, total)
        return
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)


def _lines(title: str, total: int | None) -> Callable[[], None]:
    """Return a function that counts, and writes what it counted to standard error once a minute: for logs of jobs."""
    begun = said = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal done, said
        done, now = done + 1, time.monotonic()
        if now - said >= LINE_SECONDS and done != total:
            said = now
            left = f" of {total}, {(now - begun) / done * (total - done) / 60:.0f} min left" if total else ""
            typer.echo(f"{title}: {done}{left}", err=True)

    return advance

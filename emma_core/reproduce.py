"""Reproducing the paper's tables: the command lines that make them, and which have been run.

A step is a command line of emma-tasks. It runs as a process of its own, so any installed task can be one, and one
that dies takes nothing along. What is done is read from ``runs``, so that a stopped reproduction continues.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emma_core.errors import DataError, ManifestError, UsageError
from emma_core.fuse_dataset import fused_folder
from emma_core.fuse_dataset import is_done as is_fused
from emma_core.fusers import SHIPPED_WEIGHTS, fusion_method
from emma_core.manifest import file_sha256, made_by, read_manifest
from emma_core.options import find_dataset
from emma_core.plugins import recipes_of
from emma_core.report.beside import comparable, recipe_name
from emma_core.report.missing import needed_rows
from emma_core.report.paper import METHOD, PaperTable, fill_in, paper_tables
from emma_core.report.tables import read_tables
from emma_core.results import NAIVE_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emma_core.pairs import PairSet
    from emma_core.report.parts import Table
    from emma_core.results import Result

FUSE = "fuse-dataset"
TRAINING = "training"
"""Where a step takes ``--recipe`` and ``--seeds``; see :func:`emma_core.report.paper.fill_in`."""


@dataclass(frozen=True)
class Request:
    """What to reproduce a table with.

    Attributes:
        root: folder that holds the data sets, each in a folder of its name.
        runs: folder of all runs.
        method: to fuse by, as :data:`emma_core.fusers.METHODS` spells it; a task that fuses by itself uses EMMA.
        weights: of the method, if not the shipped ones.
        recipe: of the trainings, by name.
        seeds: likewise.
    """

    root: Path
    runs: Path
    method: str = METHOD
    weights: Path | None = None
    recipe: str = "paper"
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Step:
    """One command line.

    Attributes:
        paper: the table it is for.
        arguments: of emma-tasks.
        pairs: of the data set.
    """

    paper: PaperTable
    arguments: tuple[str, ...]
    pairs: PairSet

    @property
    def trains(self) -> bool:
        """Whether it trains something, with seeds and by a recipe."""
        return "--seeds" in self.arguments

    @property
    def command(self) -> str:
        """The command line as a person types it."""
        return shlex.join(["emma-tasks", *self.arguments])


@dataclass(frozen=True)
class Plan:
    """What makes the tables.

    Attributes:
        steps: in order; a step that several tables need stands at the first.
        absent: tables whose data set is not there, with the reason.
    """

    steps: tuple[Step, ...]
    absent: tuple[tuple[PaperTable, str], ...]


def chosen_tables(name: str) -> tuple[PaperTable, ...]:
    """Return the tables of the paper that a name like ``table3`` or ``all`` stands for.

    Raises:
        UsageError: no such table, or none that commands alone can make.
    """
    tables = [paper for paper in paper_tables() if paper.steps]
    chosen = tuple(paper for paper in tables if name.lower() in {"all", paper.number})
    if not chosen:
        known = ", ".join(sorted({paper.number for paper in tables}))
        raise UsageError(f"Unknown table {name!r}; expected {known} or all (Table 2 is made by hand: docs/report.md)")
    return chosen


def make_plan(name: str, request: Request) -> Plan:
    """List the steps of a table, done or not.

    Raises:
        UsageError: no such table, one that is not made by the method asked for, or a recipe that its task has not.
    """
    steps: dict[tuple[str, ...], Step] = {}
    absent: list[tuple[PaperTable, str]] = []
    papers = chosen_tables(name)
    if request.method != METHOD and not any(paper.takes_method for paper in papers):
        raise UsageError(f"--method {request.method}: {papers[0].title} is made by {METHOD}; leave the option out")
    for paper in papers:
        _refuse_unknown_recipe(paper, request.recipe)
    for paper in papers:
        lines = [_arguments(step, request) for step in paper.steps]
        try:
            pairs = find_dataset(paper.dataset, request.root / paper.dataset, split=_split(lines[0]))
        except DataError as error:
            absent.append((paper, str(error)))
            continue
        for arguments in lines:
            steps.setdefault(arguments, Step(paper, arguments, pairs))
    return Plan(tuple(steps.values()), tuple(absent))


def is_done(step: Step, request: Request) -> bool:
    """Tell whether what a step makes is there, by these weights: all fused images, or every row and seed."""
    if step.arguments[0] == FUSE:
        return _is_fused(step.pairs, request)
    tables, _ = read_tables(request.runs)
    return any(_is_complete(table, step, request) for table in tables)


def is_of(table: Table, step: Step, request: Request) -> bool:
    """Tell whether a step makes rows of a table; a recipe with a value changed has another name."""
    return is_of_task(table, step) and (not step.trains or recipe_name(table.recipe).lower() == request.recipe.lower())


def is_of_task(table: Table, step: Step) -> bool:
    """Tell whether a table is of a step's task and data set, by whatever recipe."""
    return (table.task, table.dataset) == (step.arguments[0], step.pairs.dataset)


def wanted_runs(step: Step, request: Request) -> list[tuple[str, int | None]]:
    """List the rows and seeds that a step makes."""
    seeds: Sequence[int | None] = request.seeds if step.trains else (None,)
    rows = needed_rows(step.paper, step.pairs.dataset, fused_by(step, request))
    return [(row, seed) for row in rows for seed in seeds]


def missing_runs(table: Table, step: Step, request: Request) -> list[tuple[str, int | None]]:
    """List rows and seeds that a table lacks; a row of fused images counts if they were made as asked for.

    A naive rule has no weights and its row no other meaning: ``evaluate``'s own ``max`` is as good as one from files.
    """
    method = fused_by(step, request)
    maker = _maker(method, request)
    there = {
        (result.row, result.seed)
        for result in table.results
        if result.row != method or method in NAIVE_ROWS or made_by(result.source) == maker
    }
    return [run for run in wanted_runs(step, request) if run not in there]


def fused_by(step: Step, request: Request) -> str:
    """Return the method that a step fuses by, or whose images it measures."""
    return request.method if step.paper.takes_method else METHOD


def run_steps(plan: Plan, request: Request, run: Callable[[Step], int]) -> list[Step]:
    """Run what is missing, in order; where images could not be fused, nothing is run on them.

    Args:
        plan: the steps.
        request: what they were planned for.
        run: runs one step and returns its exit status.

    Returns:
        The steps that failed.
    """
    failed: list[Step] = []
    fresh: set[str] = set()  # data sets that were fused anew: what was measured on them before is out of date
    for step in plan.steps:
        dataset = step.pairs.dataset
        if any(dataset == other.pairs.dataset and other.arguments[0] == FUSE for other in failed):
            continue
        if dataset not in fresh and is_done(step, request):
            continue
        # A status of 1 may only say that single pairs had to be left out, which is no reason to stop. Of any other,
        # results may be there too: those of an earlier run.
        status = run(step)
        if status not in {0, 1} or (status and not is_done(step, request)):
            failed.append(step)
        elif step.arguments[0] == FUSE:
            fresh.add(dataset)
    return failed


def _arguments(step: str, request: Request) -> tuple[str, ...]:
    options = {
        "method": ("--method", request.method),
        "weights": ("--weights", str(request.weights)) if request.weights else (),
        TRAINING: ("--recipe", request.recipe, "--seeds", ",".join(map(str, request.seeds))),
    }
    return (*fill_in(step, str(request.root), options), "--runs", str(request.runs))


def _refuse_unknown_recipe(paper: PaperTable, recipe: str) -> None:
    """Refuse a recipe before images are fused for it."""
    for task in (step.split()[0] for step in paper.steps if f"{{{TRAINING}}}" in step):
        known = getattr(recipes_of(task), "RECIPES", ())
        if known and recipe.lower() not in known:
            raise UsageError(f"Unknown recipe {recipe!r}; {task} knows: {', '.join(known)}")


def _split(arguments: Sequence[str]) -> str | None:
    return arguments[arguments.index("--split") + 1] if "--split" in arguments else None


def _is_fused(pairs: PairSet, request: Request) -> bool:
    folder = fused_folder(request.runs, pairs.dataset, request.method)
    try:
        manifest = read_manifest(folder)
    except ManifestError:
        return False
    if made_by(manifest.settings) != _maker(request.method, request):
        return False
    return all(
        pair.key in manifest.failures or is_fused(pair, manifest.rows.get(pair.key), folder) for pair in pairs.pairs
    )


def _is_complete(table: Table, step: Step, request: Request) -> bool:
    """Tell whether a table holds every row and seed that a step makes, on images as the paper's are."""
    if not is_of(table, step, request) or not all(_is_as_wanted(result, step) for result in table.results):
        return False
    if not _is_of_split(table, step):
        return False  # another split, of a list of ids, or the first so many
    return not missing_runs(table, step, request) and _is_of_these_files(table, step)


def _is_of_these_files(table: Table, step: Step) -> bool:
    """Tell whether a table was measured on the files as they are now, as far as it names them all.

    A task that trains looks at the files itself, and pairs that could not be scored are not among those it names.
    """
    if step.trains or table.count != len(step.pairs.pairs):
        return True
    measured = table.results[0].sources_hash  # rows of a table share it; earlier versions did not write it
    return measured in {"", step.pairs.sources_hash()}


def _is_as_wanted(result: Result, step: Step) -> bool:
    """Tell whether a result is over images as the paper's are, or over all parts of them that are there."""
    return comparable(result) or (result.comparable and set(result.parts) == set(step.pairs.parts))


def _is_of_split(table: Table, step: Step) -> bool:
    """Tell whether a table is about a step's split; of a rendered sample, a task that trains chooses it."""
    if step.paper.split and step.pairs.dataset == step.paper.dataset:
        return table.split == step.paper.split
    only_part = step.pairs.parts if len(step.pairs.parts) == 1 else ()  # medical calls a table of one modality by it
    return step.trains or table.split in {step.pairs.label, *only_part}


def checkpoint_of(method: str, request: Request) -> str | None:
    """Return the SHA-256 of the weights that a method would fuse with, None where it has none."""
    network = fusion_method(method).rule is None
    return file_sha256(request.weights or SHIPPED_WEIGHTS) if network else None


def _maker(method: str, request: Request) -> tuple[str, str | None, dict[str, Any]]:
    """Return what :func:`made_by` says of images by the fuser that would be loaded now, with its usual settings."""
    return method, checkpoint_of(method, request), {}

"""Reproducing the paper's tables: the command lines that make them, which have been run, and how long the rest takes.

A step is a command line of emma-tasks. It runs as a process of its own, so any installed task can be one, and one
that dies takes nothing along. What is done is read from ``runs``, so that a stopped reproduction continues.
"""

from __future__ import annotations

import shlex
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from emma_core.errors import DataError, ManifestError, UsageError
from emma_core.evaluate import TASK as EVALUATE
from emma_core.evaluate import evaluate_dataset
from emma_core.fuse_dataset import fuse_dataset, fused_folder
from emma_core.fusers import SHIPPED_WEIGHTS, fusion_method, load_fuser
from emma_core.manifest import file_sha256, read_manifest
from emma_core.options import find_dataset
from emma_core.report.beside import comparable, recipe_name
from emma_core.report.missing import needed_rows
from emma_core.report.paper import METHOD, PaperTable, fill_in, paper_tables
from emma_core.report.tables import collect_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from emma_core.datasets import PairSet
    from emma_core.report.parts import Table

FUSE = "fuse-dataset"
_TIMED_PAIRS = 2


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
        UsageError: no such table, or one that is not made by the method asked for.
    """
    steps: dict[tuple[str, ...], Step] = {}
    absent: list[tuple[PaperTable, str]] = []
    papers = chosen_tables(name)
    if request.method != METHOD and not any(paper.takes_method for paper in papers):
        raise UsageError(f"--method {request.method}: {papers[0].title} is made by {METHOD}; leave the option out")
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
    tables, _ = collect_tables(request.runs)
    return any(_is_complete(table, step, request) for table in tables)


def estimate(step: Step, request: Request) -> float | None:
    """Estimate how long a step takes here [seconds].

    Fusing and scoring are timed on a few pairs, in a folder that is thrown away; a task of another package by the
    rows of it that have been run.

    Returns:
        The time, or None where nothing is known of it.

    Raises:
        EmmaError: the step cannot be run, e.g. without weights.
    """
    if step.arguments[0] == FUSE:
        fuser = load_fuser(request.method, weights=request.weights, precision="auto")
        return _timed(_unfused(step.pairs, request), lambda few, folder: fuse_dataset(few, fuser, folder))
    if step.arguments[0] == EVALUATE:
        return _timed(step.pairs, lambda few, folder: evaluate_dataset(few, (), folder))
    return _from_rows(step, request)


def by_another_recipe(step: Step, request: Request) -> tuple[str, float] | None:
    """Return the name of another recipe by which a step's task was run here, and how long a run took [seconds]."""
    tables = [table for table in collect_tables(request.runs)[0] if step.trains and _is_of_task(table, step)]
    fullest = max(tables, key=lambda table: len(table.results), default=None)
    return (recipe_name(fullest.recipe), _a_run(fullest)) if fullest else None


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
        # A status of 1 may only say that single pairs had to be left out, which is no reason to stop.
        if run(step) and not is_done(step, request):
            failed.append(step)
        elif step.arguments[0] == FUSE:
            fresh.add(dataset)
    return failed


def _arguments(step: str, request: Request) -> tuple[str, ...]:
    options = {
        "method": ("--method", request.method),
        "weights": ("--weights", str(request.weights)) if request.weights else (),
        "training": ("--recipe", request.recipe, "--seeds", ",".join(map(str, request.seeds))),
    }
    return (*fill_in(step, str(request.root), options), "--runs", str(request.runs))


def _split(arguments: Sequence[str]) -> str | None:
    return arguments[arguments.index("--split") + 1] if "--split" in arguments else None


def _is_fused(pairs: PairSet, request: Request) -> bool:
    try:
        manifest = read_manifest(fused_folder(request.runs, pairs.dataset, request.method))
    except ManifestError:
        return False
    if not _is_made_by(manifest.settings, request.method, request):
        return False
    known = manifest.rows.keys() | manifest.failures.keys()
    return all(pair.key in known for pair in pairs.pairs)


def _unfused(pairs: PairSet, request: Request) -> PairSet:
    """Keep the pairs without an image, which a stopped run left; all if none lacks one, as some may be out of date."""
    folder = fused_folder(request.runs, pairs.dataset, request.method)
    left = tuple(pair for pair in pairs.pairs if not (folder / f"{pair.key}.png").exists())
    return replace(pairs, pairs=left or pairs.pairs)


def _is_complete(table: Table, step: Step, request: Request) -> bool:
    """Tell whether a table holds every row and seed that a step makes, on images as the paper's are."""
    if not _is_of(table, step, request) or not all(map(comparable, table.results)):
        return False
    if _split_of(step) not in {None, table.split}:
        return False  # another split, of a list of ids, or the first so many
    return not _missing_runs(table, step, request)


def _split_of(step: Step) -> str | None:
    """Name the split that a step's results are about; of a rendered sample, a task that trains chooses it."""
    if step.paper.split and step.pairs.dataset == step.paper.dataset:
        return step.paper.split
    return None if step.trains else step.pairs.label


def _is_of(table: Table, step: Step, request: Request) -> bool:
    """Tell whether a step makes rows of a table; a recipe with a value changed has another name."""
    return _is_of_task(table, step) and (not step.trains or recipe_name(table.recipe).lower() == request.recipe.lower())


def _is_of_task(table: Table, step: Step) -> bool:
    return (table.task, table.dataset) == (step.arguments[0], step.pairs.dataset)


def _missing_runs(table: Table, step: Step, request: Request) -> list[tuple[str, int | None]]:
    """List rows and seeds that a table lacks; a row of fused images counts if they were made as asked for."""
    seeds: Sequence[int | None] = request.seeds if step.trains else (None,)
    method = request.method if step.paper.takes_method else METHOD
    there = {
        (result.row, result.seed)
        for result in table.results
        if result.row != method or _is_made_by(result.source, method, request)
    }
    rows = needed_rows(step.paper, step.pairs.dataset, method)
    return [(row, seed) for row in rows for seed in seeds if (row, seed) not in there]


def _is_made_by(record: Mapping[str, Any], method: str, request: Request) -> bool:
    """Tell whether a record of fused images, of a manifest or a result, names the fuser that would be loaded now."""
    network = fusion_method(method).rule is None
    checkpoint = file_sha256(request.weights or SHIPPED_WEIGHTS) if network else None
    return (record.get("method"), record.get("checkpoint_sha256")) == (method, checkpoint)


def _timed(pairs: PairSet, work: Callable[[PairSet, Path], object]) -> float:
    few = pairs.first(_TIMED_PAIRS)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        work(few, Path(folder))
        return (time.perf_counter() - begun) / len(few.pairs) * len(pairs.pairs)


def _from_rows(step: Step, request: Request) -> float | None:
    tables = [table for table in collect_tables(request.runs)[0] if _is_of(table, step, request)]
    if not tables:
        return None
    fullest = min(tables, key=lambda table: len(_missing_runs(table, step, request)))
    # Without training all rows are scored together, and each result has the time of all.
    return _a_run(fullest) * (len(_missing_runs(fullest, step, request)) if step.trains else 1)


def _a_run(table: Table) -> float:
    return statistics.fmean(result.seconds for result in table.results)

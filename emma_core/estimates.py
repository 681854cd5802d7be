"""How long the steps of a reproduction take here, as far as that is known before they are run.

What is fused and scored is timed on a few pairs. Trainings are judged by rows that were trained here by the same
recipe; where there are none, by what a row cost on the machine of the documentation, which is a guess and called one.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from emma_core.batches import AT_ONCE
from emma_core.errors import DataError
from emma_core.evaluate import TASK as EVALUATE
from emma_core.evaluate import evaluate_dataset
from emma_core.fuse_dataset import fuse_dataset, fused_folder
from emma_core.fusers import load_fuser
from emma_core.plugins import recipes_of
from emma_core.report.beside import recipe_name
from emma_core.report.tables import read_tables
from emma_core.reproduce import FUSE, fused_by, is_of, is_of_task, missing_runs, wanted_runs
from emma_core.runtime import resolve_device

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from emma_core.pairs import PairSet
    from emma_core.report.parts import Table
    from emma_core.reproduce import Request, Step

_CORES = 2
"""Of the machine of the documentation."""

_TRAINED_ON = 0.81
"""Share of the images that a detector learns from: a tenth is for the test, a tenth of the rest chooses the epoch."""


@dataclass(frozen=True)
class Estimate:
    """How long a step takes.

    Attributes:
        seconds: about so many.
        guessed: whether they are of the machine of the documentation, as nothing was measured here.
    """

    seconds: float
    guessed: bool = False


def estimate(step: Step, request: Request, earlier: Sequence[Step] = ()) -> Estimate | None:
    """Estimate how long a step takes here.

    Fusing and scoring are timed on a few pairs, in a folder that is thrown away.

    Args:
        step: that is to be run.
        request: what it was planned for.
        earlier: steps that are run before it; what they fuse is not fused again.

    Returns:
        The time, or None where nothing is known of it; the few pairs may all be unusable.

    Raises:
        EmmaError: the step cannot be run, e.g. without weights.
    """
    if step.trains:
        return _of_training(step, request)
    seconds = 0.0
    if step.arguments[0] != EVALUATE:  # a task that is neither fuses by itself
        fuser = load_fuser(fused_by(step, request), weights=request.weights, precision="auto")
        pairs = _unfused(step, request, earlier)
        seconds += _timed(pairs, lambda few, folder: fuse_dataset(few, fuser, folder))
    if step.arguments[0] != FUSE:
        try:
            seconds += _timed(step.pairs, lambda few, folder: evaluate_dataset(few, (), folder))
        except DataError:
            return None
    return Estimate(seconds)


def by_another_recipe(step: Step, request: Request) -> tuple[str, float] | None:
    """Return the name of another recipe by which a step's task was run here, and how long a run took [seconds]."""
    tables = [table for table in read_tables(request.runs)[0] if step.trains and is_of_task(table, step)]
    fullest = max(tables, key=lambda table: len(table.results), default=None)
    return (recipe_name(fullest.recipe), _a_run(fullest)) if fullest else None


def _of_training(step: Step, request: Request) -> Estimate | None:
    tables = [table for table in read_tables(request.runs)[0] if is_of(table, step, request)]
    if tables:
        fullest = min(tables, key=lambda table: len(missing_runs(table, step, request)))
        return Estimate(_a_run(fullest) * len(missing_runs(fullest, step, request)))
    costs: Mapping[str, float] = getattr(recipes_of(step.arguments[0]), "SECONDS_AN_IMAGE", {})
    cost = costs.get(request.recipe.lower())
    if cost is None:
        return None
    images = _trained_on(step.pairs) * len(wanted_runs(step, request))
    return Estimate(cost / _CORES * images, guessed=True)


def _trained_on(pairs: PairSet) -> float:
    """Count the images that a network is trained on: the part called so, or most of them."""
    return sum(pair.split == "train" for pair in pairs.pairs) or _TRAINED_ON * len(pairs.pairs)


def _unfused(step: Step, request: Request, earlier: Sequence[Step]) -> PairSet:
    """Keep the pairs without an image, which a stopped run left, less those that earlier steps fuse.

    If none lacks an image they all count, as some may be out of date.
    """
    pairs = step.pairs
    folder = fused_folder(request.runs, pairs.dataset, fused_by(step, request))
    left = [pair for pair in pairs.pairs if not (folder / f"{pair.key}.png").exists()] or pairs.pairs
    fusing = [other for other in earlier if other.arguments[0] == FUSE and other.pairs.dataset == pairs.dataset]
    planned = {pair.key for other in fusing for pair in other.pairs.pairs}
    return replace(pairs, pairs=tuple(pair for pair in left if pair.key not in planned))


def _at_once() -> int:
    """Say how many pairs show what a pair takes: as many as are worked on at a time, or all would be taken for slow."""
    return max(2, torch.get_num_threads() if resolve_device().type == "cpu" else AT_ONCE)


def _timed(pairs: PairSet, work: Callable[[PairSet, Path], object]) -> float:
    """Return how long the work takes on all pairs [seconds], from a few of them."""
    few = pairs.first(_at_once())
    if not few.pairs:
        return 0.0
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        work(few, Path(folder))
        return (time.perf_counter() - begun) / len(few.pairs) * len(pairs.pairs)


def _a_run(table: Table) -> float:
    return statistics.fmean(result.seconds for result in table.results)

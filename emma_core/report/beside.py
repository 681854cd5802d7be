"""Which of the paper's rows stand beside ours, and what has to be said about that."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from emma_core.datasets import declared
from emma_core.report.paper import ABLATION, PAPER_RECIPE, PaperTable, paper_table
from emma_core.report.parts import Cell, Published, TableRow
from emma_core.text import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from emma_core.results import Result


def comparable(result: Result) -> bool:
    """Tell whether the paper's figures may stand beside a part of a data set.

    They are over test images of every kind: not beside any training image, nor one modality alone; nor beside what its
    task calls another thing, such as labels that no person drew.
    """
    spec = declared(result.dataset)
    declared_parts = {part.name for part in spec.splits} if spec else set()
    return result.comparable and set(result.parts) == (declared_parts & {"test"} or declared_parts)


def published_beside(results: Sequence[Result]) -> tuple[Published, ...]:
    """Return the paper's rows for the task and data set of a table's results, arranged in our columns."""
    first = results[0]
    if not all(map(comparable, results)):
        return ()
    names = [column.name for column in first.columns]
    tasks = [first.task, *[ABLATION] * any(result.row.startswith(f"{ABLATION}-") for result in results)]
    papers = [paper for task in tasks if (paper := paper_table(task, first.dataset))]
    return tuple(
        Published(paper, _arranged(paper, names), (*paper.notes, *_differs(paper, first)))
        for paper in papers
        if set(names) & set(paper.columns)
    )


def recipe_name(recipe: Mapping[str, Any]) -> str:
    """Return the name of a recipe, as tasks write it under ``recipe`` or ``name``; empty where there is none."""
    return plain(str(recipe.get("recipe") or recipe.get("name") or ""))


def _arranged(paper: PaperTable, names: Sequence[str]) -> tuple[TableRow, ...]:
    rows = []
    for row, figures in paper.rows.items():
        known = dict(zip(paper.columns, figures, strict=True))
        rows.append(TableRow(row, tuple(Cell(known.get(name, math.nan)) for name in names)))
    return tuple(rows)


def _differs(paper: PaperTable, ours: Result) -> list[str]:
    """Say in what our images and recipe are not the paper's."""
    notes = []
    if paper.split and paper.split != ours.split:
        notes.append(f"Not the paper's split: ours is {plain(ours.split)}.")
    if paper.images is None:
        notes.append(f"Perhaps not the same images: ours are {ours.count}, the paper's are on no list.")
    elif paper.images != ours.count:
        notes.append(f"Not the same images: ours are {ours.count}, the paper's {paper.images}.")
    if recipe_name(ours.recipe) not in {"", PAPER_RECIPE}:
        notes.append(f"Not the paper's recipe: ours is {recipe_name(ours.recipe)}.")
    return notes

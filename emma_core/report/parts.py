"""What a table is made of, and how a figure is spelled: our rows, the paper's, notes and differences.

:mod:`emma_core.report.tables` makes tables out of results; :mod:`emma_core.report.formats` and
:mod:`emma_core.report.console` print them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from emma_core.datasets import declared
from emma_core.text import counted

if TYPE_CHECKING:
    from emma_core.comparisons import Comparison
    from emma_core.report.paper import PaperTable
    from emma_core.results import Column, Result

Mark = Literal["", "best", "second"]


@dataclass(frozen=True)
class Cell:
    """One figure of a table.

    Attributes:
        value: in the unit of its column; NaN where there is none.
        deviation: sample standard deviation over seeds; NaN for fewer than two.
        spread: standard deviation over images, where the task has it and there is one run; else NaN.
        mark: whether it is the best or second best of our rows.
    """

    value: float
    deviation: float = math.nan
    spread: float = math.nan
    mark: Mark = ""


@dataclass(frozen=True)
class TableRow:
    """One kind of input, or one method of the paper.

    Attributes:
        name: e.g. ``IR``, ``EMMA``.
        cells: one per column of the table.
        results: what it was read from, one per seed; empty for a row of the paper, and for one that was not run.
        files: their ``result.json``, relative to the folder of runs, in the same order.
        baseline: whether this is an input without fusion, or a naive rule.
    """

    name: str
    cells: tuple[Cell, ...]
    results: tuple[Result, ...] = ()
    files: tuple[str, ...] = ()
    baseline: bool = False

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the training runs behind it, ascending."""
        return tuple(result.seed for result in self.results if result.seed is not None)


@dataclass(frozen=True)
class Published:
    """What the paper prints for this task and data set.

    Attributes:
        paper: the table it comes from.
        rows: in the paper's order, arranged in our columns; columns that it lacks hold NaN.
        notes: how its protocol differs from ours.
    """

    paper: PaperTable
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows that may be compared: one task, one set of images, one recipe.

    Attributes:
        key: :attr:`Result.table_key` of every row.
        title: e.g. ``Fusion quality``.
        dataset: name of the data set.
        split: label of the part.
        count: number of images.
        columns: what is measured.
        rows: ours; baselines first. One that was not run has no results.
        published: the paper's rows, where it has some for this part of the data set.
        notes: sentences a reader needs beside the figures.
        comparisons: differences between its rows with their intervals, as the task wrote them.
        compared_in: the ``comparisons.json`` that holds them, relative to the folder of runs.
    """

    key: tuple[str, str, str, str]
    title: str
    dataset: str
    split: str
    count: int
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    published: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    compared_in: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """The command that made it."""
        return self.key[0]

    @property
    def heading(self) -> str:
        """Title, data set, split and count in one line."""
        return f"{self.title}: {self.dataset} {self.split}, {self.images}"

    @property
    def images(self) -> str:
        """Their number, in words."""
        return counted(self.count, "image")

    @property
    def files(self) -> tuple[str, ...]:
        """Every ``result.json`` it was read from, relative to the folder of runs."""
        return tuple(file for row in self.rows for file in row.files)

    @property
    def results(self) -> tuple[Result, ...]:
        """Everything it was read from."""
        return tuple(result for row in self.rows for result in row.results)

    @property
    def recipe(self) -> dict[str, Any]:
        """What all rows were made with."""
        return self.results[0].recipe


def source_labels(dataset: str) -> tuple[str, str]:
    """Name the rows of each source alone, infrared (or what stands for it) first."""
    spec = declared(dataset)
    return (spec.infrared_label, spec.visible_label) if spec else ("IR", "VI")


def unqualified(row: str) -> str:
    """Return the name of a row without what its task said of it in brackets: ``IR (pseudo-labels)`` is of IR."""
    return row.partition(" (")[0]


def arrow(column: Column) -> str:
    """Return the sign of the better direction."""
    return "↑" if column.higher_is_better else "↓"


def spread_text(cell: Cell, digits: int) -> str:
    """Return how far the images lie apart in a figure, ``± 0.42``; empty where that is not known."""
    return f"± {cell.spread:.{digits}f}" if math.isfinite(cell.spread) else ""


def cell_text(cell: Cell, digits: int) -> str:
    """Return a figure as tables print it: ``6.57``, ``6.57 ± 0.02`` over seeds, ``-`` where there is none."""
    if not math.isfinite(cell.value):
        return "-"
    spread = f" ± {cell.deviation:.{digits}f}" if math.isfinite(cell.deviation) else ""
    return f"{cell.value:.{digits}f}{spread}"

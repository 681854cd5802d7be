"""Tables out of ``result.json`` files: our rows beside the paper's, one data set, split and recipe a table.

Figures are taken as the tasks wrote them; the only arithmetic here is the mean and deviation over the seeds
of a row. How a table looks on paper or in a terminal is :mod:`emma_core.report.formats`.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from emma_core.comparisons import COMPARISONS, Comparison, read_comparisons
from emma_core.datasets import DATASETS, SAMPLE_SUFFIX, declared
from emma_core.errors import ResultError
from emma_core.report.paper import ABLATION, PaperTable, paper_table
from emma_core.results import Column, Result, find_results, read_result

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.table import Table as ConsoleTable

Mark = Literal["", "best", "second"]


@dataclass(frozen=True)
class Cell:
    """One figure of a table.

    Attributes:
        value: in the unit of its column; NaN where there is none.
        deviation: sample standard deviation over seeds; NaN for fewer than two.
        mark: whether it is the best or second best of our rows.
    """

    value: float
    deviation: float = math.nan
    mark: Mark = ""


@dataclass(frozen=True)
class TableRow:
    """One kind of input, or one method of the paper.

    Attributes:
        name: e.g. ``IR``, ``EMMA``.
        cells: one per column of the table.
        results: what it was read from, one per seed; empty for a row of the paper.
        files: their ``result.json``, relative to the folder of runs, in the same order.
    """

    name: str
    cells: tuple[Cell, ...]
    results: tuple[Result, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def baseline(self) -> bool:
        """Whether this is an input without fusion, or a naive rule."""
        return any(result.baseline for result in self.results)

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
        rows: ours; baselines first.
        published: the paper's rows, where it has some for this part of the data set.
        notes: sentences a reader needs beside the figures.
        comparisons: differences between its rows with their intervals, as the task wrote them.
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

    @property
    def task(self) -> str:
        """The command that made it."""
        return self.key[0]

    @property
    def heading(self) -> str:
        """Title, data set, split and count in one line."""
        return f"{self.title}: {self.dataset} {self.split}, {self.count} image{'' if self.count == 1 else 's'}"

    @property
    def files(self) -> tuple[str, ...]:
        """Every ``result.json`` it was read from, relative to the folder of runs."""
        return tuple(file for row in self.rows for file in row.files)

    @property
    def recipe(self) -> dict[str, Any]:
        """What all rows were made with."""
        return self.rows[0].results[0].recipe

    def to_markdown(self) -> str:
        """Render it for GitHub and other Markdown readers."""
        from emma_core.report.formats import to_markdown

        return to_markdown(self)

    def to_latex(self) -> str:
        """Render it for LaTeX with the package booktabs."""
        from emma_core.report.formats import to_latex

        return to_latex(self)

    def to_console(self) -> ConsoleTable:
        """Render it for ``rich.console.Console.print``."""
        from emma_core.report.formats import to_console

        return to_console(self)


def collect_tables(runs: Path) -> tuple[list[Table], list[str]]:
    """Read every ``result.json`` below a folder of runs, put together what may be compared, and add what tasks said.

    Args:
        runs: the folder of all runs.

    Returns:
        The tables, by data set, split and task; and a line for each file that could not be used.
    """
    groups: dict[tuple[str, ...], dict[tuple[str, int | None], tuple[Result, str]]] = {}
    warnings: list[str] = []
    for path in find_results(runs):
        try:
            result = read_result(path)
        except ResultError as error:
            warnings.append(plain(str(error)))
            continue
        group = groups.setdefault((*result.table_key, result.split), {})
        file = path.relative_to(runs).as_posix()
        twin = group.setdefault((result.row, result.seed), (result, file))
        if twin[1] != file:
            warnings.append(plain(f"{path}: left out, {twin[1]} is the same row of the same table"))
    tables = [table_of(*zip(*group.values(), strict=True)) for group in groups.values()]
    said, lost = _read_comparisons(runs)
    tables = [replace(table, comparisons=_about(table, said)) for table in sorted(tables, key=_table_order)]
    return tables, warnings + lost


def table_of(results: Sequence[Result], files: Sequence[str] = ()) -> Table:
    """Put results of one task, data set, split and recipe into a table.

    Args:
        results: its rows, in any order; several seeds of a row become their mean.
        files: the ``result.json`` of each, relative to the folder of runs.

    Returns:
        The table, with the paper's rows where the paper has any.

    Raises:
        ResultError: there is no result, or they must not be compared.
    """
    if not results:
        raise ResultError("No results to put into a table; run a task first, e.g.: emma-tasks evaluate NAME")
    if len({result.table_key for result in results}) > 1:
        raise ResultError("Results of different tasks, images or recipes do not go into one table")
    first = results[0]
    rows = _rows(results, files or [""] * len(results))
    return Table(
        key=first.table_key,
        title=plain(first.title),
        dataset=plain(first.dataset),
        split=plain(first.split),
        count=max(result.count for result in results),
        columns=tuple(replace(column, name=plain(column.name)) for column in first.columns),
        rows=_marked(rows, first.columns),
        published=_published(first, rows),
        notes=_notes(rows),
    )


def row_order(name: str, dataset: str = "", *, baseline: bool = False) -> tuple[bool, int, bool, str]:
    """Sorting key of rows: IR, VI, mean, max, then other methods by name, EMMA last."""
    spec = declared(dataset)
    labels = (spec.infrared_label, spec.visible_label) if spec else ("IR", "VI")
    ranks = {"IR": 0, "VI": 1, "other": 0, "MRI": 1, labels[0]: 0, labels[1]: 1, "mean": 2, "max": 3}
    rank = ranks.get(name, 4) if baseline else 4
    return not baseline, rank, name.upper().startswith("EMMA"), name.lower()


def plain(text: str) -> str:
    """Return text as one line of printable characters: names of files and data sets are anybody's."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def arrow(column: Column) -> str:
    """Return the sign of the better direction."""
    return "↑" if column.higher_is_better else "↓"


def cell_text(cell: Cell, digits: int) -> str:
    """Return a figure as tables print it: ``6.57``, ``6.57 ± 0.02`` over seeds, ``-`` where there is none."""
    if not math.isfinite(cell.value):
        return "-"
    spread = f" ± {cell.deviation:.{digits}f}" if math.isfinite(cell.deviation) else ""
    return f"{cell.value:.{digits}f}{spread}"


def _rows(results: Sequence[Result], paths: Sequence[str]) -> list[TableRow]:
    groups: dict[str, list[tuple[Result, str]]] = {}
    for result, path in zip(results, paths, strict=True):
        groups.setdefault(result.row, []).append((result, path))
    rows = [_row(members) for members in groups.values()]
    return sorted(rows, key=lambda row: row_order(row.name, results[0].dataset, baseline=row.baseline))


def _row(members: list[tuple[Result, str]]) -> TableRow:
    ordered = sorted(members, key=lambda member: -1 if member[0].seed is None else member[0].seed)
    results = tuple(result for result, _ in ordered)
    cells = [_cell([result.values[column.name] for result in results]) for column in results[0].columns]
    traced = tuple(path for _, path in ordered if path)
    return TableRow(plain(results[0].row), tuple(cells), results, traced)


def _cell(values: list[float]) -> Cell:
    if not all(math.isfinite(value) for value in values):
        return Cell(math.nan)  # a mean over the seeds that happened to have a figure would flatter
    return Cell(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan)


def _marked(rows: Sequence[TableRow], columns: Sequence[Column]) -> tuple[TableRow, ...]:
    """Mark best and second best per column; what prints alike is alike."""
    marks = [_marks([row.cells[index].value for row in rows], column) for index, column in enumerate(columns)]
    return tuple(
        replace(
            row,
            cells=tuple(replace(cell, mark=marks[index][place]) for index, cell in enumerate(row.cells)),
        )
        for place, row in enumerate(rows)
    )


def _marks(values: Sequence[float], column: Column) -> list[Mark]:
    printed = [round(value, column.digits) if math.isfinite(value) else None for value in values]
    finite = [value for value in printed if value is not None]
    if len(finite) < 2:
        return [""] * len(values)
    ranking = sorted(set(finite), reverse=column.higher_is_better)
    signs: dict[float, Mark] = {ranking[0]: "best"}
    if len(ranking) > 1:
        signs[ranking[1]] = "second"
    return ["" if value is None else signs.get(value, "") for value in printed]


def _notes(rows: Sequence[TableRow]) -> tuple[str, ...]:
    """Gather the notes of the results, and say what a reader would otherwise take for granted."""
    results = [result for row in rows for result in row.results]
    notes = [plain(note) for result in results for note in result.notes]
    most = max(result.count for result in results)
    for count in sorted({len(row.results) for row in rows} - {1}):
        names = ", ".join(row.name for row in rows if len(row.results) == count)
        notes.append(f"{names}: mean and standard deviation over {count} seeds.")
    for row in rows:
        if any(result.source != row.results[0].source for result in row.results):
            notes.append(f"{row.name}: its seeds were not run on the same input images.")
        notes += [f"{row.name}: over {result.count} images." for result in row.results if result.count != most]
    return tuple(dict.fromkeys(notes))


def comparable(result: Result) -> bool:
    """Tell whether the paper's figures may stand beside a part of a data set.

    They are over test images of every kind: not beside any training image, nor one modality alone; and over labels
    that people drew.
    """
    spec = declared(result.dataset)
    declared_parts = {part.name for part in spec.splits} if spec else set()
    if "pseudo" in f"{result.title} {result.recipe}".lower():
        return False
    return set(result.parts) == (declared_parts & {"test"} or declared_parts)


def _published(result: Result, rows: Sequence[TableRow]) -> tuple[Published, ...]:
    """Return the paper's rows for a task and data set, arranged in our columns."""
    if not comparable(result):
        return ()
    names = [column.name for column in result.columns]
    tasks = [result.task, *[ABLATION] * any(row.name.startswith(f"{ABLATION}-") for row in rows)]
    papers = [paper for task in tasks if (paper := paper_table(task, result.dataset))]
    return tuple(
        Published(paper, _arranged(paper, names), (*paper.notes, *_other_count(paper, result.count)))
        for paper in papers
        if set(names) & set(paper.columns)
    )


def _arranged(paper: PaperTable, names: Sequence[str]) -> tuple[TableRow, ...]:
    rows = []
    for row, figures in paper.rows.items():
        known = dict(zip(paper.columns, figures, strict=True))
        rows.append(TableRow(row, tuple(Cell(known.get(name, math.nan)) for name in names)))
    return tuple(rows)


def _other_count(paper: PaperTable, count: int) -> tuple[str, ...]:
    if paper.images is None or paper.images == count:
        return ()
    return (f"Not the same images: ours are {count}, the paper's {paper.images}.",)


def _read_comparisons(runs: Path) -> tuple[list[tuple[str, Comparison]], list[str]]:
    """Read what tasks compared, each with its folder relative to that of all runs; and a line for each bad file."""
    found: list[tuple[str, Comparison]] = []
    warnings: list[str] = []
    for path in sorted(runs.glob(f"**/{COMPARISONS}")):
        folder = path.parent.relative_to(runs).as_posix()
        try:
            found += [(folder, comparison) for comparison in read_comparisons(path)]
        except ResultError as error:
            warnings.append(plain(str(error)))
    return found, warnings


def _about(table: Table, said: Sequence[tuple[str, Comparison]]) -> tuple[Comparison, ...]:
    """Keep what is about rows of this table; what was said of earlier results has another key."""
    names = {row.name for row in table.rows}
    return tuple(
        comparison
        for folder, comparison in said
        if comparison.table_key == table.key
        and {plain(comparison.row), plain(comparison.against)} <= names
        and any(file.startswith(f"{folder}/") for file in table.files)
    )


def _table_order(table: Table) -> tuple[tuple[int, str], int, str, tuple[str, ...]]:
    spec = declared(table.dataset)
    parts = ["all", *(part.name for part in spec.splits)] if spec else ["all"]
    place = parts.index(table.split) if table.split in parts else len(parts)
    return dataset_order(table.dataset), place, table.split, table.key


def dataset_order(name: str) -> tuple[int, str]:
    """Sorting key of data sets: as declared, then others by name."""
    known = list(DATASETS)
    plain_name = name.removesuffix(SAMPLE_SUFFIX)
    return (known.index(plain_name) if plain_name in known else len(known)), name.lower()

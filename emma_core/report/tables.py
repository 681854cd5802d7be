"""Tables out of ``result.json`` files: our rows beside the paper's, one data set, split and recipe a table.

Figures are taken as the tasks wrote them; the only arithmetic here is the mean and deviation over the seeds
of a row. How a table looks on paper or in a terminal is :mod:`emma_core.report.formats`
or :mod:`emma_core.report.console`.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

from emma_core.comparisons import COMPARISONS, Comparison, read_comparisons
from emma_core.datasets import DATASETS, SAMPLE_SUFFIX, declared
from emma_core.errors import ResultError
from emma_core.report.beside import published_beside
from emma_core.report.missing import commands_text, needed_rows
from emma_core.report.notes import fused_since, notes_of
from emma_core.report.parts import Cell, Table, TableRow, source_labels, unqualified
from emma_core.results import NAIVE_ROWS, SOURCE_ROWS, find_results, read_result
from emma_core.text import plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from emma_core.report.parts import Mark
    from emma_core.results import Column, Result

_BASELINES = ("infrared", "visible", *NAIVE_ROWS)
"""Rows without fusion, in their order."""


def collect_tables(runs: Path) -> tuple[list[Table], list[str]]:
    """Read the tables below a folder of runs, and add what is known only there.

    That is what tasks said of differences, which images were replaced since, and which rows were not run.

    Args:
        runs: the folder of all runs.

    Returns:
        The tables, by data set, split and task; and a line for each file that could not be used.
    """
    tables, warnings = read_tables(runs)
    said, lost = _read_comparisons(runs)
    return [_completed(table, runs, said) for table in tables], warnings + lost


def read_tables(runs: Path) -> tuple[list[Table], list[str]]:
    """Read every ``result.json`` below a folder of runs, and put together what may be compared.

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
    return sorted(tables, key=_table_order), warnings


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
        published=published_beside(results),
        notes=notes_of(rows),
    )


def row_order(name: str, *, baseline: bool = False) -> tuple[bool, int, bool, str]:
    """Sorting key of rows: infrared, visible (or what stands for them), mean, max, other methods by name, EMMA last."""
    kind = SOURCE_ROWS.get(unqualified(name), unqualified(name))
    rank = _BASELINES.index(kind) if baseline and kind in _BASELINES else len(_BASELINES)
    return not baseline, rank, name.upper().startswith("EMMA"), name.lower()


def _rows(results: Sequence[Result], paths: Sequence[str]) -> list[TableRow]:
    groups: dict[str, list[tuple[Result, str]]] = {}
    for result, path in zip(results, paths, strict=True):
        groups.setdefault(result.row, []).append((result, path))
    rows = [_row(members) for members in groups.values()]
    return sorted(rows, key=_order)


def _row(members: list[tuple[Result, str]]) -> TableRow:
    ordered = sorted(members, key=lambda member: -1 if member[0].seed is None else member[0].seed)
    results = tuple(result for result, _ in ordered)
    cells = [_cell(results, column.name) for column in results[0].columns]
    traced = tuple(path for _, path in ordered if path)
    baseline = any(result.baseline for result in results)
    return TableRow(plain(results[0].row), tuple(cells), results, traced, baseline)


def _cell(results: Sequence[Result], name: str) -> Cell:
    values = [result.values[name] for result in results]
    if not all(math.isfinite(value) for value in values):
        return Cell(math.nan)  # a mean over the seeds that happened to have a figure would flatter
    if len(values) > 1:
        return Cell(statistics.fmean(values), statistics.stdev(values))
    return Cell(values[0], spread=results[0].deviation.get(name, math.nan))


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


def _completed(table: Table, runs: Path, said: Sequence[tuple[str, Comparison]]) -> Table:
    """Add what is known of a table only among all runs: differences, fresher images, rows that were not run."""
    lacking, advice = _not_run(table)
    known = _about(table, said)
    return replace(
        table,
        rows=tuple(sorted((*table.rows, *lacking), key=_order)),
        notes=(*table.notes, *fused_since(table.rows, runs), *advice),
        comparisons=tuple(comparison for _, comparison in known),
        compared_in=tuple(dict.fromkeys(file for file, _ in known)),
    )


def _not_run(table: Table) -> tuple[list[TableRow], list[str]]:
    """Make a row without figures for each that the paper's table needs, and say what runs them."""
    papers = [published.paper for published in table.published if published.paper.steps]
    there = {row.name for row in table.rows}
    sources = source_labels(table.dataset)
    empty = (Cell(math.nan),) * len(table.columns)
    rows, advice = [], []
    for paper in papers:
        names = [name for name in needed_rows(paper, table.dataset) if name not in there]
        rows += [TableRow(name, empty, baseline=name in sources) for name in names]
        advice += [commands_text(paper, names)] if names else []
    return rows, advice


def _order(row: TableRow) -> tuple[bool, int, bool, str]:
    return row_order(row.name, baseline=row.baseline)


def _read_comparisons(runs: Path) -> tuple[list[tuple[str, Comparison]], list[str]]:
    """Read what tasks compared, each with its file relative to the folder of runs; and a line for each bad file."""
    found: list[tuple[str, Comparison]] = []
    warnings: list[str] = []
    for path in sorted(runs.glob(f"**/{COMPARISONS}")):
        file = path.relative_to(runs).as_posix()
        try:
            found += [(file, comparison) for comparison in read_comparisons(path)]
        except ResultError as error:
            warnings.append(plain(str(error)))
    return found, warnings


def _about(table: Table, said: Sequence[tuple[str, Comparison]]) -> list[tuple[str, Comparison]]:
    """Keep what is about rows of this table; what was said of earlier results has another key."""
    names = {row.name for row in table.rows}
    return [
        (place, comparison)
        for place, comparison in said
        if comparison.table_key == table.key
        and {plain(comparison.row), plain(comparison.against)} <= names
        and any(file.startswith(place.removesuffix(COMPARISONS)) for file in table.files)
    ]


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

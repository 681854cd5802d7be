"""Plots beside a table, so that differences are seen before they are read; the page draws them as HTML.

Each column is a panel with a line per row: bars from zero on one scale where all columns are of one kind (classes),
else dots on a scale of its own. Differences between rows are forest plots: an interval, and where zero lies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from emma_core.report.paper import METHOD
from emma_core.report.parts import Cell, arrow, cell_text, unqualified
from emma_core.results import SOURCE_ROWS
from emma_core.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emma_core.comparisons import Comparison
    from emma_core.report.parts import Mark, Table, TableRow
    from emma_core.results import Column

_MARGIN = 8.0  # per cent of the track left free at both ends
_CLASSES = 4  # columns of one kind, from which on bars on one scale say more than dots
_LEGEND = {"fused": "fused", "baseline": "naive rule", "paper": f"{METHOD} as published"}


@dataclass(frozen=True)
class Dot:
    """One row in one panel.

    Attributes:
        name: of the row.
        kind: ``infrared``, ``visible``, ``baseline`` (a naive rule), ``fused`` or ``paper``.
        text: the figure as printed.
        mark: best or second best of our rows.
        at: place on the track, 0..100 %; length of its bar.
        low: where the whisker of one standard deviation begins, 0..100 %.
        width: its length, % of the track; 0 without one.
    """

    name: str
    kind: str
    text: str
    mark: Mark
    at: float
    low: float
    width: float


@dataclass(frozen=True)
class Panel:
    """One column of a table: heading, what it measures, and a dot for each row that has a figure."""

    heading: str
    title: str
    dots: tuple[Dot, ...]

    @property
    def wide(self) -> bool:
        """Whether its figures have deviations, which need room."""
        return any(dot.width for dot in self.dots)


@dataclass(frozen=True)
class Plot:
    """All panels of a table.

    Attributes:
        panels: one per column in which at least two rows have a figure.
        legend: the kinds of rows, and what each is.
        bars: whether they are drawn as bars from zero.
        scale: a sentence on where the scales begin and end.
    """

    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, str], ...]
    bars: bool
    scale: str

    @property
    def wide(self) -> bool:
        """Whether a panel needs room."""
        return any(panel.wide for panel in self.panels)


@dataclass(frozen=True)
class Difference:
    """One line of a forest plot.

    Attributes:
        row: e.g. ``EMMA``.
        against: the row that is taken from it, e.g. ``VI``.
        kind: whether the interval is on the better or the worse side of zero, or holds it.
        text: the difference as printed.
        interval: its interval, likewise.
        at: its place on the track, 0..100 %.
        low: where its interval begins, 0..100 %.
        width: length of the interval, % of the track.
    """

    row: str
    against: str
    kind: Literal["better", "worse", "unsure"]
    text: str
    interval: str
    at: float
    low: float
    width: float


@dataclass(frozen=True)
class Forest:
    """The differences in one column, on one scale that holds zero.

    Attributes:
        heading: the column, with its arrow and unit.
        zero: place of zero on the track, 0..100 %.
        lines: in the order in which the task compared.
    """

    heading: str
    zero: float
    lines: tuple[Difference, ...]


def plot_of(table: Table) -> Plot:
    """Draw the columns of a table in which at least two rows have a figure; the paper's EMMA is drawn too."""
    drawn = [list(_cells(table, index)) for index in range(len(table.columns))]
    bars = _of_one_kind(table.columns, drawn)
    top = max((_spread(cell)[1] for cells in drawn for _, _, cell, _ in cells), default=0.0) or 1.0
    panels = [
        _panel(column, cells, (0.0, top) if bars else _range(cells), 0.0 if bars else _MARGIN)
        for column, cells in zip(table.columns, drawn, strict=True)
        if len(cells) > 1
    ]
    scale = "Each scale runs from its lowest to its highest row, not from zero."
    if bars:
        scale = f"All scales run from 0 to {top:.{table.columns[0].digits}f} {plain(table.columns[0].unit)}."
    kinds = dict.fromkeys((kind, _LEGEND.get(kind, f"{name} alone")) for cells in drawn for name, kind, _, _ in cells)
    return Plot(tuple(panels), tuple(kinds), bars, scale)


def forests_of(table: Table) -> list[Forest]:
    """Draw the differences between rows that have an interval, a forest plot a column."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in table.comparisons:
        if comparison.defined:
            groups.setdefault((comparison.column, comparison.unit), []).append(comparison)
    columns = {column.name: column for column in table.columns}
    return [_forest(columns.get(plain(name)), members) for (name, _), members in groups.items()]


_Drawn = tuple[str, str, Cell, int]
"""Name, kind, figure and digits of a row in a column."""


def _cells(table: Table, index: int) -> Iterator[_Drawn]:
    """Go through the figures of a column: ours, then EMMA as first published."""
    for row in table.rows:
        if math.isfinite(row.cells[index].value):
            yield row.name, _kind(row), row.cells[index], table.columns[index].digits
    for published in table.published[:1]:
        for row in published.rows:
            if row.name == METHOD and math.isfinite(row.cells[index].value):
                yield f"{METHOD} (paper)", "paper", row.cells[index], published.paper.digits


def _kind(row: TableRow) -> str:
    return SOURCE_ROWS.get(unqualified(row.name), "baseline") if row.baseline else "fused"


def _of_one_kind(columns: Sequence[Column], drawn: Sequence[Sequence[_Drawn]]) -> bool:
    """Tell whether the columns share a unit and a direction and begin at zero, as figures of classes do."""
    kinds = {(column.unit, column.higher_is_better) for column in columns}
    negative = any(_spread(cell)[0] < 0 for cells in drawn for _, _, cell, _ in cells)
    return len(columns) >= _CLASSES and len(kinds) == 1 and bool(columns[0].unit) and not negative


def _panel(column: Column, cells: Sequence[_Drawn], limits: tuple[float, float], margin: float) -> Panel:
    dots = []
    for name, kind, cell, digits in cells:
        at = _place(cell.value, limits, margin)
        begin, end = (_place(value, limits, margin) for value in _spread(cell))
        text = cell_text(cell, digits)
        dots.append(Dot(name, kind, text, cell.mark, round(at, 2), round(begin, 2), round(end - begin, 2)))
    unit = f" [{plain(column.unit)}]" if column.unit else ""
    return Panel(f"{column.name} {arrow(column)}", f"{column.title or column.name}{unit}", tuple(dots))


def _range(cells: Sequence[_Drawn]) -> tuple[float, float]:
    ends = [_spread(cell) for _, _, cell, _ in cells]
    return min((low for low, _ in ends), default=0.0), max((high for _, high in ends), default=0.0)


def _spread(cell: Cell) -> tuple[float, float]:
    """Return a figure less and plus one standard deviation, as far as it has one."""
    deviation = cell.deviation if math.isfinite(cell.deviation) else 0.0
    return cell.value - deviation, cell.value + deviation


def _place(value: float, limits: tuple[float, float], margin: float) -> float:
    low, high = limits
    if high <= low:
        return 50.0
    return margin + (100.0 - 2 * margin) * (value - low) / (high - low)


def _forest(column: Column | None, comparisons: Sequence[Comparison]) -> Forest:
    limits = (min(0.0, *(each.low for each in comparisons)), max(0.0, *(each.high for each in comparisons)))
    higher = column is None or column.higher_is_better
    first = comparisons[0]
    unit = f" [{plain(first.unit)}]" if first.unit else ""
    heading = f"{plain(first.column)}{f' {arrow(column)}' if column else ''}{unit}"
    lines = tuple(_difference(each, limits, higher=higher) for each in comparisons)
    return Forest(heading, round(_place(0.0, limits, _MARGIN), 2), lines)


def _difference(comparison: Comparison, limits: tuple[float, float], *, higher: bool) -> Difference:
    at, low, high = (
        _place(value, limits, _MARGIN) for value in (comparison.difference, comparison.low, comparison.high)
    )
    kind: Literal["better", "worse", "unsure"] = "unsure"
    if comparison.sure:
        kind = "better" if (comparison.low > 0) == higher else "worse"
    names = plain(comparison.row), plain(comparison.against)
    text, *ends = comparison.texts
    return Difference(*names, kind, text, " to ".join(ends), round(at, 2), round(low, 2), round(high - low, 2))

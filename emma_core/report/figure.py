"""A dot plot a table: one panel a column, one line a row, so that differences are seen before they are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emma_core.report.tables import Cell, arrow, cell_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emma_core.report.tables import Mark, Table
    from emma_core.results import Column

_MARGIN = 8.0  # per cent of the track left free at both ends


@dataclass(frozen=True)
class Dot:
    """One row in one panel.

    Attributes:
        name: of the row.
        kind: ``baseline``, ``fused`` or ``paper``.
        text: the figure as printed.
        mark: best or second best of our rows.
        at: place on the track, 0..100 %.
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


def panels_of(table: Table) -> list[Panel]:
    """Draw the columns of a table in which at least two rows have a figure; the paper's EMMA is drawn too."""
    panels = (_panel(table, index, column) for index, column in enumerate(table.columns))
    return [panel for panel in panels if len(panel.dots) > 1]


def _panel(table: Table, index: int, column: Column) -> Panel:
    drawn = [
        (name, kind, row_cell, digits)
        for name, kind, row_cell, digits in _cells(table, index)
        if math.isfinite(row_cell.value)
    ]
    low, high = _range([cell for _, _, cell, _ in drawn])
    dots = tuple(_dot(name, kind, cell, digits, low, high) for name, kind, cell, digits in drawn)
    unit = f" [{column.unit}]" if column.unit else ""
    return Panel(f"{column.name} {arrow(column)}", f"{column.title or column.name}{unit}", dots)


def _cells(table: Table, index: int) -> Iterator[tuple[str, str, Cell, int]]:
    digits = table.columns[index].digits
    for row in table.rows:
        yield row.name, "baseline" if row.baseline else "fused", row.cells[index], digits
    for row in table.published.rows if table.published else ():
        if row.name == "EMMA" and table.published:
            yield "EMMA (paper)", "paper", row.cells[index], table.published.digits


def _range(cells: Sequence[Cell]) -> tuple[float, float]:
    spreads = [(cell, cell.deviation if math.isfinite(cell.deviation) else 0.0) for cell in cells]
    low = min((cell.value - spread for cell, spread in spreads), default=0.0)
    high = max((cell.value + spread for cell, spread in spreads), default=0.0)
    return low, high


def _dot(name: str, kind: str, cell: Cell, digits: int, low: float, high: float) -> Dot:
    spread = cell.deviation if math.isfinite(cell.deviation) else 0.0
    begin, at, end = (_place(cell.value + side * spread, low, high) for side in (-1, 0, 1))
    return Dot(name, kind, cell_text(cell, digits), cell.mark, round(at, 2), round(begin, 2), round(end - begin, 2))


def _place(value: float, low: float, high: float) -> float:
    if high <= low:
        return 50.0
    return _MARGIN + (100.0 - 2 * _MARGIN) * (value - low) / (high - low)

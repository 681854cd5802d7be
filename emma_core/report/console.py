"""A table as text in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as ConsoleTable
from rich.text import Text

from emma_core.report.parts import arrow, cell_text
from emma_core.report.words import LEGEND, ends_group, made_with, sentences, side_notes, units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emma_core.report.parts import Table, TableRow
    from emma_core.results import Column


def print_table(table: Table) -> None:
    """Print a table, wider than the terminal rather than with a figure cut; in a file no heading is either."""
    shown, console = to_console(table), Console()
    needed = Measurement.get(console, console.options.update(max_width=10_000), shown)
    least = needed.minimum if console.is_terminal else needed.maximum
    Console(width=max(console.width, least)).print(shown)


def to_console(table: Table) -> ConsoleTable:
    """Render a table for a terminal: best in bold, second best underlined, the paper's rows dim."""
    said = [LEGEND, *units(table), *made_with(table), *sentences(table.comparisons), *side_notes(table)]
    caption = Text("\n".join(said), style="dim")
    console = ConsoleTable(
        title=Text(table.heading), caption=caption, caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    console.padding = (0, 1, 0, 0)  # this, and units below, so that ten columns fit into 80 characters
    console.add_column("", no_wrap=True)
    for index, column in enumerate(table.columns):
        longest = max(len(f"{row.cells[index].value:.{column.digits}f}") for row in table.rows)
        heading = Text(f"{column.name} {arrow(column)}")
        console.add_column(heading, justify="right", overflow="fold", min_width=longest)
    for row in table.rows:
        console.add_row(*_row(row, table.columns), end_section=ends_group(table, row))
    for published in table.published:
        console.add_row(Text(f"{published.paper.title}:", style="dim italic"))
        for row in published.rows:
            cells = [Text(cell_text(cell, published.paper.digits)) for cell in row.cells]
            console.add_row(Text(row.name), *cells, style="dim")
    return console


def _row(row: TableRow, columns: Sequence[Column]) -> list[Text]:
    styles = {"best": "bold", "second": "underline", "": ""}
    cells = zip(row.cells, columns, strict=True)
    return [
        Text(row.name),
        *(Text(cell_text(cell, column.digits), style=styles[cell.mark]) for cell, column in cells),
    ]

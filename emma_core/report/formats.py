"""A table as Markdown, CSV or LaTeX (booktabs, and longtable where there are many differences)."""

from __future__ import annotations

import csv
import io
import math
import re
from typing import TYPE_CHECKING

from emma_core.report.paper import METHOD
from emma_core.report.parts import Cell, Table, TableRow, cell_text
from emma_core.report.words import (
    about,
    common_folder,
    ends_group,
    headings,
    read_from,
    recipe_text,
    sentences,
    side_notes,
)
from emma_core.text import plain, spreadsheet_cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from emma_core.comparisons import Comparison
    from emma_core.results import Column

_SENTENCES = 4  # that a README has room for under a table
_IN_WORDS = 12  # more differences than these are easier to read as a table
_LATEX_HEAD = "% needs \\usepackage{booktabs} and \\usepackage{longtable}\n"

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}
_MARKDOWN = {
    **{character: f"\\{character}" for character in "\\`*_[]|#~$"},
    "<": "&lt;",
    ">": "&gt;",
    "&": "&amp;",
}


def to_markdown(table: Table) -> str:
    """Render a table for GitHub and other Markdown readers: best in bold, second best in italics."""
    notes = [f"- {_escape(note, _MARKDOWN)}" for note in side_notes(table)]
    if len(table.comparisons) > _IN_WORDS:
        notes = [*_difference_lines(table.comparisons), "", *notes]
    else:
        notes = [*(f"- {_escape(text, _MARKDOWN)}" for text in sentences(table.comparisons)), *notes]
    files = [f"- {_escape(text, _MARKDOWN)}" for text in [read_from(table)] if text]
    heading = f"### {_escape(table.heading, _MARKDOWN)}"
    lines = _markdown_lines(table, [*_our_rows(table), *_paper_rows(table)])
    key = ["**Best** and *second best* of our rows.", *(_escape(text, _MARKDOWN) for text in about(table))]
    return "\n".join([heading, "", *lines, "", " ".join(key), "", *notes, *files]) + "\n"


def to_short_markdown(table: Table, folder: str) -> str:
    """Render a table for a README: of the paper's rows those that have a counterpart; few sentences; the files.

    Args:
        table: the table.
        folder: that of all results, as a reader finds it.
    """
    names = {row.name for row in table.rows} | {METHOD}
    ours, paper = _our_rows(table), [line for line in _paper_rows(table) if line[1].name in names]
    # Few are shown: first what is said of the method that this is about.
    ordered = sorted(table.comparisons, key=lambda comparison: not comparison.row.startswith(METHOD))
    said = sentences(ordered)
    more = [f"And {len(said) - _SENTENCES} more, in the files."] if len(said) > _SENTENCES else []
    bullets = [f"- {_escape(text, _MARKDOWN)}" for text in [*said[:_SENTENCES], *more]]
    notes = _escape(" ".join([*about(table), *side_notes(table)]), _MARKDOWN)
    place = f"Files: `{folder}/{common_folder(table.files)}`"
    heading = f"**{_escape(table.heading, _MARKDOWN)}**"
    text = [heading, "", *_markdown_lines(table, ours + paper), "", *bullets, *([""] if bullets else []), notes, place]
    return "\n".join(text) + "\n"


def latex_file(tables: Iterable[Table]) -> str:
    """Render tables as one file to be read by LaTeX; its head names the packages that they need."""
    return "\n".join([_LATEX_HEAD, *map(to_latex, tables)])


def to_latex(table: Table) -> str:
    """Render a table for LaTeX: best in bold, second best underlined.

    Differences stand behind the float, which cannot be longer than a page: few as sentences, many as a longtable.
    """
    head = " & ".join(_latex(text) for text in ["", *headings(table)])
    notes = _latex(" ".join([*about(table), *side_notes(table)]))
    lines = [
        f"% {read_from(table)}".rstrip("% "),
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_latex(table.heading)}}}",
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        "\\toprule",
        f"{head} \\\\",
        "\\midrule",
        *_latex_body(table),
        "\\bottomrule",
        "\\end{tabular}",
        f"\\par\\footnotesize {notes}" if notes else "",
        "\\end{table}",
        *_latex_differences(table),
    ]
    return "\n".join(filter(None, lines)) + "\n"


def to_csv(tables: Iterable[Table]) -> str:
    """Render tables as one CSV: a line a row, figures in full precision, empty where there is none.

    Columns of the same name and unit share one CSV column; ``recipe_hash`` and ``split_hash`` tell tables apart.
    """
    tables = list(tables)
    figures = list(dict.fromkeys(_csv_heading(column) for table in tables for column in table.columns))
    heads = ["task", "title", "dataset", "split", "images", "split_hash", "recipe", "recipe_hash"]
    heads += ["row", "source", "seeds"]
    heads += [name for figure in figures for name in (figure, f"{figure} deviation", f"{figure} over images")]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*heads, "files", "comparisons"], restval="", lineterminator="\n")
    writer.writerow({name: spreadsheet_cell(name) for name in writer.fieldnames})
    for table in tables:
        writer.writerows(_csv_row(table, row, "ours") for row in table.rows)
        for published in table.published:
            writer.writerows(_csv_row(table, row, published.paper.title) for row in published.rows)
    return stream.getvalue()


_Line = tuple[str, TableRow, list[int]]
"""A row with the name and the digits that it is printed with."""


def _our_rows(table: Table) -> list[_Line]:
    return [(row.name, row, [column.digits for column in table.columns]) for row in table.rows]


def _paper_rows(table: Table) -> list[_Line]:
    """Return the paper's rows under a name that cannot be taken for one of ours."""
    return [
        (
            f"{row.name} ({'paper' if len(table.published) == 1 else published.paper.title})",
            row,
            [published.paper.digits] * len(table.columns),
        )
        for published in table.published
        for row in published.rows
    ]


def _markdown_lines(table: Table, rows: Sequence[_Line]) -> list[str]:
    lines = [
        _row_line(["", *headings(table)], _MARKDOWN),
        "|" + "|".join([":--", *("--:" for _ in table.columns)]) + "|",
    ]
    for name, row, digits in rows:
        lines.append("| " + " | ".join([_escape(name, _MARKDOWN), *_markdown_cells(row, digits)]) + " |")
    return lines


def _difference_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """Write differences as a table: a line for each pair of rows, a column for each figure."""
    columns = dict.fromkeys((each.column, each.unit) for each in comparisons)
    found: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for each in comparisons:
        found.setdefault((each.row, each.against), {})[each.column, each.unit] = _difference(each)
    headings = [f"{name} [{unit}]" if unit else name for name, unit in columns]
    lines = [
        "Differences on the same images, with 95 % intervals; **bold** where rows can be told apart.",
        "",
        _row_line(["", *headings], _MARKDOWN),
        "|" + "|".join([":--", *("--:" for _ in columns)]) + "|",
    ]
    for (row, against), texts in found.items():
        name = _escape(f"{row} \N{MINUS SIGN} {against}", _MARKDOWN)
        lines.append(f"| {' | '.join([name, *(texts.get(column, '-') for column in columns)])} |")
    return lines


def _difference(comparison: Comparison) -> str:
    if not comparison.defined:
        return "-"
    value, low, high = comparison.texts
    mark = "**" if comparison.sure else ""
    return f"{mark}{value}{mark} ({low} to {high}{_escape(comparison.exception, _MARKDOWN)})"


def _markdown_cells(row: TableRow, digits: Sequence[int]) -> list[str]:
    marks = {"best": "**", "second": "*", "": ""}
    return [
        f"{marks[cell.mark]}{cell_text(cell, places)}{marks[cell.mark]}"
        for cell, places in zip(row.cells, digits, strict=True)
    ]


def _latex_body(table: Table) -> list[str]:
    lines = []
    for row in table.rows:
        cells = [_latex_cell(cell, column.digits) for cell, column in zip(row.cells, table.columns, strict=True)]
        lines.append(" & ".join([_begin(row.name), *cells]) + " \\\\")
        if ends_group(table, row) and (row is not table.rows[-1] or table.published):
            lines.append("\\midrule")
    for name, row, digits in _paper_rows(table):
        cells = [_latex_cell(cell, places) for cell, places in zip(row.cells, digits, strict=True)]
        lines.append(" & ".join([f"\\emph{{{_latex(name)}}}", *cells]) + " \\\\")
    return lines


def _begin(name: str) -> str:
    """Spell what begins a line, or an item: the command before would take a bracket or a star for its own."""
    return "{}" * name.startswith(("[", "*")) + _latex(name)


def _latex_differences(table: Table) -> list[str]:
    if len(table.comparisons) > _IN_WORDS:
        return _longtable(table)
    said = [f"\\item {_begin(text)}" for text in sentences(table.comparisons)]
    return ["\\begin{itemize}", "\\footnotesize", *said, "\\end{itemize}"] if said else []


def _longtable(table: Table) -> list[str]:
    """Write differences as a table that breaks over pages: a line each, as eight intervals are wider than a page."""
    title = f"{table.heading}: differences on the same images. Bold where rows can be told apart."
    head = ["\\toprule", " & & Difference & 95\\,\\% from & to \\\\", "\\midrule"]
    lines = ["\\begin{longtable}{llrrr}", f"\\caption{{{_latex(title)}}} \\\\", *head, "\\endfirsthead"]
    lines += [*head, "\\endhead", "\\bottomrule", "\\endfoot"]
    for each in table.comparisons:
        unit = f" [{each.unit}]" if each.unit else ""
        name = _begin(f"{each.row} \N{MINUS SIGN} {each.against}")
        figure = _latex(f"{each.column}{unit}{each.exception}")
        lines.append(" & ".join([name, figure, *_latex_interval(each)]) + " \\\\")
    return [*lines, "\\end{longtable}"]


def _latex_interval(comparison: Comparison) -> list[str]:
    if not comparison.defined:
        return ["-"] * 3
    value, low, high = comparison.texts
    return [f"$\\mathbf{{{value}}}$" if comparison.sure else f"${value}$", f"${low}$", f"${high}$"]


def _latex_cell(cell: Cell, digits: int) -> str:
    text = _latex(cell_text(cell, digits))
    command = {"best": "\\textbf", "second": "\\underline", "": ""}[cell.mark]
    return f"{command}{{{text}}}" if command else text


def _csv_row(table: Table, row: TableRow, source: str) -> dict[str, str]:
    line = {
        "task": table.task,
        "title": table.title,
        "dataset": table.dataset,
        "split": table.split,
        "images": str(table.count) if source == "ours" else "",
        "split_hash": table.key[2] if source == "ours" else "",
        "recipe": recipe_text(table.recipe) if source == "ours" else "",
        "recipe_hash": table.key[3] if source == "ours" else "",
        "row": row.name,
        "source": source,
        "seeds": " ".join(str(seed) for seed in row.seeds),
        "files": " ".join(row.files),
        "comparisons": " ".join(table.compared_in) if source == "ours" else "",
    }
    line = {name: spreadsheet_cell(text) for name, text in line.items()}
    for column, cell in zip(table.columns, row.cells, strict=True):
        name = _csv_heading(column)
        spreads = {f"{name} deviation": cell.deviation, f"{name} over images": cell.spread}
        line |= {key: _csv_number(value) for key, value in ({name: cell.value} | spreads).items()}
    return line


def _csv_heading(column: Column) -> str:
    return f"{column.name} [{plain(column.unit)}]" if column.unit else column.name


def _csv_number(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


def _row_line(texts: Sequence[str], signs: dict[str, str]) -> str:
    return "| " + " | ".join(_escape(text, signs) for text in texts) + " |"


def _escape(text: str, signs: dict[str, str]) -> str:
    return "".join(signs.get(character, character) for character in plain(text))


def _latex(text: str) -> str:
    """Escape text for LaTeX, which makes one dash of two hyphens: those of an option are to stay."""
    return re.sub("-(?=-)", "-{}", _escape(text, _LATEX))

"""A table as Markdown, CSV, LaTeX (booktabs) or text in a terminal."""

from __future__ import annotations

import csv
import io
import math
import posixpath
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from emma_core.report.beside import recipe_name
from emma_core.report.paper import METHOD, paper_source
from emma_core.report.parts import Cell, Table, TableRow, arrow, cell_text, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.table import Table as ConsoleTable
    from rich.text import Text

    from emma_core.comparisons import Comparison
    from emma_core.results import Column

_SENTENCES = 4  # that a README has room for under a table
_IN_WORDS = 12  # more differences than these are easier to read as a table
_HASH = re.compile("[0-9a-f]{12,64}")  # whole, or cut

LEGEND = "Best and second best of our rows are marked; arrows point to better."

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
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
        notes = [*(f"- {_escape(text, _MARKDOWN)}" for text in sentences(table)), *notes]
    heading = f"### {_escape(table.heading, _MARKDOWN)}"
    lines = _markdown_lines(table, [*_our_rows(table), *_paper_rows(table)])
    key = ["**Best** and *second best* of our rows.", *(_escape(text, _MARKDOWN) for text in _about(table))]
    return "\n".join([heading, "", *lines, "", " ".join(key), "", *notes]) + "\n"


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
    said = sentences(replace(table, comparisons=tuple(ordered)))
    more = [f"And {len(said) - _SENTENCES} more, in the files."] if len(said) > _SENTENCES else []
    bullets = [f"- {_escape(text, _MARKDOWN)}" for text in [*said[:_SENTENCES], *more]]
    notes = _escape(" ".join([*_about(table), *side_notes(table)]), _MARKDOWN)
    place = f"Files: `{folder}/{common_folder(table.files)}`"
    heading = f"**{_escape(table.heading, _MARKDOWN)}**"
    text = [heading, "", *_markdown_lines(table, ours + paper), "", *bullets, *([""] if bullets else []), notes, place]
    return "\n".join(text) + "\n"


def common_folder(files: Sequence[str]) -> str:
    """Return the deepest folder that holds all files, as a path with slashes."""
    return posixpath.commonpath([posixpath.dirname(file) for file in files])


def to_latex(table: Table) -> str:
    """Render a table for LaTeX with the package booktabs: best in bold, second best underlined."""
    headings = ["", *_headings(table)]
    head = " & ".join(_escape(text, _LATEX) for text in headings)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_escape(table.heading, _LATEX)}}}",
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        "\\toprule",
        f"{head} \\\\",
        "\\midrule",
        *_latex_body(table),
        "\\bottomrule",
        "\\end{tabular}",
        *(f"\\par\\footnotesize {_escape(note, _LATEX)}" for note in [*_about(table), *all_notes(table)]),
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


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
    writer = csv.DictWriter(stream, [*heads, "files"], restval="", lineterminator="\n")
    writer.writerow({name: _csv_text(name) for name in writer.fieldnames})
    for table in tables:
        writer.writerows(_csv_row(table, row, "ours") for row in table.rows)
        for published in table.published:
            writer.writerows(_csv_row(table, row, published.paper.title) for row in published.rows)
    return stream.getvalue()


def to_console(table: Table) -> ConsoleTable:
    """Render a table for a terminal: best in bold, second best underlined, the paper's rows dim."""
    from rich import box
    from rich.table import Table as ConsoleTable
    from rich.text import Text

    caption = Text("\n".join([LEGEND, *_units(table), *made_with(table), *all_notes(table)]), style="dim")
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
        console.add_row(*_console_row(row, table.columns), end_section=_ends_group(table, row))
    for published in table.published:
        console.add_row(Text(f"{published.paper.title}:", style="dim italic"))
        for row in published.rows:
            cells = [Text(cell_text(cell, published.paper.digits)) for cell in row.cells]
            console.add_row(Text(row.name), *cells, style="dim")
    return console


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """Spell what all rows of a table were made with; a SHA-256 is cut, ``result.json`` has all of it."""
    values = {key: re.sub("[0-9a-f]{64}", lambda found: found[0][:12], str(value)) for key, value in recipe.items()}
    return ", ".join(plain(f"{key} {value}") for key, value in values.items())


def made_with(table: Table) -> list[str]:
    """Say what was run, in sentences: the recipe, less what is nothing but a hash, and the seeds."""
    name = recipe_name(table.recipe)
    values = {key: value for key, value in table.recipe.items() if not _HASH.fullmatch(str(value))}
    details = recipe_text({key: value for key, value in values.items() if plain(str(value)) != name})
    seeds = sorted({seed for row in table.rows for seed in row.seeds})
    said = [f"Recipe: {', '.join(filter(None, (name, details)))}."] if name or details else []
    return [*said, f"Seed{'s' * (len(seeds) > 1)}: {', '.join(map(str, seeds))}."] if seeds else said


def all_notes(table: Table) -> list[str]:
    """List what is said under a table: differences with their intervals, then notes, those on the paper last."""
    return [*sentences(table), *side_notes(table)]


def sentences(table: Table) -> list[str]:
    """List the differences between rows, each as a sentence."""
    return [plain(comparison.sentence()) for comparison in table.comparisons]


def side_notes(table: Table) -> list[str]:
    """List the notes of a table, those on the paper's rows last."""
    notes = list(table.notes)
    for published in table.published:
        notes += [f"Paper: {published.paper.title} of {paper_source()}.", *published.notes]
    return notes


def _units(table: Table) -> list[str]:
    """Name the units of the columns in a line, if there are any."""
    units: dict[str, list[str]] = {}
    for column in table.columns:
        if column.unit:
            units.setdefault(plain(column.unit), []).append(column.name)
    named = ["Units: " + "; ".join(f"{', '.join(names)} {unit}" for unit, names in units.items())]
    return _common_unit(table) or named[: len(units)]


def _common_unit(table: Table) -> list[str]:
    """Name the unit that several columns share in a sentence, which their headings then need not repeat."""
    units = {plain(column.unit) for column in table.columns}
    return [f"All figures in {units.pop()}."] if len(table.columns) > 1 and len(units) == 1 and units != {""} else []


def _about(table: Table) -> list[str]:
    """Say what holds for a whole table: the unit, and what was run."""
    return [*_common_unit(table), *made_with(table)]


def _ends_group(table: Table, row: TableRow) -> bool:
    """Tell whether a row is the last of the baselines, or of ours."""
    following = table.rows[table.rows.index(row) + 1 :]
    return not following or row.baseline != following[0].baseline


def _headings(table: Table) -> list[str]:
    common = _common_unit(table)
    units = ["" if common or not column.unit else f" [{plain(column.unit)}]" for column in table.columns]
    return [f"{column.name}{unit} {arrow(column)}" for column, unit in zip(table.columns, units, strict=True)]


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
        _row_line(["", *_headings(table)], _MARKDOWN),
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
        "Differences on the same images, with 95 % intervals; **bold** where the interval leaves out zero.",
        "",
        _row_line(["", *headings], _MARKDOWN),
        "|" + "|".join([":--", *("--:" for _ in columns)]) + "|",
    ]
    for (row, against), texts in found.items():
        name = _escape(f"{row} \N{MINUS SIGN} {against}", _MARKDOWN)
        lines.append(f"| {' | '.join([name, *(texts.get(column, '-') for column in columns)])} |")
    return lines


def _difference(comparison: Comparison) -> str:
    ends = comparison.difference, comparison.low, comparison.high
    if not all(map(math.isfinite, ends)):
        return "-"
    value, low, high = (f"{end:+.{comparison.digits}f}" for end in ends)
    mark = "**" if comparison.sure else ""
    return f"{mark}{value}{mark} ({low} to {high})"


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
        guard = "{}" if row.name.startswith(("[", "*")) else ""  # the line break before would take them for its own
        lines.append(" & ".join([guard + _escape(row.name, _LATEX), *cells]) + " \\\\")
        if _ends_group(table, row) and (row is not table.rows[-1] or table.published):
            lines.append("\\midrule")
    for name, row, digits in _paper_rows(table):
        cells = [_latex_cell(cell, places) for cell, places in zip(row.cells, digits, strict=True)]
        lines.append(" & ".join([f"\\emph{{{_escape(name, _LATEX)}}}", *cells]) + " \\\\")
    return lines


def _latex_cell(cell: Cell, digits: int) -> str:
    text = _escape(cell_text(cell, digits), _LATEX)
    command = {"best": "\\textbf", "second": "\\underline", "": ""}[cell.mark]
    return f"{command}{{{text}}}" if command else text


def _console_row(row: TableRow, columns: Sequence[Column]) -> list[Text]:
    from rich.text import Text

    styles = {"best": "bold", "second": "underline", "": ""}
    cells = zip(row.cells, columns, strict=True)
    return [
        Text(row.name),
        *(Text(cell_text(cell, column.digits), style=styles[cell.mark]) for cell, column in cells),
    ]


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
    }
    line = {name: _csv_text(text) for name, text in line.items()}
    for column, cell in zip(table.columns, row.cells, strict=True):
        name = _csv_heading(column)
        spreads = {f"{name} deviation": cell.deviation, f"{name} over images": cell.spread}
        line |= {key: _csv_number(value) for key, value in ({name: cell.value} | spreads).items()}
    return line


def _csv_heading(column: Column) -> str:
    return f"{column.name} [{plain(column.unit)}]" if column.unit else column.name


def _csv_number(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


def _csv_text(text: str) -> str:
    """Keep a spreadsheet from reading a name as a formula."""
    text = plain(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _row_line(texts: Sequence[str], signs: dict[str, str]) -> str:
    return "| " + " | ".join(_escape(text, signs) for text in texts) + " |"


def _escape(text: str, signs: dict[str, str]) -> str:
    return "".join(signs.get(character, character) for character in plain(text))

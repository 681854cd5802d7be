"""The report: one self-contained HTML page, and the same tables as Markdown, CSV and LaTeX.

The page needs no network and says so to the browser: its content security policy allows data URIs and this
module's own script, by hash, and nothing else. Names of files and data sets are escaped by the template.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from emma_core import __version__
from emma_core.datasets import declared
from emma_core.errors import ResultError
from emma_core.images import write_atomic
from emma_core.report.albums import Album, collect_albums
from emma_core.report.figure import forests_of, plot_of
from emma_core.report.formats import latex_file, to_csv, to_markdown
from emma_core.report.gallery import Gallery, collect_galleries
from emma_core.report.missing import Missing, missing_tables
from emma_core.report.parts import Table, arrow, cell_text, spread_text
from emma_core.report.tables import collect_tables, dataset_order
from emma_core.report.words import made_with, recipe_text, side_notes, told, untold
from emma_core.text import plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jinja2 import Template


_LONG_WORD = 14  # characters; a longer one is broken on paper


@dataclass(frozen=True)
class ReportPaths:
    """What :func:`write_report` wrote.

    Attributes:
        html: the page.
        markdown: its tables.
        csv: likewise, in full precision.
        latex: likewise, for the packages booktabs and longtable.
        warnings: a line for everything that could not be shown.
    """

    html: Path
    markdown: Path
    csv: Path
    latex: Path
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Contents:
    """What there is to show.

    Attributes:
        tables: from :func:`emma_core.report.tables.collect_tables`.
        albums: pictures of each table.
        galleries: from :func:`emma_core.report.gallery.collect_galleries`.
        missing: from :func:`emma_core.report.missing.missing_tables`.
        warnings: what could not be shown, a line each.
    """

    tables: tuple[Table, ...]
    albums: tuple[tuple[Album, ...], ...]
    galleries: tuple[Gallery, ...]
    missing: tuple[Missing, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """What the page shows of one data set: its tables with their pictures."""

    dataset: str
    about: str
    gallery: Gallery | None
    tables: tuple[tuple[Table, tuple[Album, ...]], ...]


def write_report(runs: Path, out: Path | None = None) -> ReportPaths:
    """Write the page and the tables of everything below a folder of runs.

    Args:
        runs: the folder of all runs.
        out: folder to write to; ``report`` below ``runs`` by default.

    Returns:
        The files, and what could not be shown.

    Raises:
        ResultError: there is nothing to show.
        OSError: a file cannot be written.
    """
    contents = collect_contents(runs)
    if not contents.tables and not contents.galleries:
        raise ResultError(_nothing(runs, contents.warnings))
    folder = out or runs / "report"
    paths = ReportPaths(
        folder / "index.html", folder / "tables.md", folder / "tables.csv", folder / "tables.tex", contents.warnings
    )
    texts = {
        paths.html: render_page(contents, link_base=_link_base(runs, folder)),
        paths.markdown: _markdown(contents),
        paths.csv: to_csv(contents.tables),
        paths.latex: latex_file(contents.tables),
    }
    for path, text in texts.items():
        write_atomic(path, text.encode())
    return paths


def collect_contents(runs: Path) -> Contents:
    """Read everything that the page shows from below a folder of runs."""
    tables, warnings = collect_tables(runs)
    albums, without_pictures = collect_albums(runs, tables)
    galleries, without_gallery = collect_galleries(runs)
    return Contents(
        tuple(tables),
        tuple(albums),
        tuple(galleries),
        tuple(missing_tables(tables)),
        (*warnings, *without_pictures, *without_gallery),
    )


def render_page(contents: Contents, *, link_base: str) -> str:
    """Render the page.

    Args:
        contents: what to show.
        link_base: URL of the folder of runs, as seen from the page.

    Returns:
        HTML with style, script and pictures inside.
    """
    from markupsafe import Markup

    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return _template().render(
        version=__version__,
        style=Markup(_asset("page.css")),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - likewise
        script_hash=f"sha256-{digest}",
        sections=_sections(contents),
        tables=list(contents.tables),
        missing=contents.missing,
        files=sum(len(table.files) for table in contents.tables),
        environments=_environments(contents.tables),
        warnings=contents.warnings,
        link=lambda file: f"{link_base}/{quote(os.fsencode(file))}",
    )


def _sections(contents: Contents) -> list[Section]:
    shown = {gallery.dataset: gallery for gallery in contents.galleries}
    with_pictures = list(zip(contents.tables, contents.albums, strict=True))
    names = sorted({*shown, *(table.dataset for table in contents.tables)}, key=dataset_order)
    return [
        Section(
            name,
            spec.title if (spec := declared(name)) else "",
            shown.get(name),
            tuple((table, albums) for table, albums in with_pictures if table.dataset == name),
        )
        for name in names
    ]


def _markdown(contents: Contents) -> str:
    """Write all tables, and what is missing, as one Markdown file."""
    lines = ["# Results", "", *(to_markdown(table) for table in contents.tables)]
    if contents.missing:
        lines += ["### Not run yet", "", "`DIR` is the folder of all data sets.", ""]
    for missing in contents.missing:
        lines += [f"{missing.paper.title}, {missing.what}:", "", "```", *missing.commands, "```", ""]
    return "\n".join(lines)


def _environments(tables: Sequence[Table]) -> list[tuple[list[tuple[str, str]], list[str]]]:
    """List the distinct environments with the rows that were made in each."""
    found: dict[tuple[tuple[str, str], ...], dict[str, None]] = {}
    for table in tables:
        for result in table.results:
            record = tuple((plain(str(key)), plain(str(value))) for key, value in result.environment.items())
            found.setdefault(record, {})[f"{table.title}: {table.dataset} {table.split}"] = None
    return [(list(record), list(used)) for record, used in found.items() if record]


def _deviations(table: Table) -> str:
    """Say what the small figures below are of, where they are over images; a note says which are over seeds."""
    cells = [cell for row in table.rows for cell in row.cells]
    if not any(math.isfinite(cell.spread) for cell in cells):
        return ""
    whose = " of one run" if any(math.isfinite(cell.deviation) for cell in cells) else ""
    return f"Small, under a figure{whose}: its standard deviation over the images."


def _signs_across(table: Table) -> int:
    """Count the characters that stand side by side in a table whose headings are broken between words.

    The style sheet makes the print of a table on paper as small as it takes to fit so many.
    """
    columns = [[row.name for row in table.rows]]
    for index, column in enumerate(table.columns):
        figures = [cell_text(row.cells[index], column.digits).replace("± ", "±") for row in table.rows]
        columns.append([column.name, column.unit, *figures])
    return sum(1 + min(_LONG_WORD, _longest_word(" ".join(texts))) for texts in columns)


def _longest_word(text: str) -> int:
    return max((len(word) for word in text.split()), default=0)


def _seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _link_base(runs: Path, folder: Path) -> str:
    relative = os.path.relpath(runs.resolve(), folder.resolve())
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def _nothing(runs: Path, warnings: Sequence[str]) -> str:
    unread = f" that can be read ({len(warnings)} cannot; first: {warnings[0]})" if warnings else ""
    return (
        f"{runs}: no results and no fused images{unread}. "
        "Make some with: emma-tasks demo, or emma-tasks fuse-dataset NAME --root DIR"
    )


def _asset(name: str) -> str:
    return (files("emma_core.report") / name).read_text("utf-8")


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    helpers: dict[str, Any] = {
        "arrow": arrow,
        "plain": plain,
        "cell_text": cell_text,
        "plot_of": plot_of,
        "forests_of": forests_of,
        "told": told,
        "untold": untold,
        "notes_of": side_notes,
        "recipe_of": recipe_text,
        "made_with": made_with,
        "spread_text": spread_text,
        "deviations": _deviations,
        "signs_across": _signs_across,
        "seconds": _seconds,
    }
    environment.globals.update(helpers)
    return environment.from_string(_asset("page.html"))

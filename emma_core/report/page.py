"""The report: one self-contained HTML page, and the same tables as Markdown, CSV and LaTeX.

The page needs no network and says so to the browser: its content security policy allows data URIs and this
module's own script, by hash, and nothing else. Names of files and data sets are escaped by the template.
"""

from __future__ import annotations

import base64
import hashlib
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
from emma_core.report.figure import panels_of
from emma_core.report.formats import all_notes, to_csv, to_latex, to_markdown
from emma_core.report.gallery import Gallery, collect_galleries
from emma_core.report.tables import Table, arrow, cell_text, collect_tables, dataset_order, plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jinja2 import Template


@dataclass(frozen=True)
class ReportPaths:
    """What :func:`write_report` wrote.

    Attributes:
        html: the page.
        markdown: its tables.
        csv: likewise, in full precision.
        latex: likewise, for the package booktabs.
        warnings: a line for everything that could not be shown.
    """

    html: Path
    markdown: Path
    csv: Path
    latex: Path
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """What the page shows of one data set."""

    dataset: str
    about: str
    gallery: Gallery | None
    tables: tuple[Table, ...]


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
    tables, warnings = collect_tables(runs)
    galleries, lost = collect_galleries(runs)
    warnings += lost
    if not tables and not galleries:
        raise ResultError(_nothing(runs, warnings))
    folder = out or runs / "report"
    paths = ReportPaths(
        folder / "index.html", folder / "tables.md", folder / "tables.csv", folder / "tables.tex", tuple(warnings)
    )
    page = render_page(tables, galleries, warnings, link_base=_link_base(runs, folder))
    markdown = "\n".join(["# Results", "", *(to_markdown(table) for table in tables)])
    latex = "\n".join(to_latex(table) for table in tables)
    texts = {paths.html: page, paths.markdown: markdown, paths.csv: to_csv(tables), paths.latex: latex}
    for path, text in texts.items():
        write_atomic(path, text.encode())
    return paths


def render_page(
    tables: Sequence[Table], galleries: Sequence[Gallery], warnings: Sequence[str] = (), *, link_base: str = ".."
) -> str:
    """Render the page.

    Args:
        tables: from :func:`emma_core.report.tables.collect_tables`.
        galleries: from :func:`emma_core.report.gallery.collect_galleries`.
        warnings: what could not be shown, a line each.
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
        sections=_sections(tables, galleries),
        tables=list(tables),
        files=sum(len(row.files) for table in tables for row in table.rows),
        environments=_environments(tables),
        warnings=list(warnings),
        link=lambda file: f"{link_base}/{quote(os.fsencode(file))}",
    )


def _sections(tables: Sequence[Table], galleries: Sequence[Gallery]) -> list[Section]:
    shown = {gallery.dataset: gallery for gallery in galleries}
    names = sorted({*shown, *(table.dataset for table in tables)}, key=dataset_order)
    return [
        Section(
            name,
            spec.title if (spec := declared(name)) else "",
            shown.get(name),
            tuple(table for table in tables if table.dataset == name),
        )
        for name in names
    ]


def _environments(tables: Sequence[Table]) -> list[tuple[list[tuple[str, str]], list[str]]]:
    """List the distinct environments with the rows that were made in each."""
    found: dict[tuple[tuple[str, str], ...], dict[str, None]] = {}
    for table in tables:
        for result in (result for row in table.rows for result in row.results):
            record = tuple((plain(str(key)), plain(str(value))) for key, value in result.environment.items())
            found.setdefault(record, {})[f"{table.title}: {table.dataset} {table.split}"] = None
    return [(list(record), list(used)) for record, used in found.items() if record]


def _recipe(table: Table) -> str:
    return ", ".join(plain(f"{key} {value}") for key, value in table.recipe.items())


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
        "panels_of": panels_of,
        "notes_of": all_notes,
        "recipe_of": _recipe,
        "seconds": _seconds,
    }
    environment.globals.update(helpers)
    return environment.from_string(_asset("page.html"))

"""Write the results into README.md (short) and docs/results.md (whole), between their markers, from results/.

``results/`` is laid out as ``runs/``: ``result.json`` and ``comparisons.json`` files, copied from there.
Run from the repository root: python scripts/update_readme.py  (--check changes nothing and says what is stale).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emma_core.errors import EmmaError, ResultError
from emma_core.report.formats import to_markdown, to_short_markdown
from emma_core.report.tables import collect_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emma_core.report.parts import Table

RESULTS = Path("results")
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
NOTHING = f"No results are in `{RESULTS}` yet."


def sections() -> dict[Path, str]:
    """Render what each file says of the results.

    Raises:
        ResultError: a file of the results cannot be used.
    """
    tables, warnings = collect_tables(RESULTS)
    if warnings:
        raise ResultError(warnings[0])
    return {Path("README.md"): _short(tables), Path("docs/results.md"): _whole(tables)}


def updated(path: Path, section: str) -> str:
    """Return a file's text with the section between its markers.

    Raises:
        EmmaError: it has no markers.
    """
    text = path.read_text("utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise EmmaError(f"{path}: expected one line {BEGIN} and one line {END} below it")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{section.strip()}\n\n{END}{rest.partition(END)[2]}"


def main(arguments: Sequence[str]) -> int:
    """Update the files, or with ``--check`` say which are stale; returns the exit status."""
    new = {path: updated(path, section) for path, section in sections().items()}
    stale = [path for path, text in new.items() if path.read_text("utf-8") != text]
    for path in stale:
        if "--check" in arguments:
            print(f"{path}: stale; update it with: python scripts/update_readme.py")
        else:
            path.write_text(new[path], "utf-8")
            print(f"{path}: updated")
    return 1 if stale and "--check" in arguments else 0


def _short(tables: Sequence[Table]) -> str:
    if not tables:
        return NOTHING
    key = "**Best** and *second best* of our rows; arrows point to better. Every table, with all rows of the paper:"
    shown = (to_short_markdown(table, str(RESULTS)) for table in _largest(tables))
    return "\n".join([f"{key} [docs/results.md](docs/results.md).", "", *shown])


def _largest(tables: Sequence[Table]) -> list[Table]:
    """Leave out tables of a part, e.g. MRI with CT, where one of the same task and data set is about more images."""
    most: dict[tuple[str, str], int] = {}
    for table in tables:
        place = table.title, table.dataset
        most[place] = max(table.count, most.get(place, 0))
    return [table for table in tables if table.count == most[table.title, table.dataset]]


def _whole(tables: Sequence[Table]) -> str:
    return "\n".join(to_markdown(table) for table in tables) or NOTHING


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except EmmaError as error:
        sys.exit(f"Error: {error}")

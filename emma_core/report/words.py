"""What is said of a table in every format: units, what was run, differences, notes, and the files behind it."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Any

from emma_core.comparisons import Comparison, by_rows, in_short
from emma_core.report.beside import recipe_name
from emma_core.report.paper import paper_source
from emma_core.report.parts import Table, TableRow, arrow
from emma_core.text import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_HASH = re.compile("[0-9a-f]{12,64}")  # whole, or cut

LEGEND = "Best and second best of our rows are marked; arrows point to better."


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


def sentences(comparisons: Sequence[Comparison]) -> list[str]:
    """Spell differences between rows; those that nothing is known of come last."""
    return [*told(comparisons), *untold(comparisons)]


def told(comparisons: Sequence[Comparison]) -> list[str]:
    """Spell the differences that are known, each as a sentence."""
    return [plain(each.sentence()) for each in comparisons if each.defined]


def untold(comparisons: Sequence[Comparison]) -> list[str]:
    """Say what nothing is known of, in a line for every two rows, or in one if that is everything."""
    unknown = [each for each in comparisons if not each.defined]
    return [plain(line) for line in (in_short if len(unknown) == len(comparisons) else by_rows)(unknown)]


def side_notes(table: Table) -> list[str]:
    """List the notes of a table, those on the paper's rows last."""
    notes = list(table.notes)
    for published in table.published:
        notes += [f"Paper: {published.paper.title} of {paper_source()}.", *published.notes]
    return notes


def common_folder(files: Sequence[str]) -> str:
    """Return the deepest folder that holds all files, as a path with slashes."""
    return posixpath.commonpath([posixpath.dirname(file) for file in files])


def read_from(table: Table) -> str:
    """Name the files that a table was read from, in a sentence; empty where they are not known."""
    files = [*table.files, *table.compared_in]
    if not files:
        return ""
    folder = common_folder(files)
    *named, last = (posixpath.relpath(file, folder) for file in files)
    return plain(f"Read from {folder}: {', '.join(named)}{' and ' * bool(named)}{last}.")


def units(table: Table) -> list[str]:
    """Name the units of the columns in a line, if there are any."""
    found: dict[str, list[str]] = {}
    for column in table.columns:
        if column.unit:
            found.setdefault(plain(column.unit), []).append(column.name)
    named = ["Units: " + "; ".join(f"{', '.join(names)} {unit}" for unit, names in found.items())]
    return common_unit(table) or named[: len(found)]


def common_unit(table: Table) -> list[str]:
    """Name the unit that several columns share in a sentence, which their headings then need not repeat."""
    shared = {plain(column.unit) for column in table.columns}
    return [f"All figures in {shared.pop()}."] if len(table.columns) > 1 and len(shared) == 1 and shared != {""} else []


def about(table: Table) -> list[str]:
    """Say what holds for a whole table: the unit, and what was run."""
    return [*common_unit(table), *made_with(table)]


def headings(table: Table) -> list[str]:
    """Spell the columns, each with its arrow, and its unit where not all share one."""
    common = common_unit(table)
    named = ["" if common or not column.unit else f" [{plain(column.unit)}]" for column in table.columns]
    return [f"{column.name}{unit} {arrow(column)}" for column, unit in zip(table.columns, named, strict=True)]


def ends_group(table: Table, row: TableRow) -> bool:
    """Tell whether a row is the last of the baselines, or of ours."""
    following = table.rows[table.rows.index(row) + 1 :]
    return not following or row.baseline != following[0].baseline

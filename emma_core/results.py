"""What one row of a table is on disk: ``result.json``, which describes itself.

Every task writes the same form, so that the report can draw the tables of tasks it has never heard of:
``runs/<task>/<dataset>/<split>/<row>/result.json`` (below ``seed<k>/`` where a task is repeated).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from emma_core.errors import DAMAGE, ResultError
from emma_core.files import read_bytes, read_text
from emma_core.images import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from emma_core.datasets import Side
    from emma_core.pairs import PairSet

SOURCE_ROWS: Mapping[str, Side] = {"IR": "infrared", "VI": "visible", "MRI": "visible", "other": "infrared"}
"""Rows of one source alone, and the side where each stands; no other row may be called so."""

NAIVE_ROWS = ("mean", "max")
"""Rules that are no method, but that every table of fused images needs."""

SCHEMA = 1
RESULT = "result.json"


@dataclass(frozen=True)
class Column:
    """One figure of a row.

    Attributes:
        name: heading, and key into :attr:`Result.values`.
        unit: ``bits``, ``%``, ``grey levels``; empty for a plain number.
        higher_is_better: the direction of the arrow.
        digits: after the decimal point.
        title: what it measures, in a few words.
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True
    digits: int = 2
    title: str = ""


@dataclass(frozen=True)
class Result:
    """One row of a table: one kind of input under one recipe on one set of images.

    Attributes:
        task: the command that made it, e.g. ``evaluate``.
        title: of the table, e.g. ``Fusion quality``.
        dataset: name of the data set.
        split: label of the part, e.g. ``test``.
        split_hash: SHA-256 over its ids; rows of one table agree in it.
        sources_hash: SHA-256 over the content of its source images, where the task has them; likewise.
        parts: the declared splits that the images come from.
        count: number of images.
        row: the kind of input, e.g. ``IR``, ``VI``, ``EMMA``.
        columns: what is measured.
        values: a figure per column name; NaN where it is not defined (``null`` on disk).
        deviation: standard deviation over images, per column name, where the task has one.
        recipe: everything that must agree between rows that are compared.
        source: where the input came from: folder below ``runs/fused``, method, hashes of manifest and checkpoint.
        seed: of the training run, or None.
        baseline: whether this is an input without fusion or a naive rule, drawn first and apart.
        notes: sentences a reader needs beside the figures.
        environment: versions and machine.
        seconds: wall-clock time of the run that made it.
        comparable: whether the paper's rows for this task and data set may stand beside it: not where the labels, or
            what was done with them, are of another kind.
        evidence: SHA-256 of the file beside it that the figures follow from, where the task keeps one; empty in
            results of earlier versions.
    """

    task: str
    title: str
    dataset: str
    split: str
    split_hash: str
    count: int
    row: str
    columns: tuple[Column, ...]
    values: dict[str, float]
    deviation: dict[str, float] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    baseline: bool = False
    sources_hash: str = ""
    parts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    comparable: bool = True
    evidence: str = ""

    @property
    def table_key(self) -> tuple[str, str, str, str]:
        """What rows of one table share: task, data set, images and recipe."""
        recipe = json.dumps([self.recipe, [asdict(column) for column in self.columns]], sort_keys=True)
        recipe_hash = hashlib.sha256(recipe.encode()).hexdigest()[:16]
        return self.task, self.dataset, f"{self.split_hash} {self.sources_hash}", recipe_hash


def blank_result(pairs: PairSet, task: str, title: str, columns: tuple[Column, ...]) -> Result:
    """Return what the results of a table share, as far as its pairs tell; a row and its figures are to be filled in.

    Args:
        pairs: that all rows are scored on.
        task: the command that scores.
        title: of the table.
        columns: of the table.

    Raises:
        OSError: a source image cannot be read.
    """
    return Result(
        task=task,
        title=title,
        dataset=pairs.dataset,
        split=pairs.label,
        split_hash=pairs.hash,
        sources_hash=pairs.sources_hash(),
        parts=pairs.parts,
        count=len(pairs.pairs),
        row="",
        columns=columns,
        values={},
    )


def table_folder(runs: Path, task: str, dataset: str, split: str) -> Path:
    """Return the folder of all rows of a table below the folder of all runs."""
    return runs / task / dataset / split


def result_folder(runs: Path, task: str, dataset: str, split: str, row: str, seed: int | None = None) -> Path:
    """Return the folder of one row below the folder of all runs."""
    folder = table_folder(runs, task, dataset, split) / row
    return folder if seed is None else folder / f"seed{seed}"


def write_result(folder: Path, result: Result) -> Path:
    """Write ``result.json`` into a folder, whole or not at all, and return its path."""
    content = {"schema": SCHEMA, **asdict(result)}
    for name in ("values", "deviation"):
        content[name] = {key: _finite(value) for key, value in content[name].items()}
    path = folder / RESULT
    write_changed(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    return path


def write_changed(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, unless it holds just that already: what did not change keeps its date."""
    if not path.exists() or read_bytes(path) != data:
        write_atomic(path, data)


def read_result(path: Path) -> Result:
    """Read one ``result.json``.

    Raises:
        ResultError: it is missing, damaged or of another schema.
    """
    try:
        content = json.loads(read_text(path), parse_constant=_refuse)
        schema = content.pop("schema")
        if schema != SCHEMA:
            raise ResultError(f"{path}: schema {schema}, this version reads {SCHEMA}")
        content["columns"] = tuple(Column(**column) for column in content["columns"])
        for name in ("notes", "parts"):
            content[name] = tuple(content[name])
        for name in ("values", "deviation"):
            content[name] = {key: _figure(value) for key, value in content[name].items()}
        result = Result(**content)
    except DAMAGE as error:
        raise ResultError(f"{path}: not a result of this tool ({type(error).__name__}); run its task again") from None
    _check(result, path)
    missing = [column.name for column in result.columns if column.name not in result.values]
    if missing:
        raise ResultError(f"{path}: has no value for column {missing[0]!r}; run its task again")
    return result


def find_results(runs: Path) -> list[Path]:
    """List every ``result.json`` below a folder of runs, sorted."""
    return sorted(runs.glob(f"**/{RESULT}"))


def read_results(folder: Path) -> dict[Path, Result]:
    """Read every ``result.json`` below a folder, by path; what cannot be read is left out."""
    found = {}
    for path in find_results(folder):
        with contextlib.suppress(ResultError):
            found[path] = read_result(path)
    return found


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _figure(value: object) -> float:
    """Return a figure as it is written: a finite number, or None where it is not defined."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no figure")
    return float(value)


def _refuse(constant: str) -> None:
    """Refuse NaN and infinity, which are no JSON; :func:`write_result` writes none."""
    raise ValueError(constant)


_ETERNITY = 1e12
"""No run takes so many seconds."""

_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("task", "title", "dataset", "split", "split_hash", "sources_hash", "row"), str),
    **dict.fromkeys(("recipe", "source", "environment"), dict),
    "count": int,
    **dict.fromkeys(("baseline", "comparable"), bool),
    "seconds": (int, float),
    "seed": (int, type(None)),
}


def _is_a(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))  # True would pass for 1


def _check(result: Result, path: Path) -> None:
    """Refuse what reads as a result but would break a table: a file may be edited by hand."""
    wrong = [name for name, kind in _TYPES.items() if not _is_a(getattr(result, name), kind)]
    wrong += ["notes" for note in result.notes if not isinstance(note, str)]
    wrong += ["parts" for part in result.parts if not isinstance(part, str)]
    for column in result.columns:
        texts = (column.name, column.unit, column.title)
        places = type(column.digits) is int and 0 <= column.digits < 16
        if not all(isinstance(text, str) for text in texts) or not places:
            wrong.append("columns")
    if not wrong and not 0 <= result.seconds < _ETERNITY:
        wrong.append("seconds")
    if wrong:
        raise ResultError(f"{path}: {wrong[0]!r} is not what a result holds; run its task again")

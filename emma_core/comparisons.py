"""What is said under a table: one row against another, with a 95 % interval from a paired bootstrap over images.

A task writes ``comparisons.json`` beside the folders of its rows, ``runs/<task>/<dataset>/<split>/``; the report
prints those that belong to a table that it shows.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from emma_core.errors import ResultError
from emma_core.images import write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COMPARISONS = "comparisons.json"
SCHEMA = 1


@dataclass(frozen=True)
class Comparison:
    """One figure of a row minus that of another, on the same images.

    Attributes:
        table_key: of the results compared (:attr:`emma_core.results.Result.table_key`).
        row: e.g. ``EMMA``.
        against: e.g. ``VI``.
        column: name of the column, or of a figure that has none.
        difference: row minus against, in the unit of the column; over seeds, of their means.
        low: lower end of the 95 % interval.
        high: upper end.
        images: number of images that were drawn from.
        unit: of the difference, e.g. ``AP`` or ``IoU``; empty for a plain number.
        digits: after the decimal point.
        better: what the row does if the figure is higher, e.g. ``finds more objects``.
        worse: if it is lower.
    """

    table_key: tuple[str, str, str, str]
    row: str
    against: str
    column: str
    difference: float
    low: float
    high: float
    images: int
    unit: str = ""
    digits: int = 1
    better: str = "is higher"
    worse: str = "is lower"

    @property
    def sure(self) -> bool:
        """Whether the interval is on one side of zero."""
        return self.low > 0 or self.high < 0

    def sentence(self) -> str:
        """Say it for a reader: ``EMMA finds more objects than VI: +12.1 AP (95 % interval 8.0 to 16.3)``."""
        if not all(map(math.isfinite, (self.difference, self.low, self.high))):
            return f"{self.row} and {self.against}: {self.column} cannot be compared on these images."
        unit = f" {self.unit}" if self.unit else ""
        places = self.digits
        figures = (
            f"{self.column} {self.difference:+z.{places}f}{unit} "
            f"(95 % interval {self.low:+z.{places}f} to {self.high:+z.{places}f}, {self.images} images)"
        )
        if not self.sure:
            return f"{self.row} and {self.against} cannot be told apart: {figures}."
        return f"{self.row} {self.better if self.low > 0 else self.worse} than {self.against}: {figures}."


def write_comparisons(folder: Path, comparisons: Sequence[Comparison]) -> Path:
    """Write what was compared into ``runs/<task>/<dataset>/<split>/``, in place of what was there."""
    rows = [
        {name: value if not isinstance(value, float) or math.isfinite(value) else None for name, value in row.items()}
        for row in map(asdict, comparisons)
    ]
    path = folder / COMPARISONS
    write_atomic(path, (json.dumps({"schema": SCHEMA, "comparisons": rows}, indent=1) + "\n").encode())
    return path


def read_comparisons(path: Path) -> list[Comparison]:
    """Read one ``comparisons.json``.

    Raises:
        ResultError: it is damaged or of another schema.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["schema"] != SCHEMA:
            raise ResultError(f"{path}: schema {content['schema']}, this version reads {SCHEMA}")
        return [_read(row) for row in content["comparisons"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ResultError(f"{path}: not of this tool ({type(error).__name__}); run its task again") from None


def _read(row: dict[str, object]) -> Comparison:
    found = {name: math.nan if value is None else value for name, value in row.items()}
    comparison = Comparison(**{**found, "table_key": tuple(found["table_key"])})  # type: ignore[arg-type]
    comparison.sentence()  # refuses what has not the right types
    return comparison

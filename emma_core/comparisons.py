"""What is said under a table: one row against another, with a 95 % interval from a paired bootstrap over images.

A task writes ``comparisons.json`` beside the folders of its rows, ``runs/<task>/<dataset>/<split>/``; the report
prints those that belong to a table that it shows.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from emma_core.errors import DAMAGE, ResultError
from emma_core.files import read_text
from emma_core.images import write_atomic
from emma_core.metrics.bootstrap import LEAST_IMAGES
from emma_core.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from emma_core.metrics.bootstrap import Interval

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
        rare: of a mean over classes, those that fewer than :data:`~emma_core.metrics.bootstrap.LEAST_IMAGES` images
            show, each with their number, if without them the difference would not be sure.
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
    rare: tuple[str, ...] = ()

    @property
    def defined(self) -> bool:
        """Whether the images give the difference and its interval."""
        return all(map(math.isfinite, (self.difference, self.low, self.high)))

    @property
    def too_few(self) -> bool:
        """Whether it is undefined because so few images give no interval."""
        return not self.defined and self.images < LEAST_IMAGES

    @property
    def sure(self) -> bool:
        """Whether the interval is on one side of zero, and would be without classes that hardly any image shows."""
        return not self.rare and (self.low > 0 or self.high < 0)

    @property
    def exception(self) -> str:
        """What a difference hangs on whose interval leaves out zero, as it stands behind that; mostly nothing."""
        return f", hangs on {', '.join(self.rare)}" if self.rare else ""

    @property
    def texts(self) -> tuple[str, str, str]:
        """The difference and the ends of its interval as they are printed, each with its sign."""
        # A zero that may as well be one has no sign of its own; what is surely below zero keeps it, however small.
        form = f"+{'' if self.sure else 'z'}.{self.digits}f"
        return f"{self.difference:{form}}", f"{self.low:{form}}", f"{self.high:{form}}"

    def sentence(self) -> str:
        """Say it for a reader: ``EMMA finds more objects than VI: +12.1 AP (95 % interval 8.0 to 16.3)``."""
        if not self.defined:
            why = ", too few to tell" if self.too_few else ""
            return f"{self.row} and {self.against}: {self.column} cannot be compared on these images{why}."
        unit = f" {self.unit}" if self.unit else ""
        value, low, high = self.texts
        figures = f"{self.column} {value}{unit} (95 % interval {low} to {high}, {counted(self.images, 'image')})"
        if self.rare:
            figures += f" hangs on {', '.join(self.rare)}, which fewer than {LEAST_IMAGES} images show"
        if not self.sure:
            return f"{self.row} and {self.against} cannot be told apart: {figures}."
        return f"{self.row} {self.better if self.low > 0 else self.worse} than {self.against}: {figures}."


def in_short(comparisons: Iterable[Comparison]) -> list[str]:
    """Say in a line for every two rows which figures differ surely; the sizes of differences are in the report.

    Where nothing can be told of any, as there are too few images, one line says so.
    """
    every = list(comparisons)
    if every and all(each.too_few for each in every):
        most = counted(max(each.images for each in every), "image")
        return [f"{most}: too few to tell rows from each other; {LEAST_IMAGES} at least are needed."]
    return by_rows(every)


def by_rows(comparisons: Iterable[Comparison]) -> list[str]:
    """Say in a line for every two rows what can be told of which figures."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for each in comparisons:
        groups.setdefault((each.row, each.against), []).append(each)
    return [_line(row, against, group) for (row, against), group in groups.items()]


def _line(row: str, against: str, group: Sequence[Comparison]) -> str:
    same = [each.column for each in group if each.defined and not float(each.texts[0])]
    kinds = {
        "higher in": [each.column for each in group if each.sure and each.low > 0 and each.column not in same],
        "lower in": [each.column for each in group if each.sure and each.high < 0 and each.column not in same],
        "the same to the digits shown in": [each.column for each in group if each.sure and each.column in same],
        "not to be told apart in": [each.column for each in group if each.defined and not each.sure],
        "too few images to tell in": [each.column for each in group if each.too_few],
        "not to be compared in": [each.column for each in group if not (each.defined or each.too_few)],
    }
    said = "; ".join(f"{kind} {', '.join(columns)}" for kind, columns in kinds.items() if columns)
    by = "95 % intervals, " if any(each.defined for each in group) else ""
    return f"{row} against {against} ({by}{counted(max(each.images for each in group), 'image')}): {said}."


def few_images(shown: Mapping[str, int]) -> tuple[str, ...]:
    """Name what too few images show for an interval, though some do, each with the number of images."""
    return tuple(f"{name} ({count})" for name, count in shown.items() if 0 < count < LEAST_IMAGES)


def rare_in(mean: Interval, others: Interval, shown: Mapping[str, int]) -> tuple[str, ...]:
    """Name the classes that a difference of means hangs on, though too few images show them.

    Args:
        mean: over all classes.
        others: over those that enough images show.
        shown: number of images that show a class.

    Returns:
        The classes as :func:`few_images` names them; none where the mean is not sure, or the others say the same.
    """
    is_told = mean.low > 0 or mean.high < 0
    is_same = (mean.low > 0 and others.low > 0) or (mean.high < 0 and others.high < 0)
    return few_images(shown) if is_told and not is_same else ()


def rare_note(shown: Mapping[str, int]) -> list[str]:
    """Say of what too few test images show that nothing can be told of it."""
    few = few_images(shown)
    return [f"In fewer than {LEAST_IMAGES} test images, too few to tell: {', '.join(few)}."] if few else []


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
        content = json.loads(read_text(path))
        if content["schema"] != SCHEMA:
            raise ResultError(f"{path}: schema {content['schema']}, this version reads {SCHEMA}")
        return [_read(row) for row in content["comparisons"]]
    except DAMAGE as error:
        raise ResultError(f"{path}: not of this tool ({type(error).__name__}); run its task again") from None


def _read(row: dict[str, object]) -> Comparison:
    found = {name: math.nan if value is None else value for name, value in row.items()}
    lists = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    comparison = Comparison(**{**found, **lists})  # type: ignore[arg-type]
    comparison.sentence()  # refuses what has not the right types
    return comparison

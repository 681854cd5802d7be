"""From predictions to figures: a result a row and seed, figures by day and night, and rows against each other."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from detection.annotations import CONDITIONS
from detection.ap import average_precisions, best_operating_point
from emma_core.comparisons import Comparison
from emma_core.errors import DataError
from emma_core.images import write_atomic
from emma_core.metrics.bootstrap import bootstrap
from emma_core.results import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from detection.coco import Evaluation

    Integers = NDArray[np.int64]

MEAN = "mAP@0.5"
SUFFIXES = {"D": "day", "N": "night"}
"""Last letter of an id of MSRS, and when it was taken."""

OPERATING_NOTE = (
    "Precision and recall are means over the classes at the confidence, one for all, where the mean F1 is best."
)
ANCHOR_FREE_NOTE = (
    "Today's detectors of ultralytics, YOLOv5 included, are anchor-free: absolute figures are not the paper's, "
    "differences between rows of one table can be compared."
)


@dataclass(frozen=True)
class RowScores:
    """The evaluations of one row, one a seed.

    Attributes:
        row: its name.
        seeds: evaluations on the same images.
    """

    row: str
    seeds: tuple[Evaluation, ...]

    def ap50(self, chosen: Integers) -> NDArray[np.float64]:
        """Return mAP@0.5, then AP@0.5 of each class, on a selection of images [%]; means over seeds."""
        found = np.mean([average_precisions(each.matches, chosen) for each in self.seeds], axis=0)
        return 100 * np.append(_mean(found), found)


def columns(classes: Sequence[str]) -> tuple[Column, ...]:
    """Return what is measured: AP@0.5 a class as in Table 3 of the paper, and what goes beyond it."""
    return (
        *(Column(name, "%", digits=1, title="AP at IoU 0.5") for name in classes),
        Column(MEAN, "%", digits=1, title="mean over classes"),
        Column("mAP@0.5:0.95", "%", digits=1, title="mean over classes and IoU 0.5, 0.55, ... 0.95"),
        Column("Precision", "%", digits=1, title="at the best mean F1"),
        Column("Recall", "%", digits=1, title="at the best mean F1"),
    )


def values(evaluation: Evaluation, classes: Sequence[str]) -> dict[str, float]:
    """Return the figures of a row [%], by the names of :func:`columns`."""
    point = best_operating_point(evaluation.matches)
    means = (_mean(evaluation.ap50), _mean(evaluation.ap), point.precision, point.recall)
    names = [column.name for column in columns(classes)]
    return dict(zip(names, (100 * np.array([*evaluation.ap50, *means])).tolist(), strict=True))


def read_conditions(path: Path) -> dict[str, str]:
    """Read what light each image was taken in: a JSON object, condition by id.

    Raises:
        DataError: it is no such file.
    """
    try:
        return {str(key): str(value) for key, value in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: no JSON object of conditions by id ({type(error).__name__}), e.g. {{'00000': 'day'}}"
        ) from None


def group_by_condition(keys: Sequence[str], listed: Mapping[str, str], *, by_suffix: bool) -> dict[str, Integers]:
    """Group the numbers of images by day and night, where that is known.

    Args:
        keys: ``split/id`` of the images.
        listed: condition by id.
        by_suffix: whether an id tells by its last letter, as those of MSRS do.
    """
    groups: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        identifier = key.rpartition("/")[2]
        condition = listed.get(identifier) or (SUFFIXES.get(identifier[-1:]) if by_suffix else None)
        if condition:
            groups.setdefault(condition, []).append(number)
    return {condition: np.array(groups[condition], np.int64) for condition in sorted(groups)}


def write_conditions(
    folder: Path, evaluation: Evaluation, classes: Sequence[str], groups: Mapping[str, Integers]
) -> None:
    """Write AP@0.5 of each condition beside the result of a row [%]; null where there is no object."""
    content: dict[str, Any] = {}
    for condition, chosen in groups.items():
        found = RowScores("", (evaluation,)).ap50(chosen).tolist()
        named = zip([MEAN, *classes], found, strict=True)
        figures = {name: round(value, 3) if math.isfinite(value) else None for name, value in named}
        content[condition] = {"images": len(chosen), "AP@0.5": figures}
    write_atomic(folder / CONDITIONS, (json.dumps(content, indent=1) + "\n").encode())


def compare(
    table_key: tuple[str, str, str, str],
    rows: Sequence[RowScores],
    sources: Sequence[str],
    classes: Sequence[str],
    on_row: Callable[[], None] = lambda: None,
) -> list[Comparison]:
    """Compare every fused row with each camera alone, by a paired bootstrap over images.

    Args:
        table_key: of their results.
        rows: all rows, evaluated on the same images.
        sources: names of the rows that are one camera alone.
        classes: names.
        on_row: called after each comparison, for a progress bar.

    Returns:
        mAP@0.5 of every fused row against every camera, and the classes in which they can be told apart.
    """
    alone = [row for row in rows if row.row in sources]
    found: list[Comparison] = []
    for row in rows:
        for against in alone if row.row not in sources else ():
            found += _compare(table_key, row, against, classes)
            on_row()
    return found


def _compare(
    table_key: tuple[str, str, str, str], row: RowScores, against: RowScores, classes: Sequence[str]
) -> list[Comparison]:
    images = len(row.seeds[0].matches[0].objects)
    intervals = bootstrap(lambda chosen: row.ap50(chosen) - against.ap50(chosen), images)
    phrases = [("finds more", "finds less"), *((f"finds {name} better", f"finds {name} worse") for name in classes)]
    made = [
        Comparison(
            table_key, row.row, against.row, name, each.value, each.low, each.high, images, "AP", 1, better, worse
        )
        for name, each, (better, worse) in zip([MEAN, *classes], intervals, phrases, strict=True)
    ]
    return [made[0], *(comparison for comparison in made[1:] if comparison.sure)]


def _mean(figures: NDArray[np.float64]) -> float:
    """Average over the classes that have objects; NaN where none has."""
    defined = figures[np.isfinite(figures)]
    return float(defined.mean()) if defined.size else math.nan

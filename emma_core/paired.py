"""Differences between rows that were scored on the same images, with their intervals, as a table's task writes them.

For figures that are a mean over images; where one figure is of a whole test set (AP, IoU), the task draws images
itself by :mod:`emma_core.metrics.bootstrap`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emma_core.comparisons import COMPARISONS, Comparison, read_comparisons, write_comparisons
from emma_core.errors import ResultError
from emma_core.metrics.bootstrap import bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from emma_core.evaluate import Scores
    from emma_core.results import Result


def write_differences(folder: Path, results: Sequence[Result], scores: Scores) -> tuple[Comparison, ...]:
    """Compare every fused row with the maximum and with each source alone, and write it beside the rows.

    Args:
        folder: of the rows, ``runs/<task>/<dataset>/<split>``; what it says of rows that were not scored now is kept.
        results: of all rows that were scored now.
        scores: their figures.

    Returns:
        What was compared now, by row, then in the order maximum, visible, infrared, then by column.
    """
    spec = scores.pairs.spec
    found = tuple(
        comparison
        for result in results
        if not result.baseline
        for against in ("max", spec.visible_label, spec.infrared_label)
        for comparison in _differences(result, against, scores)
    )
    write_comparisons(folder, [*_of_other_rows(folder, results), *found])
    return found


def _of_other_rows(folder: Path, results: Sequence[Result]) -> list[Comparison]:
    """Return what earlier runs said of this table's other rows; what cannot be read is written anew."""
    try:
        earlier = read_comparisons(folder / COMPARISONS)
    except ResultError:
        return []
    now = {result.row for result in results}
    return [each for each in earlier if each.table_key == results[0].table_key and each.row not in now]


def _differences(result: Result, against: str, scores: Scores) -> list[Comparison]:
    difference = scores.values[result.row] - scores.values[against]
    defined = np.isfinite(difference).sum(axis=0)  # of small or flat images some metrics are not
    intervals = bootstrap(_mean_of(difference), len(difference), shown=defined)
    return [
        Comparison(
            table_key=result.table_key,
            row=result.row,
            against=against,
            column=column.name,
            difference=interval.value,
            low=interval.low,
            high=interval.high,
            images=int(images),
            unit=column.unit,
            digits=column.digits,
        )
        for column, interval, images in zip(scores.columns, intervals, defined, strict=True)
    ]


def _mean_of(figures: NDArray[np.float64]) -> Callable[[NDArray[np.int64]], ArrayLike]:
    """Return the mean of each column over given images, (columns,), of those images that define it."""
    defined = np.isfinite(figures).astype(np.float64)
    values = np.where(np.isfinite(figures), figures, 0.0)

    def mean(images: NDArray[np.int64]) -> ArrayLike:
        times = np.bincount(images, minlength=len(values)).astype(np.float64)
        counts = times @ defined
        return np.where(counts > 0, times @ values / np.maximum(counts, 1), np.nan)

    return mean

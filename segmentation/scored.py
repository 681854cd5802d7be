"""Rows that are done, as they lie on disk: read again, scored by the rule asked for, and compared with each other.

Figures come from the confusion matrices, so another rule for absent classes changes all rows of a table at once, and
needs no network.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from emma_core.comparisons import Comparison, rare_in
from emma_core.errors import ResultError
from emma_core.files import read_bytes
from emma_core.manifest import sha256
from emma_core.metrics.bootstrap import LEAST_IMAGES, bootstrap
from emma_core.metrics.confusion import class_iou, mean_iou
from emma_core.results import NAIVE_ROWS, RESULT, Result, read_result, read_results, write_result
from emma_core.seen import seen_note
from segmentation.evaluation import figures, images_with, notes
from segmentation.labels import MIOU

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from emma_core.datasets import DatasetSpec
    from emma_core.metrics.confusion import Absent
    from segmentation.data import SegmentationData

MATRICES, PREDICTIONS = "confusion.npy", "predictions"

_OF_TRAINING = ("config", "processes", "split", "training images", "labels")
"""Keys of a recipe; the others describe, or say how it is scored."""


@dataclass(frozen=True)
class Scored:
    """A row and seed that is done.

    Attributes:
        result: as written.
        matrices: confusion of each test image, (images, classes, classes) [pixels].
        folder: of the run.
    """

    result: Result
    matrices: NDArray[np.int64]
    folder: Path

    @property
    def input(self) -> str:
        """Name of the kind of input, to which a table may add what the labels are."""
        return self.folder.parent.name


def is_finished(folder: Path, expected: Result, data: SegmentationData) -> bool:
    """Tell whether a folder holds what is expected, made from the same files by the same training.

    Args:
        folder: of a row and seed.
        expected: its result, but for the figures.
        data: that it was trained and tested on.
    """
    found = _read(folder, data)
    if found is None:
        return False
    result = found.result
    of_found = (_training_key(result), result.seed, result.source.get("images_sha256"))
    return of_found == (_training_key(expected), expected.seed, expected.source["images_sha256"])


def collect(folder: Path, common: Result, data: SegmentationData, absent: Absent) -> list[Scored]:
    """Read all rows and seeds of one table; what was scored by another rule is scored again.

    Args:
        folder: of all rows.
        common: what the results of all rows of the table share.
        data: that they were trained and tested on.
        absent: what an absent class counts.

    Returns:
        The rows and seeds, sorted by folder, as they are written now.
    """
    wanted = _training_key(common)
    ours = [path.parent for path, result in read_results(folder).items() if _training_key(result) == wanted]
    found = [_read(place, data) for place in ours]
    return [_scored_again(each, common, data, absent) for each in found if each]


def with_figures(result: Result, matrices: NDArray[np.int64], data: SegmentationData, absent: Absent) -> Result:
    """Return a result with the figures and notes that follow from its matrices.

    Args:
        result: all else.
        matrices: confusion of each test image, (images, classes, classes) [pixels].
        data: that it was tested on.
        absent: what an absent class counts.
    """
    pairs, spec = data.test.pairs, data.spec
    seen = seen_note(result.row, result.source, data.test)
    said = (*notes(matrices, pairs, spec, absent), *result.notes, *seen)
    return replace(result, values=figures(matrices, pairs, spec, absent), notes=said)


def compare(scored: Sequence[Scored], pairs: DatasetSpec, classes: Sequence[str], absent: Absent) -> list[Comparison]:
    """Compare the mIoU of rows by a paired bootstrap over images: with each camera alone first, then with naive rules.

    Over several seeds it is the mean of their figures that is compared, over those seeds that both rows have; rows
    without a common seed are not compared. What is only told apart by classes that hardly any image shows is not.

    Args:
        scored: rows and seeds of one table.
        pairs: what their sources are called.
        classes: names, by id.
        absent: what an absent class counts.
    """
    sources = (pairs.visible_label, pairs.infrared_label)
    rows: dict[str, dict[int | None, Scored]] = {}
    for each in scored:
        rows.setdefault(each.input, {})[each.result.seed] = each
    compared = [(row, source) for row in rows if row not in sources for source in sources]
    compared += [(row, naive) for row in rows if row not in {*sources, *NAIVE_ROWS} for naive in NAIVE_ROWS]
    found = []
    for ours, theirs in [(rows[row], rows[against]) for row, against in compared if against in rows]:
        if seeds := [seed for seed in ours if seed in theirs]:
            row, against = ([runs[seed] for seed in seeds] for runs in (ours, theirs))
            found.append(_difference(row, against, classes, absent))
    return found


def _training_key(result: Result) -> tuple[object, ...]:
    """Return what rows share whose matrices may stand in one table, by whatever rule they are scored."""
    images = result.task, result.dataset, result.split, result.split_hash, result.sources_hash
    return (*images, *(result.recipe.get(key) for key in _OF_TRAINING))


def _read(folder: Path, data: SegmentationData) -> Scored | None:
    """Read the row and seed in a folder, if it is done and whole, with its masks, which pictures are drawn from."""
    try:
        result, counted = read_result(folder / RESULT), read_bytes(folder / MATRICES)
    except (ResultError, OSError):
        return None
    classes, matrices = len(data.spec.classes), _matrices(counted)
    is_whole = result.evidence in {"", sha256(counted)} and matrices.shape == (result.count, classes, classes)
    masks = (folder / PREDICTIONS / f"{pair.key}.png" for pair in data.test.pairs)
    return Scored(result, matrices, folder) if is_whole and all(mask.is_file() for mask in masks) else None


def _matrices(counted: bytes) -> NDArray[np.int64]:
    """Decode confusion matrices; of damaged bytes, none."""
    try:
        matrices: NDArray[np.int64] = np.load(io.BytesIO(counted))
    except Exception:  # numpy parses the header as Python, and damaged bytes may raise anything in it
        return np.empty(0, np.int64)
    return matrices if matrices.dtype == np.int64 else np.empty(0, np.int64)


def _scored_again(found: Scored, common: Result, data: SegmentationData, absent: Absent) -> Scored:
    """Work out the figures of a row anew, and write them; what did not change keeps its date."""
    old = found.result
    result = replace(
        common,
        row=data.spec.row_label(found.input),
        seed=old.seed,
        source=old.source,
        baseline=old.baseline,
        evidence=old.evidence,
        environment=old.environment,
        seconds=old.seconds,
    )
    result = with_figures(result, found.matrices, data, absent)
    write_result(found.folder, result)
    return replace(found, result=result)


def _difference(ours: Sequence[Scored], theirs: Sequence[Scored], classes: Sequence[str], absent: Absent) -> Comparison:
    """Compare two rows in mIoU [percentage points]."""

    def figure(runs: Sequence[Scored], counts: NDArray[np.int64]) -> NDArray[np.float64]:
        found = [class_iou(np.tensordot(counts, run.matrices, axes=1)) for run in runs]
        means = [(mean_iou(iou, absent), mean_iou(iou[often], absent)) for iou in found]
        mean: NDArray[np.float64] = 100 * np.mean(means, axis=0)
        return mean

    def difference(chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        counts = np.bincount(chosen, minlength=images)
        return figure(ours, counts) - figure(theirs, counts)

    first, images = ours[0].result, len(ours[0].matrices)
    shown = images_with(ours[0].matrices, classes)
    often = np.array(list(shown.values())) >= LEAST_IMAGES
    interval, others = bootstrap(difference, images)
    return Comparison(
        table_key=first.table_key,
        row=first.row,
        against=theirs[0].result.row,
        column=MIOU,
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        images=images,
        unit="points",
        better="labels pixels better",
        worse="labels pixels worse",
        rare=rare_in(interval, others, shown),
    )

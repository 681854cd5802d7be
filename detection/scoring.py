"""From predictions to figures: those of a row, those by day and night, and rows against each other."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from detection.annotations import CONDITIONS
from detection.ap import average_precisions, best_operating_point
from emma_core.comparisons import Comparison, rare_in
from emma_core.errors import DataError
from emma_core.files import read_text
from emma_core.metrics.bootstrap import LEAST_IMAGES, bootstrap
from emma_core.pairs import without_suffix
from emma_core.results import NAIVE_ROWS, Column, write_changed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from detection.coco import Evaluation

    Integers = NDArray[np.int64]
    Seeds = Mapping[int | None, Evaluation]

MEAN = "mAP@0.5"

OPERATING_NOTE = (
    "Precision and recall are means over the classes at the confidence, one for all, where the mean F1 is best."
)
ANCHOR_FREE_NOTE = (
    "Today's detectors of ultralytics, YOLOv5 included, are anchor-free: absolute figures are not the paper's, "
    "differences between rows of one table can be compared."
)
ONE_DETECTOR_NOTE = "One detector scores all rows; it was not trained for any of them here."


def columns(classes: Sequence[str], conditions: Collection[str] = ()) -> tuple[Column, ...]:
    """Return what is measured: AP@0.5 a class as in Table 3 of the paper, and what goes beyond it.

    Args:
        classes: names.
        conditions: names of the light that some images were taken in.
    """
    return (
        *(Column(name, "%", digits=1, title="AP at IoU 0.5") for name in classes),
        Column(MEAN, "%", digits=1, title="mean over classes"),
        Column("mAP@0.5:0.95", "%", digits=1, title="mean over classes and IoU 0.5, 0.55, ... 0.95"),
        Column("Precision", "%", digits=1, title="at the best mean F1"),
        Column("Recall", "%", digits=1, title="at the best mean F1"),
        *(Column(f"{MEAN} {name}", "%", digits=1, title=f"over the images by {name}") for name in conditions),
    )


def values(
    evaluation: Evaluation, classes: Sequence[str], conditions: Mapping[str, Integers] | None = None
) -> dict[str, float]:
    """Return the figures of a row [%], by the names of :func:`columns`.

    Args:
        evaluation: of its predictions.
        classes: names.
        conditions: numbers of the images by light, as :func:`group_by_condition` returns them.
    """
    groups = conditions or {}
    point = best_operating_point(evaluation.matches)
    means = (_mean(evaluation.ap50), _mean(evaluation.ap), point.precision, point.recall)
    figures = (100 * np.array([*evaluation.ap50, *means])).tolist()
    figures += [float(ap50([evaluation], chosen)[0]) for chosen in groups.values()]
    return dict(zip([column.name for column in columns(classes, groups)], figures, strict=True))


def ap50(seeds: Sequence[Evaluation], chosen: Integers) -> NDArray[np.float64]:
    """Return mAP@0.5, then AP@0.5 of each class, on a selection of images [%]; means over seeds.

    Args:
        seeds: evaluations of one row on the same images.
        chosen: numbers of the images that are counted, each as often as it is listed.
    """
    found = np.mean([average_precisions(each.matches, chosen) for each in seeds], axis=0)
    return 100 * np.append(_mean(found), found)


def read_conditions(path: Path) -> dict[str, str]:
    """Read what light each image was taken in: a JSON object, condition by id or ``split/id``, an ending of it or not.

    Raises:
        DataError: it is no such file.
    """
    try:
        return {without_suffix(str(key)): str(value) for key, value in json.loads(read_text(path)).items()}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: no JSON object of conditions by id ({type(error).__name__}), e.g. {{'00000': 'day'}}"
        ) from None


def group_by_condition(
    keys: Sequence[str], listed: Mapping[str, str], endings: Sequence[tuple[str, str]]
) -> dict[str, Integers]:
    """Group the numbers of images by day and night, where that is known.

    Args:
        keys: ``split/id`` of the images.
        listed: condition by ``split/id`` or id.
        endings: conditions that ids tell by their end: name, and that end.
    """
    groups: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        told = (name for name, ending in endings if key.endswith(ending))
        condition = listed.get(key) or listed.get(key.rpartition("/")[2]) or next(told, None)
        if condition:
            groups.setdefault(condition, []).append(number)
    return {condition: np.array(groups[condition], np.int64) for condition in sorted(groups)}


def write_conditions(
    folder: Path, evaluation: Evaluation, classes: Sequence[str], groups: Mapping[str, Integers]
) -> None:
    """Write AP@0.5 of each condition beside the result of a row [%]; null where there is no object."""
    content: dict[str, Any] = {}
    for condition, chosen in groups.items():
        found = ap50([evaluation], chosen).tolist()
        named = zip([MEAN, *classes], found, strict=True)
        figures = {name: round(value, 3) if math.isfinite(value) else None for name, value in named}
        content[condition] = {"images": len(chosen), "AP@0.5": figures}
    write_changed(folder / CONDITIONS, (json.dumps(content, indent=1) + "\n").encode())


def compare(
    table_key: tuple[str, str, str, str],
    rows: Mapping[str, Seeds],
    sources: Sequence[str],
    classes: Sequence[str],
    on_row: Callable[[], None] = lambda: None,
) -> list[Comparison]:
    """Compare every fused row with each camera alone and with the naive rules, by a paired bootstrap over images.

    Args:
        table_key: of their results.
        rows: the evaluations of all rows, by row and seed, on the same images.
        sources: names of the rows that are one camera alone.
        classes: names.
        on_row: called after each comparison, for a progress bar.

    Returns:
        mAP@0.5 of every fused row against every camera, then of every method against every naive rule, and the classes
        in which they can be told apart. Only seeds that both rows have are compared. What fewer than
        :data:`emma_core.metrics.bootstrap.LEAST_IMAGES` show has no interval, and a mean that is only told apart
        by such classes is not.
    """
    alone = [row for row in rows if row in sources]
    naive = [row for row in rows if row in NAIVE_ROWS]
    fused = [row for row in rows if row not in alone]
    pairs = [(row, against) for row in fused for against in alone]
    pairs += [(row, against) for row in fused for against in naive if row not in naive]
    found: list[Comparison] = []
    for row, against in pairs:
        seeds = [seed for seed in rows[row] if seed in rows[against]]
        if seeds:
            ours, theirs = ([rows[name][seed] for seed in seeds] for name in (row, against))
            found += _compare(table_key, (row, ours), (against, theirs), classes)
        on_row()
    return found


def _compare(
    table_key: tuple[str, str, str, str],
    row: tuple[str, Sequence[Evaluation]],
    against: tuple[str, Sequence[Evaluation]],
    classes: Sequence[str],
) -> list[Comparison]:
    """Compare two rows, each with its name and its evaluations with the same seeds."""
    (name, ours), (other, theirs) = row, against
    matches = ours[0].matches
    images = len(matches[0].objects)
    shows = np.array([each.objects > 0 for each in matches])
    each_class = np.count_nonzero(shows, axis=1)
    often = each_class >= LEAST_IMAGES

    def differences(chosen: Integers) -> NDArray[np.float64]:
        found = ap50(ours, chosen) - ap50(theirs, chosen)
        return np.append(found, _mean(found[1:][often]))

    together = np.count_nonzero(np.any(shows, axis=0)), np.count_nonzero(np.any(shows[often], axis=0))
    *intervals, others = bootstrap(differences, images, shown=[together[0], *each_class, together[1]])
    rare = rare_in(intervals[0], others, dict(zip(classes, each_class.tolist(), strict=True)))
    phrases = [("finds more", "finds less"), *((f"finds {kind} better", f"finds {kind} worse") for kind in classes)]
    made = [
        Comparison(table_key, name, other, column, each.value, each.low, each.high, images, "AP", 1, better, worse)
        for column, each, (better, worse) in zip([MEAN, *classes], intervals, phrases, strict=True)
    ]
    return [replace(made[0], rare=rare), *(comparison for comparison in made[1:] if comparison.sure)]


def _mean(figures: NDArray[np.float64]) -> float:
    """Average over the classes that have objects; NaN where none has."""
    defined = figures[np.isfinite(figures)]
    return float(defined.mean()) if defined.size else math.nan

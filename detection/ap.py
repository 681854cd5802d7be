"""Average precision of any selection of images, precision and recall, and what was taken for what.

COCO's definition (Lin et al., 2014): precision, made to fall with recall, averaged over 101 levels of recall.
Detections are matched to objects within each image, so once matched, any resample of images costs a few additions;
pycocotools, which matches, would take minutes for the thousands that a bootstrap draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

LEVELS = np.linspace(0.0, 1.0, 101)
"""Of recall."""

THRESHOLDS = np.linspace(0.0, 1.0, 1001)
"""Of confidence, among which the best F1 is looked for."""


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class, the most confident first, and whether each is right at IoU 0.5.

    Attributes:
        scores: (N,), confidence.
        hits: (N,), whether it was matched to an object.
        images: (N,), number of the image.
        objects: (I,), number of objects in each image.
    """

    scores: Floats
    hits: NDArray[np.bool_]
    images: Integers
    objects: Integers


class OperatingPoint(NamedTuple):
    """Where the mean F1 of the classes is best.

    Attributes:
        confidence: detections below it are dropped.
        precision: mean over classes that have objects.
        recall: likewise.
    """

    confidence: float
    precision: float
    recall: float


def average_precisions(matches: Sequence[ClassMatches], chosen: Integers) -> Floats:
    """Compute AP@0.5 of every class on a selection of images, with repetition.

    Args:
        matches: one a class.
        chosen: numbers of the images that are counted, each as often as it is listed.

    Returns:
        (classes,), in [0, 1]; NaN for a class that has no object in these images.
    """
    images = len(matches[0].objects)
    return np.array([average_precision(each, np.bincount(chosen, minlength=images)) for each in matches])


def average_precision(matches: ClassMatches, counts: Integers) -> float:
    """Compute AP@0.5 of one class, in [0, 1]; NaN without an object.

    Args:
        matches: of the class.
        counts: (I,), how often each image is counted.
    """
    objects = int(matches.objects @ counts)
    if not objects:
        return float("nan")
    recall, precision = _curve(matches, counts, objects)
    place = np.searchsorted(recall, LEVELS, side="left")
    reached = np.append(precision, 0.0)[place]
    return float(reached.mean())


def _curve(matches: ClassMatches, counts: Integers, objects: int) -> tuple[Floats, Floats]:
    """Return recall at every hit, rising, and the best precision from there on.

    Between two hits recall stands still and precision falls, so nothing else matters.
    """
    weights = counts[matches.images]
    found = np.cumsum(weights[matches.hits])
    taken = np.cumsum(weights)[matches.hits]
    precision = found / (taken + np.spacing(1))
    return found / objects, np.maximum.accumulate(precision[::-1])[::-1]


def precision_recall(matches: ClassMatches) -> tuple[Floats, Floats]:
    """Return recall and precision at every hit of one class, on all images once; empty without an object."""
    objects = int(matches.objects.sum())
    if not objects:
        return np.empty(0), np.empty(0)
    return _curve(matches, np.ones_like(matches.objects), objects)


def best_operating_point(matches: Sequence[ClassMatches]) -> OperatingPoint:
    """Find the confidence at which the mean F1 of the classes is best, among 1001; NaN without an object."""
    curves = [_at_thresholds(each) for each in matches if each.objects.sum()]
    if not curves:
        return OperatingPoint(float("nan"), float("nan"), float("nan"))
    precision, recall = np.array(curves).transpose(1, 0, 2)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1.mean(axis=0).argmax())
    return OperatingPoint(float(THRESHOLDS[best]), float(precision[:, best].mean()), float(recall[:, best].mean()))


def _at_thresholds(matches: ClassMatches) -> tuple[Floats, Floats]:
    """Return precision and recall of what reaches each threshold; where nothing does, precision counts 0."""
    taken = np.searchsorted(-matches.scores, -THRESHOLDS, side="right")
    found = np.append(0, np.cumsum(matches.hits))[taken]
    return found / np.maximum(taken, 1), found / matches.objects.sum()


def image_points(matches: Sequence[ClassMatches], confidence: float) -> Integers:
    """Count hits minus false alarms of each image at a confidence, (I,)."""
    points = np.zeros(len(matches[0].objects), np.int64)
    for each in matches:
        taken = each.scores >= confidence
        np.add.at(points, each.images[taken], np.where(each.hits[taken], 1, -1))
    return points


def overlaps(boxes: Floats, others: Floats) -> Floats:
    """Return the intersection over union of every two boxes, (N, M), from (N, 4) and (M, 4) corners."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=-1)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=-1) for each in (boxes, others)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-12))


def pair_up(boxes: Floats, others: Floats) -> list[tuple[int, int]]:
    """Match boxes whose overlap is 0.5 at least, whatever their class, the largest overlap first."""
    shared = overlaps(boxes, others)
    matched: list[tuple[int, int]] = []
    while shared.size and shared.max() >= 0.5:
        one, other = map(int, np.unravel_index(shared.argmax(), shared.shape))
        matched.append((one, other))
        shared[one], shared[:, other] = 0, 0
    return matched


def confusion(
    truth: Sequence[tuple[Floats, Integers]], found: Sequence[tuple[Floats, Integers]], classes: int
) -> Integers:
    """Count what was taken for what.

    Args:
        truth: boxes, (N, 4), and class numbers, (N,), of each image.
        found: likewise, of the detections that count.
        classes: number of classes.

    Returns:
        (classes + 1, classes + 1): rows are what is there, columns what was found; the last is nothing.
    """
    table = np.zeros((classes + 1, classes + 1), np.int64)
    for (boxes, kinds), (guesses, guessed) in zip(truth, found, strict=True):
        matched = pair_up(boxes, guesses)
        for one, other in matched:
            table[kinds[one], guessed[other]] += 1
        missed = np.delete(kinds, [one for one, _ in matched])
        invented = np.delete(guessed, [other for _, other in matched])
        table[:, classes] += np.bincount(missed, minlength=classes + 1)
        table[classes, :] += np.bincount(invented, minlength=classes + 1)
    return table

"""Pictures for the report: where fusion gains and loses most, precision-recall curves, what was taken for what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detection.ap import best_operating_point, confusion, image_points, pair_up, precision_recall
from detection.coco import found_by_image, read_predictions
from emma_core.images import read_image
from emma_core.pictures import TaskPicture, earlier_pictures, pictures_folder, write_index, write_picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from detection.annotations import ImageBoxes
    from detection.ap import ClassMatches
    from detection.bench import Bench

    Found = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]

HIT, FALSE, MISSED = "#35c759", "#ff3b30", "#ffd60a"
"""Colours of boxes: found and right, found and wrong, not found."""

_LEGEND = "Green: found. Red: a false alarm. Yellow, dashed: missed."


@dataclass(frozen=True)
class DrawnRow:
    """What is drawn of a row: the detector of its first seed, at the confidence of its best mean F1.

    Attributes:
        name: of the row.
        files: its images by ``split/id``; empty where they are not at hand.
        matches: one a class.
        confidence: detections below it are not shown.
        found: boxes, scores and class numbers of each test image, above that confidence.
    """

    name: str
    files: Mapping[str, Path]
    matches: Sequence[ClassMatches]
    confidence: float
    found: Sequence[Found]


def drawn_row(name: str, files: Mapping[str, Path], matches: Sequence[ClassMatches], predictions: Path) -> DrawnRow:
    """Read what a row found, and keep what counts."""
    confidence = best_operating_point(matches).confidence
    every = found_by_image(read_predictions(predictions), len(matches[0].objects))
    kept = [tuple(part[found[1] >= confidence] for part in found) for found in every]
    return DrawnRow(name, files, matches, confidence, kept)


def draw_pictures(bench: Bench, rows: Sequence[DrawnRow], folder: Path) -> list[TaskPicture]:
    """Draw and list all pictures of a table.

    Args:
        bench: what the rows were tested on.
        rows: in the order of the table. Of a row whose images are not at hand, the examples of an earlier run stay.
        folder: of the rows; the pictures go below it.
    """
    place = pictures_folder(folder)
    spec = bench.pairs.spec
    alone = [row for row in rows if row.name in {spec.infrared_label, spec.visible_label}]
    earlier = earlier_pictures(place)
    made = []
    for row in rows:
        if alone and row not in alone:
            kept = [picture for picture in earlier if picture.group == _group(row)]
            made += _examples(bench, alone, row, place) if row.files else kept
    curves = TaskPicture("curves.png", "Precision against recall at IoU 0.5, first seed.", "Curves", wide=True)
    tables = TaskPicture("confusion.png", _confusion_caption(rows), "What was taken for what", wide=True)
    made += [
        write_picture(place, curves, curve_figure(rows, bench.classes)),
        write_picture(place, tables, confusion_figure(bench, rows)),
    ]
    write_index(place, made)
    return made


def _group(row: DrawnRow) -> str:
    return f"Largest gains and losses: {row.name}"


def extremes(alone: Sequence[DrawnRow], row: DrawnRow) -> tuple[int, int, NDArray[np.int64]]:
    """Find the images on which a row gains and loses most, and the gains, (I,).

    The gain is hits minus false alarms, less the better of the cameras alone on that image.
    """
    best = np.max([image_points(each.matches, each.confidence) for each in alone], axis=0)
    gains = image_points(row.matches, row.confidence) - best
    return int(gains.argmax()), int(gains.argmin()), gains


def _examples(bench: Bench, alone: Sequence[DrawnRow], row: DrawnRow, place: Path) -> list[TaskPicture]:
    """Draw the largest gain and the largest loss of a row, beside each camera alone."""
    most, least, gains = extremes(alone, row)
    name = row.name
    made = []
    for number, kind, wanted in ((most, "gain", gains[most] > 0), (least, "loss", gains[least] < 0)):
        if wanted:
            key = bench.test.pairs[number].key
            caption = (
                f"{key}: largest {kind} of {name}, hits minus false alarms {gains[number]:+d} against the better of "
                f"{' and '.join(each.name for each in alone)}, each row at the confidence of its best mean F1: "
                f"{_confidences([*alone, row])}. {_LEGEND}"
            )
            picture = TaskPicture(f"{name}-{kind}.png", caption, _group(row), wide=True)
            figure = example_figure(key, bench.annotations.images[key], [*alone, row], number, bench.classes)
            made.append(write_picture(place, picture, figure))
    return made


def example_figure(
    key: str, truth: ImageBoxes, rows: Sequence[DrawnRow], number: int, classes: Sequence[str]
) -> Figure:
    """Draw one test image as several rows see it, with what was found and what was missed."""
    from matplotlib.figure import Figure

    left, top, right, bottom = _window(truth, [row.found[number][0] for row in rows])
    figure = Figure(figsize=(4.6 * len(rows), 4.6 * (bottom - top) / (right - left) + 0.35), layout="constrained")
    panels = figure.subplots(1, len(rows), squeeze=False)[0]
    for axes, row in zip(panels, rows, strict=True):
        axes.imshow(read_image(row.files[key]), cmap="gray", vmin=0, vmax=1)
        _draw_boxes(axes, truth, row.found[number], classes)
        axes.set(title=row.name, xlim=(left, right), ylim=(bottom, top))
        axes.set_axis_off()
    return figure


def _window(truth: ImageBoxes, found: Sequence[NDArray[np.float64]]) -> tuple[float, float, float, float]:
    """Return the part of an image, left, top, right, bottom, that holds all boxes; half of either side at least."""
    boxes = np.vstack([truth.boxes, *found])
    size = np.array([truth.width, truth.height], np.float64)
    low, high = boxes[:, :2].min(axis=0) - 0.05 * size, boxes[:, 2:].max(axis=0) + 0.05 * size
    lacking = np.maximum(size / 2 - (high - low), 0) / 2
    low, high = low - lacking, high + lacking
    shift = np.maximum(-low, 0) - np.maximum(high - size, 0)
    return (*(low + shift).clip(0, size), *(high + shift).clip(0, size))


def _draw_boxes(axes: Axes, truth: ImageBoxes, found: Found, classes: Sequence[str]) -> None:
    """Frame what was found, right or wrong, and what was missed; each with its class."""
    boxes, _, kinds = found
    right = [(one, other) for one, other in pair_up(truth.boxes, boxes) if truth.classes[one] == kinds[other]]
    hits, seen = {other for _, other in right}, {one for one, _ in right}
    for number, (box, kind) in enumerate(zip(boxes, kinds, strict=True)):
        _frame(axes, box, HIT if number in hits else FALSE, classes[kind])
    for number, (box, kind) in enumerate(zip(truth.boxes, truth.classes, strict=True)):
        if number not in seen:
            _frame(axes, box, MISSED, classes[kind], dashed=True)


def _frame(axes: Axes, box: NDArray[np.float64], colour: str, name: str, *, dashed: bool = False) -> None:
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box
    style = "--" if dashed else "-"
    axes.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.4, linestyle=style)
    )
    axes.text(left, top - 1, name, color=colour, fontsize=6, va="bottom", clip_on=True)


def curve_figure(rows: Sequence[DrawnRow], classes: Sequence[str]) -> Figure:
    """Draw precision against recall: a panel a class, a line a row."""
    from matplotlib.figure import Figure

    columns = min(3, len(classes))
    lines = -(-len(classes) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.9 * lines + 0.4), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for number, axes in enumerate(panels):
        if number >= len(classes):
            axes.set_axis_off()
            continue
        for row in rows:
            recall, precision = precision_recall(row.matches[number])
            start = precision[:1] if precision.size else [0.0]
            axes.plot([0.0, *recall], [*start, *precision], label=row.name, linewidth=1.5)
        axes.set(title=f"{classes[number]} ({row.matches[number].objects.sum()})", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    figure.supxlabel("Recall", fontsize=10)
    figure.supylabel("Precision", fontsize=10)
    panels[0].legend(fontsize=8)
    return figure


def confusion_figure(bench: Bench, rows: Sequence[DrawnRow]) -> Figure:
    """Draw what was taken for what: a panel a row; of every class the shares that were found as something."""
    from matplotlib.figure import Figure

    truth = [bench.annotations.images[pair.key] for pair in bench.test.pairs]
    labels = [*bench.classes, "nothing"]
    side = 0.55 * len(labels) + 1.2
    figure = Figure(figsize=(side * len(rows) + 0.6, side + 0.4), layout="constrained")
    panels = figure.subplots(1, len(rows), squeeze=False, sharey=True)[0]
    for axes, row in zip(panels, rows, strict=True):
        counts = confusion(
            [(image.boxes, image.classes) for image in truth],
            [(boxes, kinds) for boxes, _, kinds in row.found],
            len(bench.classes),
        )
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (one, other), count in np.ndenumerate(counts):
            colour = "white" if shares[one, other] > 0.6 else "black"
            axes.text(other, one, str(count), ha="center", va="center", fontsize=7, color=colour)
        axes.set_title(row.name)
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
    panels[0].set_ylabel("there is")
    figure.supxlabel("found", fontsize=10)
    return figure


def _confidences(rows: Sequence[DrawnRow]) -> str:
    return ", ".join(f"{row.name} {row.confidence:.2f}" for row in rows)


def _confusion_caption(rows: Sequence[DrawnRow]) -> str:
    return (
        "Objects that are there (rows) and what they were found as (columns) at IoU 0.5, first seed, at the confidence "
        f"of the best mean F1: {_confidences(rows)}. The last row counts false alarms, the last column what was missed."
    )

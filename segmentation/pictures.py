"""What the report shows of segmentation: IoU by class, confusion, training curves, and the images that differ most."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emma_core.errors import EmmaError
from emma_core.fuse_dataset import fused_folder
from emma_core.images import read_image
from emma_core.metrics.confusion import class_iou, mean_iou
from emma_core.pictures import TaskPicture, pictures_folder, write_index, write_picture
from emma_core.report.tables import row_order
from emma_core.rows import InputRow, source_rows, with_foreign
from emma_core.training_log import LOG, read_log
from segmentation.data import images_hash
from segmentation.labels import MIOU, read_mask
from segmentation.panels import View, draw_image
from segmentation.scored import PREDICTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from numpy.typing import NDArray

    from segmentation.labels import SegmentationSpec
    from segmentation.run import Request
    from segmentation.scored import Scored

SHOWN = 3
"""Images with the largest gain at most, and as many with the largest loss."""

_SMOOTH = 0.7  # of the loss from one logged step to the next


@dataclass(frozen=True)
class _Shown:
    """What is shown in detail: both cameras alone and the last fused row, each with its first seed.

    Attributes:
        rows: as they are scored.
        images: of each row by name, then by ``split/id``; not of rows whose images are gone, or are others by now.
        seeds: which of several seeds these are, for captions; empty where there is one.
    """

    rows: Sequence[Scored]
    images: Mapping[str, Mapping[str, Path]]
    seeds: str


def write_pictures(request: Request, scored: Sequence[Scored]) -> None:
    """Draw all pictures of a table into ``pictures/`` beside its rows.

    Args:
        request: whose data and rows.
        scored: the rows and seeds of the table.
    """
    folder = pictures_folder(request.folder)
    write_index(folder, [write_picture(folder, picture, figure) for picture, figure in draw_pictures(request, scored)])


def draw_pictures(request: Request, scored: Sequence[Scored]) -> list[tuple[TaskPicture, Figure]]:
    """Draw all pictures of a table, with their captions, in the order of the page.

    Args:
        request: whose data and rows.
        scored: the rows and seeds of the table.
    """
    ordered = sorted(scored, key=lambda each: (_order(each), each.result.seed or 0))
    shown = _shown(request, ordered)
    taken_for = f"What each class was taken for, in % of its pixels{shown.seeds}"
    spec = request.data.spec
    return [
        (_picture("iou.png", request, "IoU of each class by kind of input", "IoU by class"), bars(ordered, spec)),
        (_picture("confusion.png", request, taken_for, "Confusion"), confusions(shown.rows, spec)),
        (_picture("training.png", request, "Training: loss and mIoU on training images", "Training"), curves(ordered)),
        *_strips(request, shown),
        *_extremes(request, shown),
    ]


def bars(scored: Sequence[Scored], spec: SegmentationSpec) -> Figure:
    """Draw IoU by class, a bar for each row: the mean over its seeds."""
    figure = _figure(11, 3.6)
    axes = figure.subplots()
    names = [column.name for column in scored[0].result.columns]
    names = names[: names.index(MIOU) + 1]
    rows = list(dict.fromkeys(each.input for each in scored))
    width = 0.8 / len(rows)
    for place, row in enumerate(rows):
        values = [[each.result.values[name] for name in names] for each in scored if each.input == row]
        centres = np.arange(len(names)) + (place - (len(rows) - 1) / 2) * width
        axes.bar(centres, np.mean(values, axis=0), width, label=row)
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set_ylabel("IoU with pseudo-labels [%]" if spec.pseudo else "IoU [%]")
    axes.legend(ncols=len(rows), frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.15))
    return figure


def confusions(scored: Sequence[Scored], spec: SegmentationSpec) -> Figure:
    """Draw the confusion matrix of each row, each true class as 100 %."""
    figure = _figure(3.4 * len(scored) + 1, 4.2)
    panels = np.atleast_1d(figure.subplots(1, len(scored), sharey=True))
    for axes, each in zip(panels, scored, strict=True):
        matrix = each.matrices.sum(axis=0)
        shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for (true, found), share in np.ndenumerate(shares):
            if share >= 0.5:
                colour = "white" if share > 55 else "black"
                axes.text(found, true, f"{share:.0f}", ha="center", va="center", fontsize=7, color=colour)
        axes.set_xticks(range(len(spec.classes)), spec.classes, rotation=90, fontsize=8)
        axes.set_yticks(range(len(spec.classes)), spec.classes, fontsize=8)
        axes.set_title(each.input, fontsize=10)
        axes.set_xlabel("predicted")
    panels[0].set_ylabel(spec.truth)
    return figure


def curves(scored: Sequence[Scored]) -> Figure:
    """Draw loss and mIoU on training images over the steps, a line for each row and seed."""
    figure = _figure(11, 3.2)
    loss, miou = figure.subplots(1, 2)
    rows = list(dict.fromkeys(each.input for each in scored))
    for each in scored:
        lines = read_log(each.folder / LOG)
        colour = f"C{rows.index(each.input)}"
        label = f"{each.input}, seed {each.result.seed}"
        _line(loss, [(line["step"], line["loss"]) for line in lines if "loss" in line], colour, label, smooth=True)
        looks = [(line["step"], line["validation"]["training mIoU"]) for line in lines if "validation" in line]
        _line(miou, looks, colour, label)
    loss.set(xlabel="step", ylabel="loss")
    miou.set(xlabel="step", ylabel="mIoU on training images [%]")
    miou.legend(frameon=False, fontsize=8)
    return figure


def gains(fused: NDArray[np.int64], rivals: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return by how much a row is better than the best of its rivals on each image.

    Args:
        fused: (images, classes, classes) [pixels].
        rivals: likewise.

    Returns:
        (images,): difference in mIoU over the classes that an image has, in -1..1.
    """
    best = np.max([_image_miou(matrices) for matrices in rivals], axis=0)
    gain: NDArray[np.float64] = _image_miou(fused) - best
    return gain


def best_and_worst(matrices: NDArray[np.int64], number: int) -> tuple[int, int] | None:
    """Find the images on which a class is found best and worst; of equals, those that show more of it.

    Args:
        matrices: (images, classes, classes) [pixels], true classes along the second axis.
        number: of the class.

    Returns:
        Two indices, or None where fewer than two images show the class.
    """
    pixels = matrices[:, number].sum(axis=1)
    there = np.flatnonzero(pixels)
    if len(there) < 2:
        return None
    scores = np.array([class_iou(matrix)[number] for matrix in matrices])
    best = there[np.lexsort((-pixels[there], -scores[there]))[0]]
    others = there[there != best]
    worst = others[np.lexsort((-pixels[others], scores[others]))[0]]
    return int(best), int(worst)


def _strips(request: Request, shown: _Shown) -> list[tuple[TaskPicture, Figure]]:
    """Draw the images on which fusing helps most and least, where a fused row and both cameras alone are scored."""
    if len(shown.rows) < 3:
        return []
    gain = gains(shown.rows[-1].matrices, [each.matrices for each in shown.rows[:-1]])
    order = np.argsort(-gain, kind="stable")
    groups = {
        "Largest gains by fusing": [index for index in order[:SHOWN] if gain[index] > 0],
        "Largest losses by fusing": [index for index in order[::-1][:SHOWN] if gain[index] < 0],
    }
    return [_strip(request, int(index), shown, heading) for heading, chosen in groups.items() for index in chosen]


def _strip(request: Request, index: int, shown: _Shown, heading: str) -> tuple[TaskPicture, Figure]:
    """Draw one test image in all its classes."""
    pair = request.data.test.pairs[index]
    scores = [100 * float(_image_miou(each.matrices[index : index + 1])[0]) for each in shown.rows]
    figure = _figure(11, 4.4)
    _draw(figure, request, index, shown, [f"mIoU {score:.1f}" for score in scores])
    caption = f"{pair.key}: mIoU over the classes of this image [%]: {_spelled(shown.rows, scores)}{shown.seeds}"
    return _picture(f"{pair.split}-{pair.id}.png", request, caption, heading), figure


def _extremes(request: Request, shown: _Shown) -> list[tuple[TaskPicture, Figure]]:
    """Draw, for every class but the background, the images on which the last row shown finds it best and worst."""
    classes = request.data.spec.classes
    found = [(number, best_and_worst(shown.rows[-1].matrices, number)) for number in range(1, len(classes))]
    return [_extreme(request, shown, number, indices) for number, indices in found if indices]


def _extreme(request: Request, shown: _Shown, number: int, indices: tuple[int, int]) -> tuple[TaskPicture, Figure]:
    """Draw the best and the worst image of a class, one below the other."""
    name, row = request.data.spec.classes[number], shown.rows[-1].input
    figure = _figure(11, 9)
    parts: Any = figure.subfigures(2, 1, hspace=0.03)
    said = []
    for part, index, word in zip(parts, indices, ("best", "worst"), strict=True):
        key = request.data.test.pairs[index].key
        scores = [100 * float(class_iou(each.matrices[index])[number]) for each in shown.rows]
        part.suptitle(f"{name} found {word} by {row}: {key}", fontsize=11, fontweight="bold")
        _draw(part, request, index, shown, [f"IoU of {name} {score:.1f}" for score in scores], number)
        said.append(f"{word} {key}, {_spelled(shown.rows, scores)}")
    caption = f"{name}, where {row} finds it best and worst; IoU of {name} [%]: {'; '.join(said)}{shown.seeds}"
    return _picture(f"class-{number}.png", request, caption, "Best and worst image of each class"), figure


def _draw(
    figure: FigureBase,
    request: Request,
    index: int,
    shown: _Shown,
    titles: Sequence[str],
    focus: int | None = None,
) -> None:
    """Draw a test image as the rows shown see and label it."""
    data = request.data
    pair = data.test.pairs[index]
    views = [
        View(
            each.input,
            read_image(shown.images[each.input][pair.key]) if each.input in shown.images else None,
            read_mask(each.folder / PREDICTIONS / f"{pair.key}.png", data.spec),
            f"{each.input}: {title}",
        )
        for each, title in zip(shown.rows, titles, strict=True)
    ]
    truth = read_mask(data.masks[pair.key], data.spec)
    draw_image(figure, views, truth, read_image(pair.visible), data.spec, focus)


def _spelled(shown: Sequence[Scored], scores: Sequence[float]) -> str:
    return ", ".join(f"{each.input} {score:.1f}" for each, score in zip(shown, scores, strict=True))


def _picture(file: str, request: Request, caption: str, group: str) -> TaskPicture:
    against = " (against pseudo-labels, no ground truth)" if request.data.spec.pseudo else ""
    return TaskPicture(file, f"{caption}{against}.", group, wide=True)


def _shown(request: Request, scored: Sequence[Scored]) -> _Shown:
    """Choose what is shown in detail, and find its images."""
    first: dict[str, Scored] = {}
    for each in scored:
        first.setdefault(each.input, each)
    cameras = source_rows(request.data.pairs)
    sources = [row.name for row in cameras]
    fused = [each for row, each in first.items() if row not in sources]
    rows = [first[row] for row in sources if row in first] + fused[-1:]
    images = {row.name: row.files for row in (*cameras, *request.rows)}
    for each in rows:
        if each.input not in images and (earlier := _earlier(request, each)):
            images[each.input] = earlier.files
    return _Shown(rows, images, _seeds(rows, scored))


def _earlier(request: Request, each: Scored) -> InputRow | None:
    """Find the images of a row that another command asked for, if they are still those that it was trained on."""
    pairs, source = request.data.pairs, each.result.source
    keys = [pair.key for pair in pairs.pairs]
    try:
        if folder := source.get("folder"):
            (row,) = with_foreign((), pairs, [(each.input, Path(folder))])
        else:
            place = fused_folder(request.runs, pairs.dataset, each.input)
            row = InputRow(each.input, {key: place / f"{key}.png" for key in keys}, source)
        return row if images_hash(row, keys) == source.get("images_sha256") else None
    except (EmmaError, OSError):
        return None


def _seeds(shown: Sequence[Scored], scored: Sequence[Scored]) -> str:
    """Say which seeds are shown, if there are several; a figure of the table is a mean over all."""
    if len({each.result.seed for each in scored}) == 1:
        return ""
    if len({each.result.seed for each in shown}) == 1:
        return f" (seed {shown[0].result.seed})"
    return f" ({', '.join(f'{each.input} seed {each.result.seed}' for each in shown)})"


def _order(each: Scored) -> tuple[Any, ...]:
    return row_order(each.input, baseline=each.result.baseline)


def _image_miou(matrices: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mIoU of each image over the classes that it has; 0 where nothing is labelled."""
    return np.nan_to_num([mean_iou(class_iou(matrix), "skip") for matrix in matrices])


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _line(axes: Axes, points: Sequence[tuple[int, float]], colour: str, label: str, *, smooth: bool = False) -> None:
    steps, values = [step for step, _ in points], [value for _, value in points]
    if smooth:
        for index in range(1, len(values)):
            values[index] = _SMOOTH * values[index - 1] + (1 - _SMOOTH) * values[index]
    axes.plot(steps, values, color=colour, label=label)

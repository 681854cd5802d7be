"""Scoring a segmenter on the test set: one confusion matrix at the original size, and the figures of Table 4."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import interpolate

from emma_core.comparisons import rare_note
from emma_core.metrics.confusion import class_frequency, class_iou, confusion_matrix, mean_iou, pixel_accuracy
from emma_core.results import Column
from emma_core.runtime import map_images
from segmentation.augment import fit
from segmentation.data import as_input, read_levels
from segmentation.labels import ACCURACY, FOREGROUND, MIOU, UNLABELLED, read_mask, write_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from emma_core.metrics.confusion import Absent, Matrix
    from emma_core.pairs import Pair
    from emma_core.rows import InputRow
    from segmentation.augment import Levels
    from segmentation.data import SegmentationData
    from segmentation.labels import Mask, SegmentationSpec
    from segmentation.network import Segmenter


def columns(spec: SegmentationSpec) -> tuple[Column, ...]:
    """Return what is measured with a label set, in the order of the table."""
    figures = [(name, f"IoU of {name}") for name in spec.classes]
    figures += [
        (MIOU, "mean IoU over all classes"),
        (FOREGROUND, f"mean IoU without {spec.classes[0]}"),
        (ACCURACY, "share of labelled pixels that are right"),
    ]
    figures += [(f"{MIOU} {name}", f"mean IoU over images by {name}") for name, _ in spec.conditions]
    return tuple(Column(name, "%", digits=1, title=title) for name, title in figures)


def figures(
    matrices: NDArray[np.int64], pairs: Sequence[Pair], spec: SegmentationSpec, absent: Absent
) -> dict[str, float]:
    """Compute the figures of a row.

    Args:
        matrices: of each image, (images, classes, classes) [pixels].
        pairs: of the images.
        spec: the label set.
        absent: what a class counts that the truth does not have.

    Returns:
        By the names of :func:`columns` [%]; NaN for an absent class, and for a condition without images.
    """
    whole = matrices.sum(axis=0)
    iou = class_iou(whole)
    found = dict(zip(spec.classes, iou.tolist(), strict=True))
    found[MIOU], found[FOREGROUND] = mean_iou(iou, absent), mean_iou(iou[1:], absent)
    found[ACCURACY] = pixel_accuracy(whole)
    found |= {f"{MIOU} {name}": math.nan for name, _ in spec.conditions}
    for name, matrix in _by_condition(matrices, pairs, spec).items():
        found[f"{MIOU} {name}"] = mean_iou(class_iou(matrix), absent)
    return {name: 100 * value for name, value in found.items()}


def notes(
    matrices: NDArray[np.int64], pairs: Sequence[Pair], spec: SegmentationSpec, absent: Absent
) -> tuple[str, ...]:
    """Say what a reader of the figures has to know: kind of labels, share of each class, absent ones.

    Args:
        matrices: of each image, (images, classes, classes) [pixels].
        pairs: of the images.
        spec: the label set.
        absent: what a class counts that the truth does not have.
    """
    whole = matrices.sum(axis=0)
    shares = zip(spec.classes, class_frequency(whole), strict=True)
    spelled = ", ".join(f"{name} {100 * share:.2f} %" for name, share in shares)
    sentences = [spec.note, f"Share of the labelled test pixels: {spelled}."]
    lacking = _absent(whole, spec)
    counts = "counts as 0 in the means" if absent == "zero" else "is left out of the means"
    if lacking:
        sentences.append(f"No test pixel of {', '.join(lacking)}; an absent class {counts}.")
    sentences += rare_note(images_with(matrices, spec.classes))
    parts = {name: _absent(matrix, spec) for name, matrix in _by_condition(matrices, pairs, spec).items()}
    if len(set(map(tuple, parts.values()))) > 1:
        heads = " and ".join(f"{MIOU} {name}" for name in parts)
        each = "; ".join(f"{name} images have no pixel of {', '.join(names)}" for name, names in parts.items() if names)
        sentences.append(f"{heads} cannot be compared with each other: {each}; an absent class {counts}.")
    return tuple(sentence for sentence in sentences if sentence)


def images_with(matrices: NDArray[np.int64], classes: Sequence[str]) -> dict[str, int]:
    """Count the images with labelled pixels of each class, by its name."""
    shown = np.count_nonzero(matrices.sum(axis=2), axis=0)
    return dict(zip(classes, shown.tolist(), strict=True))


def evaluate_row(
    segmenter: Segmenter,
    row: InputRow,
    data: SegmentationData,
    size: tuple[int, int],
    device: torch.device,
    folder: Path,
    on_image: Callable[[], None] = lambda: None,
) -> NDArray[np.int64]:
    """Label the test images of a row, keep the masks, and count.

    Args:
        segmenter: trained, in evaluation mode, on the device.
        row: which images.
        data: the test pairs and their masks.
        size: that images are fitted into.
        device: where to compute.
        folder: for the predicted masks, ``<split>/<id>.png``, whose grey levels are ids.
        on_image: called after each image, for a progress bar.

    Returns:
        (images, classes, classes): a confusion matrix of each image, at its original size [pixels].

    Raises:
        DataError: an image or a mask cannot be read.
    """

    def score(pair: Pair) -> Matrix:
        found = predict(segmenter, read_levels(row.files[pair.key]), size, device)
        write_mask(folder / f"{pair.key}.png", found, data.spec)
        truth = read_mask(data.masks[pair.key], data.spec)
        return confusion_matrix(truth, found, segmenter.classes, UNLABELLED)

    matrices = []
    for matrix in map_images(score, data.test.pairs, device):
        matrices.append(matrix)
        on_image()
    return np.stack(matrices)


def predict(segmenter: Segmenter, image: Levels, size: tuple[int, int], device: torch.device) -> Mask:
    """Label the pixels of an image.

    Args:
        segmenter: in evaluation mode, on the device.
        image: (H, W, 3) uint8.
        size: height and width that it is fitted into.
        device: where to compute.

    Returns:
        (H, W) uint8, the most likely class of each pixel of the image at its own size.
    """
    frame, (height, width) = fit(image, size)
    with torch.inference_mode():
        logits = segmenter(as_input(frame)[None].to(device)).float()[..., :height, :width]
        logits = interpolate(logits, size=image.shape[:2], mode="bilinear", align_corners=False)
        found: Mask = logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
    return found


def _by_condition(matrices: NDArray[np.int64], pairs: Sequence[Pair], spec: SegmentationSpec) -> dict[str, Matrix]:
    """Add up the matrices of the images of each condition that has any labelled pixel."""
    sums = {
        name: matrices[[pair.id.endswith(ending) for pair in pairs]].sum(axis=0) for name, ending in spec.conditions
    }
    return {name: matrix for name, matrix in sums.items() if matrix.any()}


def _absent(matrix: Matrix, spec: SegmentationSpec) -> list[str]:
    """Name the classes that no true pixel is of."""
    return [name for name, pixels in zip(spec.classes, matrix.sum(axis=1), strict=True) if not pixels]

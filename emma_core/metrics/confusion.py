"""Confusion matrices of labelled pixels, and what is read off them: IoU, accuracy, class frequency.

Matrices add up over images, so one over a whole test set, as the paper's mIoU wants it, is the sum of those of its
images; a bootstrap adds up those it draws. IoU is the ratio of shared to joint pixels of a class (Jaccard 1901).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Matrix = NDArray[np.int64]
    Shares = NDArray[np.float64]

Absent = Literal["zero", "skip"]
"""What a class without a pixel in the truth counts in a mean: 0, as in the paper's evaluation, or not at all."""


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, classes: int, ignore: int | None = None) -> Matrix:
    """Count the pixels of each pair of classes.

    Args:
        truth: class ids, any shape, integers in 0..classes - 1, or ``ignore``.
        predicted: class ids, of the same shape, integers in 0..classes - 1.
        classes: number of classes.
        ignore: id of pixels that are not counted, or None.

    Returns:
        (classes, classes), true class by predicted class [pixels].

    Raises:
        ValueError: the shapes differ, or an id is out of range.
    """
    wanted, found = np.asarray(truth), np.asarray(predicted)
    if wanted.shape != found.shape:
        raise ValueError(f"truth has shape {wanted.shape}, prediction {found.shape}")
    if ignore is not None:
        counted = wanted != ignore
        wanted, found = wanted[counted], found[counted]
    for name, ids in (("truth", wanted), ("prediction", found)):
        if ids.size and not (ids.min() >= 0 and ids.max() < classes):
            raise ValueError(f"{name} holds ids {ids.min()} to {ids.max()}, expected 0 to {classes - 1}")
    pairs = wanted.ravel().astype(np.int64) * classes + found.ravel().astype(np.int64)
    matrix: Matrix = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    return matrix


def class_iou(matrix: Matrix) -> Shares:
    """Return the IoU of each class, (classes,) in 0..1; NaN where the truth has no pixel of a class.

    That a class is absent depends on the truth alone, so all rows of a table lack the same classes.
    """
    shared = np.diagonal(matrix).astype(np.float64)
    true = matrix.sum(axis=1)
    union = true + matrix.sum(axis=0) - np.diagonal(matrix)
    iou: Shares = np.where(true > 0, shared / np.maximum(union, 1), np.nan)
    return iou


def mean_iou(iou: Shares | Sequence[float], absent: Absent = "zero") -> float:
    """Average IoU over classes.

    Args:
        iou: of each class, NaN where it is absent.
        absent: whether an absent class counts as 0 or is skipped.

    Returns:
        The mean in 0..1; NaN if no class is present.
    """
    values = np.asarray(iou, np.float64)
    present = values[~np.isnan(values)]
    if not present.size:
        return float("nan")
    return float(present.sum() / (values.size if absent == "zero" else present.size))


def pixel_accuracy(matrix: Matrix) -> float:
    """Return the share of pixels that were given their class, in 0..1; NaN if there is no pixel."""
    total = matrix.sum()
    return float(np.trace(matrix) / total) if total else float("nan")


def class_frequency(matrix: Matrix) -> Shares:
    """Return the share of the true pixels that each class has, (classes,) in 0..1; NaN if there is no pixel."""
    total = matrix.sum()
    shares: Shares = matrix.sum(axis=1) / total if total else np.full(len(matrix), np.nan)
    return shares

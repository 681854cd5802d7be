"""What goes into the training of a detector, and what comes out of a detector: plain values, no ultralytics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from detection.annotations import ImageBoxes
    from detection.recipes import DetectorRecipe


class Detections(NamedTuple):
    """What was found in one image, the most confident first.

    Attributes:
        boxes: (N, 4), float64: left, top, right, bottom [pixels].
        scores: (N,), float64 in [0, 1].
        classes: (N,), int64, numbers of classes.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]


class LabelledImage(NamedTuple):
    """An image file of one row and the objects in it."""

    file: Path
    truth: ImageBoxes


@dataclass(frozen=True)
class TrainingTask:
    """What one training run needs.

    Attributes:
        title: for whoever watches.
        recipe: how to train.
        seed: of everything random.
        classes: names.
        train: images to fit to.
        val: images to choose the epoch by.
        start: tensors to begin with, by name; the rest is drawn.
        folder: of the run; a killed one goes on in it.
        device: where to compute.
    """

    title: str
    recipe: DetectorRecipe
    seed: int
    classes: tuple[str, ...]
    train: Sequence[LabelledImage]
    val: Sequence[LabelledImage]
    start: Mapping[str, torch.Tensor]
    folder: Path
    device: torch.device

"""How images are fitted to the network, and how training images vary; done by albumentations.

One draw moves, scales and turns an image and its mask alike; what has no label gets none by it. Saturation and hue
change nothing in an image without colour, so infrared rows vary in brightness alone, by the same draw.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from segmentation.labels import UNLABELLED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segmentation.recipes import SegmentationTraining

    Levels = NDArray[np.uint8]

VARIATION = 2
"""Goes up when one recipe comes to train on other images: rows from before and after that cannot be compared."""

GREY = 128
"""Level of the border around an image that does not fill its frame."""


def fit(image: Levels, size: tuple[int, int]) -> tuple[Levels, tuple[int, int]]:
    """Fit a whole image into a frame without distortion; what is left to the right and below becomes grey.

    Args:
        image: (H, W, 3) uint8.
        size: height and width of the frame [pixels].

    Returns:
        The frame, (size..., 3) uint8, and height and width of the image in it.
    """
    scaled = _scaled(image, _factor(image.shape, size))
    height, width = scaled.shape[:2]
    frame = np.full((*size, 3), GREY, np.uint8)
    frame[:height, :width] = scaled
    return frame, (height, width)


def vary(
    image: Levels, mask: Levels, training: SegmentationTraining, rng: np.random.Generator
) -> tuple[Levels, Levels]:
    """Cut a training image and its mask out of a varied scene.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) uint8, ids.
        training: of the run.
        rng: decides all that varies.

    Returns:
        Image and mask, of height and width ``training.window``; where the scene does not reach, the image is grey and
        the mask :data:`~segmentation.labels.UNLABELLED`.
    """
    factor = _factor(image.shape, training.size) * rng.uniform(*training.augment.scale)
    change = _changes(training)
    change.set_random_seed(int(rng.integers(2**32)))
    # Not albumentations' scaling: it takes the nearest label with a shift of up to half a pixel against the image.
    changed = change(image=_scaled(image, factor), mask=_scaled(mask, factor, cv2.INTER_NEAREST_EXACT))
    return changed["image"], changed["mask"]


@lru_cache(maxsize=8)
def _changes(training: SegmentationTraining) -> Any:  # noqa: ANN401 - albumentations.Compose
    """Put together what happens to scaled images."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or it asks the network for news of itself when imported
    import albumentations  # type: ignore[import-untyped]

    how, (height, width) = training.augment, training.window
    border = {"border_mode": cv2.BORDER_CONSTANT, "fill": GREY, "fill_mask": UNLABELLED}
    saturation, brightness = ((1 - share, 1 + share) for share in (how.saturation, how.brightness))
    return albumentations.Compose(
        [
            albumentations.PadIfNeeded(height, width, position="random", **border),
            albumentations.RandomCrop(height, width),
            albumentations.HorizontalFlip(p=how.flip),
            albumentations.GaussianBlur(p=how.blur),
            albumentations.Rotate(how.degrees, p=how.rotate, **border),
            albumentations.ColorJitter(brightness, (1, 1), saturation, (-how.hue, how.hue), p=1),
        ]
    )


def _factor(shape: tuple[int, ...], size: tuple[int, int]) -> float:
    """Return by how much an image is to be scaled to fit into a frame."""
    return min(size[0] / shape[0], size[1] / shape[1])


def _scaled(image: Levels, factor: float, interpolation: int | None = None) -> Levels:
    """Scale an image, (H, W) or (H, W, 3), by averaging or blending its pixels unless told otherwise."""
    height, width = (max(1, round(factor * side)) for side in image.shape[:2])
    usual = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(image, (width, height), interpolation=usual if interpolation is None else interpolation)
    return scaled.astype(np.uint8, copy=False)

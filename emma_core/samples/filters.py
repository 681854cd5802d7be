"""Blurring and resizing of float32 images; thin, typed layers over OpenCV."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from emma_core.samples.canvas import Floats


def blurred(image: Floats, sigma: float, sigma_down: float | None = None) -> Floats:
    """Blur (H, W) or (H, W, 3) with a Gaussian of ``sigma`` pixels, or with another one along the columns."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, sigmaY=sigma_down or sigma), np.float32)


def shrunk(image: Floats, size: tuple[int, int]) -> Floats:
    """Reduce to the given height and width, each pixel the mean of what it covers."""
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.float32)


def enlarged(image: Floats, size: tuple[int, int], *, smooth: bool = True) -> Floats:
    """Enlarge to the given height and width, by cubic or (not ``smooth``) linear interpolation."""
    how = cv2.INTER_CUBIC if smooth else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=how), np.float32)

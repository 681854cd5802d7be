"""Fusion rules without training: the baselines that fusion papers compare with.

Each rule takes two grey images, ``infrared`` and ``visible``, float32 (H, W) in [0, 1], and returns the fused
image of the same shape in [0, 1]. Written from the papers named at each rule; filters are OpenCV's and wavelets
are PyWavelets'.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Grey = NDArray[Any]  # float32; OpenCV does not say so in its types
    Rule = Callable[[Grey, Grey], Grey]

SMALLEST_TOP = 8
"""Pyramids and wavelets stop before a level is shorter than this [pixels]."""


def mean(infrared: Grey, visible: Grey) -> Grey:
    """Average of the two images, the simplest rule there is."""
    return (infrared + visible) / 2


def maximum(infrared: Grey, visible: Grey) -> Grey:
    """Pixel-wise maximum: naive, and hard to beat by the usual metrics."""
    return np.maximum(infrared, visible)


def laplacian(infrared: Grey, visible: Grey) -> Grey:
    """Laplacian pyramid (Burt and Adelson, IEEE Trans. Commun. 31, 1983), larger detail wins (Burt 1984)."""
    details = [
        np.where(np.abs(a) >= np.abs(b), a, b)
        for a, b in zip(_laplacian_levels(infrared), _laplacian_levels(visible), strict=True)
    ]
    top = (_gaussian_levels(infrared)[-1] + _gaussian_levels(visible)[-1]) / 2
    return _clip(_collapse(top, details, np.add))


def ratio(infrared: Grey, visible: Grey) -> Grey:
    """Ratio-of-low-pass pyramid, larger contrast wins (Toet, Pattern Recognition Letters 9, 1989)."""
    floor = np.float32(1 / 255)  # one grey level: keeps the ratio of two blacks at one
    first, second = infrared + floor, visible + floor
    contrasts = [
        np.where(np.abs(a - 1) >= np.abs(b - 1), a, b)
        for a, b in zip(_ratio_levels(first), _ratio_levels(second), strict=True)
    ]
    top = (_gaussian_levels(first)[-1] + _gaussian_levels(second)[-1]) / 2
    return _clip(_collapse(top, contrasts, np.multiply) - floor)


def wavelet(infrared: Grey, visible: Grey) -> Grey:
    """Discrete wavelet transform, larger coefficient wins.

    After Li, Manjunath and Mitra (GMIP 57, 1995), in the simple form that papers compare with: coefficient by
    coefficient, without their windows and consistency verification.
    """
    import pywt

    levels = max(0, min(4, int(np.log2(max(1, min(infrared.shape) / SMALLEST_TOP)))))
    if levels == 0:
        return mean(infrared, visible)
    first, second = (pywt.wavedec2(image, "db2", level=levels) for image in (infrared, visible))
    details = [
        tuple(np.where(np.abs(a) >= np.abs(b), a, b) for a, b in zip(one, other, strict=True))
        for one, other in zip(first[1:], second[1:], strict=True)
    ]
    fused = pywt.waverec2([(first[0] + second[0]) / 2, *details], "db2")
    return _clip(fused[: infrared.shape[0], : infrared.shape[1]])


def guided(infrared: Grey, visible: Grey) -> Grey:
    """Guided-filter fusion with the published parameters (Li, Kang and Hu, IEEE Trans. Image Process. 22, 2013)."""
    import cv2

    images = (infrared, visible)
    bases = [cv2.blur(image, (31, 31), borderType=cv2.BORDER_REFLECT) for image in images]
    saliency = [
        cv2.GaussianBlur(np.abs(cv2.Laplacian(image, cv2.CV_32F)), (11, 11), 5, borderType=cv2.BORDER_REFLECT)
        for image in images
    ]
    first_wins = (saliency[0] >= saliency[1]).astype(np.float32)
    winners = (first_wins, 1 - first_wins)
    base_weights = [guided_filter(image, won, 45, 0.3) for image, won in zip(images, winners, strict=True)]
    detail_weights = [guided_filter(image, won, 7, 1e-6) for image, won in zip(images, winners, strict=True)]
    details = [image - base for image, base in zip(images, bases, strict=True)]
    return _clip(_weighted(bases, base_weights) + _weighted(details, detail_weights))


def two_scale(infrared: Grey, visible: Grey) -> Grey:
    """Two scales weighted by visual saliency (Bavirisetti and Dhuli, Infrared Physics & Technology 76, 2016)."""
    import cv2

    images = (infrared, visible)
    bases = [cv2.blur(image, (35, 35), borderType=cv2.BORDER_REFLECT) for image in images]
    medians = [cv2.medianBlur(image, 3) for image in images]
    saliency = [np.abs(base - median) for base, median in zip(bases, medians, strict=True)]
    details = [image - base for image, base in zip(images, bases, strict=True)]
    return _clip((bases[0] + bases[1]) / 2 + _weighted(details, saliency))


def guided_filter(guide: Grey, image: Grey, radius: int, epsilon: float) -> Grey:
    """Smooth an image along the edges of a guide (He, Sun and Tang, IEEE TPAMI 35, 2013).

    Args:
        guide: (H, W) in [0, 1].
        image: (H, W).
        radius: half width of the window [pixels].
        epsilon: variance of the guide [squared grey levels of a 0..1 image] below which it counts as flat.

    Returns:
        (H, W) float32.
    """
    import cv2

    def box(values: Grey) -> Grey:
        return cv2.blur(values, (2 * radius + 1,) * 2, borderType=cv2.BORDER_REFLECT)

    mean_guide, mean_image = box(guide), box(image)
    slope = (box(guide * image) - mean_guide * mean_image) / (box(guide * guide) - mean_guide**2 + epsilon)
    offset = mean_image - slope * mean_guide
    return box(slope) * guide + box(offset)


def _weighted(parts: list[Grey], weights: list[Grey]) -> Grey:
    """Average two parts by weights that need not sum to one; equal shares where both vanish."""
    total = weights[0] + weights[1]
    flat = np.abs(total) < 1e-6
    share = np.where(flat, 0.5, weights[0] / np.where(flat, 1, total))
    blend: Grey = share * parts[0] + (1 - share) * parts[1]
    return blend


def _gaussian_levels(image: Grey) -> list[Grey]:
    import cv2

    levels = [image]
    while len(levels) < 5 and min(levels[-1].shape) >= 2 * SMALLEST_TOP:
        levels.append(cv2.pyrDown(levels[-1]))
    return levels


def _expand(small: Grey, like: Grey) -> Grey:
    import cv2

    return cv2.pyrUp(small, dstsize=(like.shape[1], like.shape[0]))


def _laplacian_levels(image: Grey) -> list[Grey]:
    levels = _gaussian_levels(image)
    return [fine - _expand(coarse, fine) for fine, coarse in pairwise(levels)]


def _ratio_levels(image: Grey) -> list[Grey]:
    return [fine / _expand(coarse, fine) for fine, coarse in pairwise(_gaussian_levels(image))]


def _collapse(top: Grey, details: list[Grey], combine: Callable[[Grey, Grey], Grey]) -> Grey:
    image = top
    for detail in reversed(details):
        image = combine(_expand(image, detail), detail)
    return image


def _clip(image: Grey) -> Grey:
    return np.clip(image, 0.0, 1.0).astype(np.float32)

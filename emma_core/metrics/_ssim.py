"""Structural similarity with a 7 x 7 uniform window (Wang, Bovik, Sheikh & Simoncelli, IEEE TIP 13(4), 2004).

Window sums of grey levels are whole numbers below 2^31, so all cancellation happens in exact int32 and float32 is left
with products and one division.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from emma_core.metrics._strips import strips

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_SIDE = 7
"""Side of the window; smaller images hold none."""

_PIXELS = 49  # in a window
_LUMINANCE_FLOOR = (0.01 * 255) ** 2 * _PIXELS**2  # c1 and c2 of the paper, for sums in place of means
_CONTRAST_FLOOR = (0.03 * 255) ** 2 * _PIXELS * (_PIXELS - 1)


class Windows(NamedTuple):
    """A strip of rows, (h, B, w), and per whole window the sum and 49 * 48 times the variance; int32."""

    image: Tensor
    total: Tensor
    variance: Tensor


def windows(levels: Tensor) -> list[Windows]:
    """Sum over every whole window, strip by strip.

    Args:
        levels: grey levels, (H, B, W), uint8; H and W at least :data:`SMALLEST_SIDE`.
    """
    return [_windows(strip.int()) for strip in strips(levels, overlap=SMALLEST_SIDE - 1)]


def _windows(image: Tensor) -> Windows:
    total = _window_sum(image)
    return Windows(image, total, _window_sum(image * image).mul_(_PIXELS).addcmul_(total, total, value=-1))


def structural_similarity(source: list[Windows], fused: list[Windows]) -> Tensor:
    """Return the mean similarity of the fused image to a source.

    Args:
        source: windows of the source.
        fused: windows of the fused image.

    Returns:
        (B,), float64, in [-1, 1], 1 for a copy.
    """
    maps = [_similarity(*strip) for strip in zip(source, fused, strict=True)]
    windows_in_all = sum(len(similarity) for similarity in maps) * maps[0].shape[-1]
    return torch.stack([similarity.sum((0, 2)).double() for similarity in maps]).sum(0) / windows_in_all


def _similarity(source: Windows, fused: Windows) -> Tensor:
    """Return the similarity in each window, (h-6, B, w-6), float32."""
    product = source.total * fused.total
    covariance = _window_sum(source.image * fused.image).mul_(_PIXELS).sub_(product)
    powers = (source.total * source.total).addcmul_(fused.total, fused.total)
    above = product.float().mul_(2).add_(_LUMINANCE_FLOOR)
    above.mul_(covariance.float().mul_(2).add_(_CONTRAST_FLOOR))
    below = powers.float().add_(_LUMINANCE_FLOOR)
    return above.div_(below.mul_((source.variance + fused.variance).float().add_(_CONTRAST_FLOOR)))


def _window_sum(maps: Tensor) -> Tensor:
    """Sum over every whole 7 x 7 window, one axis after the other, as 4 + 2 + 1 neighbours."""
    for dim in (0, 2):
        count = maps.shape[dim] - 6
        pairs = maps.narrow(dim, 0, count + 5) + maps.narrow(dim, 1, count + 5)
        fours = pairs.narrow(dim, 0, count) + pairs.narrow(dim, 2, count)
        maps = fours.add_(pairs.narrow(dim, 4, count)).add_(maps.narrow(dim, 6, count))
    return maps

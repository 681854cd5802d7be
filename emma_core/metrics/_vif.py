"""Visual information fidelity in the pixel domain, four scales (Sheikh & Bovik, IEEE TIP 15(2), 2006).

Written so that what belongs to the two sources is computed once per pair: a :class:`Pyramid` of either side, then
:func:`visual_information_fidelity` of the two. Double precision: a variance of 1e-10 decides, and float32 holds none
below 1e-3 where the grey level is 255.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import threshold

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_SIDE = 41
"""Below this, the 3 x 3 window of the fourth scale finds no room."""

_WINDOWS = (17, 9, 5, 3)  # sides; the deviation is a fifth of the side
_NOISE = 2.0  # variance of the visual noise, grey levels squared
_TINY = 1e-10
_STRIP = 32  # rows of output per product: few zeros in the band, and long rows for the processor


class Scale(NamedTuple):
    """Images at one scale with their local mean and variance, each (B, C, h, w), float64."""

    image: Tensor
    mean: Tensor
    variance: Tensor


Pyramid = list[Scale]


def pyramid(levels: Tensor) -> Pyramid:
    """Decompose images into the four scales of VIF.

    Args:
        levels: grey levels, (B, C, H, W), uint8; H and W at least :data:`SMALLEST_SIDE`.

    Returns:
        One :class:`Scale` each for windows of 17, 9, 5 and 3.
    """
    image = levels.double()
    image -= image.mean((-2, -1), keepdim=True)  # changes no variance, and a constant image has exactly none
    scales: Pyramid = []
    for size in _WINDOWS:
        if scales:
            image = _smooth(image, size, step=2)
        mean = _smooth(image, size)
        variance = _smooth(image.square(), size).addcmul_(mean, mean, value=-1)
        scales.append(Scale(image, mean, threshold(variance, _TINY, 0.0)))
    return scales


def information(sources: Pyramid) -> Tensor:
    """Return what an observer can take from each source, (B, C), in nats over all windows and scales."""
    return torch.stack([(scale.variance / _NOISE).log1p_().sum((-2, -1)) for scale in sources]).sum(0)


def visual_information_fidelity(sources: Pyramid, available: Tensor, fused: Pyramid) -> Tensor:
    """Return the share of each source's information that the fused image still carries.

    Args:
        sources: pyramid of the sources, C images each.
        available: :func:`information` of the sources, (B, C).
        fused: pyramid of the fused image, one channel.

    Returns:
        (B, C), float64, at least 0, 1 for a copy; 1 where a source has no information to carry (a constant image).
    """
    kept = torch.stack([_kept(source, image) for source, image in zip(sources, fused, strict=True)]).sum(0)
    return torch.where(available > 0, kept / available, 1.0)


def _kept(source: Scale, fused: Scale) -> Tensor:
    """Return the information about the source left in the fused image at one scale, (B, C)."""
    size = source.image.shape[-1] - source.mean.shape[-1] + 1
    common = _smooth(source.image * fused.image, size).addcmul_(source.mean, fused.mean, value=-1)
    common.clamp_(min=0)  # an inverted detail counts as lost
    gain = common / (source.variance + _TINY)
    noise = (fused.variance - common.mul_(gain)).clamp_(min=0).add_(_NOISE)
    return gain.square_().mul_(source.variance).div_(noise).log1p_().sum((-2, -1))


def _smooth(maps: Tensor, size: int, step: int = 1) -> Tensor:
    """Weigh every ``step``-th whole window with a Gaussian of side ``size``; maps are (B, C, H, W)."""
    for _ in range(2):
        maps = _smooth_columns(maps, size, step).mT
    return maps


def _smooth_columns(maps: Tensor, size: int, step: int) -> Tensor:
    """Weigh along the columns, as products with a band matrix: no float64 convolution is as fast on a CPU."""
    band = _band(size, step).to(maps.device)
    count = (maps.shape[-2] - size) // step + 1
    smooth = maps.new_empty(*maps.shape[:-2], count, maps.shape[-1])
    for source, target in zip(maps.flatten(0, 1), smooth.flatten(0, 1), strict=True):
        for first, rows in enumerate(target.split(_STRIP)):
            span = (len(rows) - 1) * step + size
            window = source[first * _STRIP * step :][:span]
            torch.mm(band[: len(rows), :span], window, out=rows)
    return smooth


def _band(size: int, step: int) -> Tensor:
    """Return the matrix whose row r holds a Gaussian window, deviation size / 5, sum 1, from column r * step on."""
    span = (_STRIP - 1) * step + size
    offset = torch.arange(span) - torch.arange(_STRIP)[:, None] * step - size // 2
    weights = torch.exp(-(offset.double() ** 2) / (2 * (size / 5) ** 2)) * (offset.abs() <= size // 2)
    return weights / weights.sum(1, keepdim=True)

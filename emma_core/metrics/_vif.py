"""Visual information fidelity in the pixel domain, four scales (Sheikh & Bovik, IEEE TIP 15(2), 2006).

What belongs to one image is computed once, :func:`pyramid`; :func:`visual_information_fidelity` then compares two.
Double precision up to the logarithm: beside grey levels in the hundreds, float32 loses variances below 1e-3, and smooth
surfaces are full of them.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import threshold

from emma_core.metrics._strips import strips

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_SIDE = 41
"""Below this, the 3 x 3 window of the fourth scale finds no room."""

_WINDOWS = (17, 9, 5, 3)  # sides; the deviation is a fifth of the side
_NOISE = 2.0  # variance of the visual noise, grey levels squared
_TINY = 1e-10
_BLOCK = 64  # rows of one matrix product: more are mostly zeros, fewer mostly overhead


class Strip(NamedTuple):
    """A strip of rows at one scale, (h, B, w), and local mean and variance in its whole windows; float64."""

    image: Tensor
    mean: Tensor
    variance: Tensor


def pyramid(levels: Tensor) -> list[Strip]:
    """Decompose images into the four scales of VIF.

    Args:
        levels: grey levels, (H, B, W), uint8; H and W at least :data:`SMALLEST_SIDE`.

    Returns:
        Strips of all scales, finest first: VIF adds them up alike.
    """
    image = levels.double()
    image -= image.mean((0, 2), keepdim=True)  # changes no variance, and a constant image has exactly none
    scales: list[Strip] = []
    for size in _WINDOWS:
        if scales:
            image = torch.cat([_smooth(strip, size, step=2) for strip in strips(image, size - 1)])
        scales += [_strip(strip, size) for strip in strips(image, size - 1)]
    return scales


def information(source: list[Strip]) -> Tensor:
    """Return what an observer can take from a source, (B,), in nats over all windows and scales."""
    return torch.stack([_nats(strip.variance / _NOISE) for strip in source]).sum(0)


def visual_information_fidelity(source: list[Strip], available: Tensor, fused: list[Strip]) -> Tensor:
    """Return the share of a source's information that the fused image still carries.

    Args:
        source: pyramid of the source.
        available: :func:`information` of the source, (B,).
        fused: pyramid of the fused image.

    Returns:
        (B,), float64, at least 0, 1 for a copy; 1 where the source has no information to carry (a constant image).
    """
    kept = torch.stack([_kept(*strip) for strip in zip(source, fused, strict=True)]).sum(0)
    return torch.where(available > 0, kept / available, 1.0)


def _strip(image: Tensor, size: int) -> Strip:
    mean = _smooth(image, size)
    variance = _smooth(image * image, size).addcmul_(mean, mean, value=-1)
    return Strip(image, mean, threshold(variance, _TINY, 0.0))


def _kept(source: Strip, fused: Strip) -> Tensor:
    """Return the information about the source left in one strip of the fused image, (B,)."""
    size = source.image.shape[-1] - source.mean.shape[-1] + 1
    common = _smooth(source.image * fused.image, size).addcmul_(source.mean, fused.mean, value=-1)
    common.clamp_(min=0)  # an inverted detail counts as lost
    gain = common / (source.variance + _TINY)
    noise = (fused.variance - common.mul_(gain)).clamp_(min=0).add_(_NOISE)
    return _nats(gain.square_().mul_(source.variance).div_(noise))


def _nats(ratio: Tensor) -> Tensor:
    """Sum log(1 + signal / noise) over windows, (B,)."""
    return ratio.float().log1p_().sum((0, 2)).double()


def _smooth(images: Tensor, size: int, step: int = 1) -> Tensor:
    """Weigh every ``step``-th whole window of images, (h, B, w), with a Gaussian of side ``size``."""
    height, batch, width = images.shape
    height, fewer = ((side - size) // step + 1 for side in (height, width))
    rows = images.new_empty(height, batch * width)
    _weigh(images.flatten(1), rows, size, step)
    smooth = images.new_empty(height * batch, fewer)
    _weigh(rows.view(-1, width).T, smooth.T, size, step)
    return smooth.view(height, batch, fewer)


def _weigh(matrix: Tensor, weighed: Tensor, size: int, step: int) -> None:
    """Weigh windows of rows, as products with a band matrix: no float64 convolution is as fast on a processor."""
    band = _band(size, step, matrix.device)
    for number, block in enumerate(torch.split(weighed, _BLOCK)):
        span = (len(block) - 1) * step + size
        torch.mm(band[: len(block), :span], matrix[number * _BLOCK * step :][:span], out=block)


@cache
def _band(size: int, step: int, device: torch.device) -> Tensor:
    """Return the matrix whose row r holds a Gaussian window, deviation size / 5, sum 1, from column r * step on."""
    span = (_BLOCK - 1) * step + size
    offset = torch.arange(span) - torch.arange(_BLOCK)[:, None] * step - size // 2
    weights = torch.exp(-(offset.double() ** 2) / (2 * (size / 5) ** 2)) * (offset.abs() <= size // 2)
    return (weights / weights.sum(1, keepdim=True)).to(device)

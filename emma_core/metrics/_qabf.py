"""Edge preservation Q^AB/F (Xydeas & Petrovic, Electronics Letters 36(4), 2000).

float32 is enough: Sobel sums of grey levels and their squares (below 2^24) are exact, and two different strengths stay
different after the square root.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import pad

from emma_core.metrics._strips import strips

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


class Edges(NamedTuple):
    """Sobel edges of images, (h, B, W), float32: strength in grey levels, orientation in (-pi/2, pi/2]."""

    strength: Tensor
    orientation: Tensor


def sobel(levels: Tensor) -> list[Edges]:
    """Find the edges of images, as if surrounded by black.

    Args:
        levels: grey levels, (H, B, W), uint8.

    Returns:
        For each strip of rows the strength sqrt(Sx^2 + Sy^2) and the orientation atan(Sy / Sx), pi/2 where Sx is 0.
        Sx is left minus right, Sy is below minus above: the sign decides how far a vertical edge is from a slanted
        one.
    """
    surrounded = pad(levels, (1, 1, 0, 0, 1, 1))
    return [_sobel(strip.float()) for strip in strips(surrounded, overlap=2)]


def _sobel(image: Tensor) -> Edges:
    columns = (image[:-2] + image[2:]).add_(image[1:-1], alpha=2)
    rows = (image[..., :-2] + image[..., 2:]).add_(image[..., 1:-1], alpha=2)
    across = columns[..., :-2] - columns[..., 2:]
    up = rows[2:] - rows[:-2]
    orientation = (up / across).atan_().masked_fill_(across == 0, math.pi / 2)
    return Edges(across.square_().addcmul_(up, up).sqrt_(), orientation)


def edge_preservation(sources: Iterable[list[Edges]], fused: list[Edges]) -> Tensor:
    """Return how much of the edges of all sources the fused image keeps, each pixel weighted by its source strength.

    Args:
        sources: edges of each source.
        fused: edges of the fused image.

    Returns:
        (B,), float64, in [0, 1); 0 where no source has an edge.
    """
    pairs = [pair for source in sources for pair in zip(source, fused, strict=True)]
    kept = torch.stack([_sum(_kept(*pair)) for pair in pairs]).sum(0)
    total = torch.stack([_sum(strip.strength) for strip, _ in pairs]).sum(0)
    return torch.where(total > 0, 0.9994 * 0.9879 * kept / total, 0.0)


def _kept(source: Edges, fused: Edges) -> Tensor:
    """Return the strength of the source edges times how much of strength and orientation is kept, (h, B, W)."""
    weakest = torch.minimum(source.strength, fused.strength)
    strongest = torch.maximum(source.strength, fused.strength)
    # Where both are equal the reference evaluator puts the strength itself, which saturates the sigmoid.
    strength = torch.where(weakest == strongest, weakest, weakest / strongest)
    kept = strength.sub_(0.5).mul_(15).sigmoid_()
    alignment = (source.orientation - fused.orientation).abs_().mul_(-2 / math.pi).add_(1)
    return kept.mul_(alignment.sub_(0.8).mul_(22).sigmoid_()).mul_(source.strength)


def _sum(values: Tensor) -> Tensor:
    return values.sum((0, 2)).double()

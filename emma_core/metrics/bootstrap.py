"""Paired bootstrap over images (Efron 1979): how sure a difference between two rows is.

Both rows are scored on the same images, so each draw takes the same images, with repetition, for both; what is hard
about an image cancels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emma_core.chance import stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

DRAWS = 2000

LEAST_IMAGES = 10
"""Of fewer images no interval is given: draws of two images that agree look certain, of one every draw is."""


@dataclass(frozen=True)
class Interval:
    """A figure and the interval that holds it, in its own unit.

    Attributes:
        value: on all images, each counted once.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], ArrayLike],
    images: int,
    *,
    shown: ArrayLike | None = None,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Compute percentile intervals of figures of a set of images.

    Args:
        statistic: from the numbers of the images that are counted, (images,) with repetition, to one figure or
            several. For a difference of two rows it computes both on these images and subtracts. NaN where the images
            define no figure (say, no object of a class among them); such draws are left out of that figure's interval.
        images: number of images; at least 1.
        shown: how many of them each figure is of, if not of all.
        draws: how often images are drawn.
        level: share of draws inside the interval.
        seed: of the draws.

    Returns:
        An interval for each figure; its ends are NaN where no draw defines the figure, and where it is of fewer
        images than :data:`LEAST_IMAGES`.

    Raises:
        ValueError: there is no image, or the level is not between 0 and 1.
    """
    if images < 1 or not 0 < level < 1:
        raise ValueError(f"bootstrap: {images} images, level {level}")
    rng = stream(seed, "bootstrap")
    whole = np.atleast_1d(np.asarray(statistic(np.arange(images)), np.float64))
    enough = np.broadcast_to(images if shown is None else shown, whole.shape) >= LEAST_IMAGES
    if not enough.any():
        return [Interval(float(value), np.nan, np.nan) for value in whole]
    drawn = np.array([np.atleast_1d(statistic(rng.integers(images, size=images))) for _ in range(draws)], np.float64)
    drawn[:, ~enough] = np.nan
    return [_interval(value, column, level) for value, column in zip(whole, drawn.T, strict=True)]


def _interval(value: float, column: NDArray[np.float64], level: float) -> Interval:
    defined = column[np.isfinite(column)]
    if not defined.size or not np.isfinite(value):
        return Interval(float(value), np.nan, np.nan)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))

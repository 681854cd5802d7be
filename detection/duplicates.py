"""Which pairs show nearly the same: frames of one video that a random split would put on both sides.

A difference hash (Krawetz, 2013) of each image, compared between all pairs of the data set and, less strictly,
between neighbours in the order of their ids.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from emma_core.images import read_grey

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from emma_core.pairs import Pair

    Hashes = NDArray[np.bool_]
    Links = NDArray[np.int64]

SIDE = 8  # of the hash: 8 x 8 bits
ALIKE, NEIGHBOUR = 12, 18
"""Bits of 64 in which two pairs may differ, on average of their two images: any two, and neighbours. Of the pairs of
MSRS and RoadScene that are far apart, one in a thousand differs in less than 19, half in less than 30."""
REACH = 3
"""Pairs are neighbours up to so many places apart, in the order of their ids."""


def difference_hash(image: NDArray[np.float32]) -> Hashes:
    """Return whether each cell of a coarse grid is brighter than its left neighbour, (64,) bool.

    Args:
        image: grey, (H, W) in [0, 1], at least 1 x 1.
    """
    import cv2

    small = cv2.resize(image, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small[:, 1:] > small[:, :-1]).ravel()


def hash_pairs(pairs: Sequence[Pair], on_pair: Callable[[], None] = lambda: None) -> Hashes:
    """Hash both images of every pair, (N, 2, 64) bool: infrared, visible.

    Raises:
        ImageError: an image cannot be read.
    """

    def both(pair: Pair) -> list[Hashes]:
        hashes = [difference_hash(read_grey(file)) for file in (pair.infrared, pair.visible)]
        on_pair()
        return hashes

    with ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(both, pairs)))


def near_duplicates(hashes: Hashes) -> Links:
    """List which two pairs show nearly the same, (L, 2), the smaller number first.

    Args:
        hashes: (N, 2, 64), in the order of the ids.
    """
    signs = np.where(hashes, 1.0, -1.0).astype(np.float32).reshape(len(hashes), -1)
    differ = (hashes.shape[-1] - signs @ signs.T / 2) / 2  # bits, on average of the two images
    apart = np.subtract.outer(np.arange(len(hashes)), np.arange(len(hashes)))
    limit = np.where(np.abs(apart) <= REACH, NEIGHBOUR, ALIKE)
    return np.argwhere(np.triu(differ <= limit, 1))


def scenes(count: int, links: Links) -> list[list[int]]:
    """Gather what is linked, directly or through others, into scenes, in the order of their first number."""
    leader = list(range(count))

    def lead(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for one, other in links.tolist():
        first, second = sorted((lead(one), lead(other)))
        leader[second] = first
    groups: dict[int, list[int]] = {}
    for number in range(count):
        groups.setdefault(lead(number), []).append(number)
    return list(groups.values())

"""Fusing one pair of images: colour, any size, and tiles for large ones.

The luma of both images is fused (BT.601); Cb and Cr come from the side that carries the colour. The result has
exactly the size of the input: it is padded by reflection to what the network needs and cropped back, never
resized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from emma_core.errors import DataError, UsageError
from emma_core.images import luma, pad_reflect, read_image, replace_luma, size_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emma_core.datasets import Side
    from emma_core.fusers import Fuser
    from emma_core.images import FloatImage
    from emma_core.pairs import Pair

    Colour = Side | Literal["none"]

TILE = 1024
"""Side of a tile [pixels] where none is chosen."""

TILE_ABOVE = 2_500_000
"""Images with more pixels than this are tiled on their own; docs/tiling.md measures what that changes."""

OVERLAP = 128
"""Pixels over which neighbouring tiles are blended: beyond the reach of the network's convolutions at its two
finest scales; what is left to differ is its channel attention, which sees a whole tile."""


def read_pair(pair: Pair) -> tuple[FloatImage, FloatImage]:
    """Read the two images of a pair, infrared first.

    Raises:
        DataError: one cannot be read, or they differ in size.
    """
    infrared, visible = read_image(pair.infrared), read_image(pair.visible)
    _refuse_other_size(infrared, visible)
    return infrared, visible


def fuse_pair(
    infrared: FloatImage,
    visible: FloatImage,
    fuser: Fuser,
    *,
    colour_from: Colour = "visible",
    tile: int | None = None,
) -> FloatImage:
    """Fuse two aligned images.

    Args:
        infrared: (H, W) or (H, W, 3) in [0, 1], any H, W >= 1; CT, PET or SPECT for medical pairs.
        visible: likewise and of the same H, W; MRI for medical pairs.
        fuser: from :func:`emma_core.fusers.load_fuser`.
        colour_from: the side whose Cb and Cr the result takes; ``none`` for a grey result.
        tile: side of the tiles [pixels]; 0 never tiles; by default only what exceeds :data:`TILE_ABOVE` is tiled.

    Returns:
        The fused image in [0, 1]: (H, W, 3) if the side that carries the colour is colour, else (H, W).

    Raises:
        DataError: the two images differ in size.
        UsageError: the tile is too small, or an image does not hold floats.
    """
    for image in (infrared, visible):
        if not np.issubdtype(image.dtype, np.floating):
            raise UsageError(f"an image of {image.dtype}; expected floats in [0, 1], as read_image gives them")
    _refuse_other_size(infrared, visible)
    fused = _fuse_luma(luma(infrared), luma(visible), fuser, tile)
    if fuser.stretch:
        fused = _stretch(fused)
    if colour_from == "none":
        return fused
    return replace_luma(visible if colour_from == "visible" else infrared, fused)


def tile_spans(length: int, side: int) -> list[slice]:
    """Cover a length by equal, evenly spaced spans that overlap by at least :data:`OVERLAP`.

    Args:
        length: of the image along one axis [pixels].
        side: of a tile [pixels].

    Returns:
        The spans in order; one that covers everything if the tile is long enough.
    """
    if length <= side:
        return [slice(0, length)]
    count = -(-(length - OVERLAP) // (side - OVERLAP))
    starts = np.linspace(0, length - side, count).round().astype(int)
    return [slice(int(start), int(start) + side) for start in starts]


def _refuse_other_size(infrared: FloatImage, visible: FloatImage) -> None:
    if infrared.shape[:2] != visible.shape[:2]:
        sizes = " and ".join(size_text(image.shape) for image in (infrared, visible))
        raise DataError(
            f"the two images differ in size: infrared and visible are {sizes}; they have to lie on each other, pixel "
            "by pixel (register and resample them first)"
        )


def _fuse_luma(infrared: FloatImage, visible: FloatImage, fuser: Fuser, tile: int | None) -> FloatImage:
    height, width = infrared.shape
    side = _tile_side(fuser, height * width, tile)
    if side == 0 or max(height, width) <= side:
        return _fuse_whole(infrared, visible, fuser)
    total = np.zeros((height, width), np.float32)
    weight = np.zeros((height, width), np.float32)
    for rows in tile_spans(height, side):
        for columns in tile_spans(width, side):
            place = (rows, columns)
            ramp = np.outer(_ramp(rows, height), _ramp(columns, width))
            total[place] += ramp * _fuse_whole(infrared[place], visible[place], fuser)
            weight[place] += ramp
    return total / weight


def _fuse_whole(infrared: FloatImage, visible: FloatImage, fuser: Fuser) -> FloatImage:
    height, width = infrared.shape
    tensors = [
        torch.from_numpy(np.ascontiguousarray(pad_reflect(image, fuser.stride, fuser.min_size)))[None, None]
        for image in (infrared, visible)
    ]
    result: FloatImage = fuser(*tensors)[0, 0, :height, :width].numpy()
    return result


def _tile_side(fuser: Fuser, pixels: int, tile: int | None) -> int:
    """Return the side of the tiles, or 0 for none."""
    if tile is None:
        return TILE if fuser.tiles and pixels > TILE_ABOVE else 0
    if tile and tile < 2 * OVERLAP:
        raise UsageError(f"A tile of {tile} pixels is too small; expected 0 (never tile) or at least {2 * OVERLAP}")
    return tile if fuser.tiles else 0


def _ramp(span: slice, length: int) -> NDArray[np.float32]:
    """Weights along one side of a tile: falling towards a neighbour, flat towards the border of the image."""
    size = span.stop - span.start
    distance = np.arange(1, size + 1, dtype=np.float32)
    flat = np.full(size, OVERLAP, np.float32)
    rising = distance if span.start > 0 else flat
    falling = distance[::-1] if span.stop < length else flat
    ramp: NDArray[np.float32] = (np.minimum(np.minimum(rising, falling), flat) / OVERLAP).astype(np.float32)
    return ramp


def _stretch(image: FloatImage) -> FloatImage:
    """Stretch an image to its own minimum and maximum; a constant image stays as it is."""
    low, high = image.min(), image.max()
    return image if high <= low else (image - low) / (high - low)

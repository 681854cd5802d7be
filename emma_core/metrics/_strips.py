"""Images cut into strips of rows: sums over pixels need no more at a time, and a strip stays in the cache.

All statistics behind the metrics keep rows first, (H, B, W), so that a strip is one piece of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_PIXELS = 2**17  # of a strip, on a processor: a megabyte in float64
_ROWS = 16  # at least


def strips(images: Tensor, overlap: int) -> list[Tensor]:
    """Cut images, (H, B, W), into views of consecutive rows that share ``overlap`` rows with the next.

    A window of ``overlap + 1`` rows then lies in exactly one strip. The cut depends on H, B, W and the device alone, so
    that strips of the sources and of the fused image fit each other; it falls on even rows.
    """
    height, batch, width = images.shape
    rows = max(_ROWS, _PIXELS // (batch * width) // 2 * 2) if images.device.type == "cpu" else height + height % 2
    return [images[top : top + rows + overlap] for top in range(0, height - overlap, rows)]

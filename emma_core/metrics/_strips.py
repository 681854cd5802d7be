"""Images cut into strips of rows: a sum over pixels needs no more at a time, and a strip stays in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_PIXELS = 2**14  # of a strip, on a processor; more than one core gains nothing below twice as many
_ROWS = 16  # at least


def strips(images: Tensor, overlap: int) -> list[Tensor]:
    """Cut images, (B, C, H, W), into views of consecutive rows that share ``overlap`` rows with the next.

    Windows of ``overlap + 1`` rows then occur in exactly one strip each. The cut depends on B, H, W and the device
    alone, so that strips of the sources and of the fused image fit each other.
    """
    batch, _, height, width = images.shape
    rows = max(_ROWS, _PIXELS // (batch * width)) if images.device.type == "cpu" else height
    return [images[..., top : top + rows + overlap, :] for top in range(0, height - overlap, rows)]

"""The two networks of EMMA: the U-Fuser that fuses, and the U-Net that stands in for a sensor.

Both work on grey images, (B, 1, H, W) float in [0, 1], take their widths from :mod:`emma_core.config`, and say
which sides they accept (``stride``, ``min_size``); padding and cropping are the caller's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emma_core.errors import UsageError

if TYPE_CHECKING:
    import torch


def check_images(*images: torch.Tensor, stride: int, min_size: int) -> None:
    """Refuse images that a network cannot take.

    Args:
        images: each should be (B, 1, H, W), all of one shape.
        stride: both sides must be multiples of this [pixels].
        min_size: and at least this long [pixels].

    Raises:
        UsageError: an image has another shape; the message names the sides that would fit.
    """
    shape = images[0].shape
    if any(image.shape != shape for image in images):
        raise UsageError(f"Images differ in shape: {' and '.join(str(tuple(image.shape)) for image in images)}")
    if len(shape) != 4 or shape[1] != 1:
        raise UsageError(f"Expected grey images (B, 1, H, W), found {tuple(shape)}")
    height, width = shape[2:]
    if height % stride or width % stride or min(height, width) < min_size:
        raise UsageError(
            f"Image of {height} x {width} pixels: both sides must be multiples of {stride}, at least {min_size}; "
            "pad it by reflection and crop the result"
        )

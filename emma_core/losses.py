"""The distances and terms that EMMA is trained by (arXiv:2305.11443, 3.3.5).

All take grey images (B, 1, H, W) in [0, 1], compute in float32 whatever the network computed in, and return one
number, the mean over the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows

if TYPE_CHECKING:
    from collections.abc import Callable

    from emma_core.training_config import Distance

    DistanceFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def sobel(images: torch.Tensor) -> torch.Tensor:
    """Compute both slopes of images by normalised Sobel kernels, whose absolute values add up to 1.

    Args:
        images: (B, 1, H, W), any H, W >= 1; borders are repeated.

    Returns:
        (B, 2, H, W), float32: along the rows, along the columns; each within half the range of the images.
    """
    kernel = torch.tensor(_SOBEL, device=images.device) / 8
    kernels = torch.stack([kernel, kernel.T])[:, None]
    with torch.autocast(images.device.type, enabled=False):
        return F.conv2d(F.pad(images.float(), (1, 1, 1, 1), mode="replicate"), kernels)


def l1(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference (the paper's loss)."""
    return F.l1_loss(found.float(), wanted.float())


def mse(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference (the authors' code, sensing stage)."""
    return F.mse_loss(found.float(), wanted.float())


def l1_and_gradient(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return l1 of the images plus l1 of their slopes (the authors' code, fuser)."""
    # The slopes are linear: those of the difference are the difference of the slopes, for half the work.
    difference = found.float() - wanted.float()
    return difference.abs().mean() + sobel(difference).abs().mean()


DISTANCES: dict[Distance, DistanceFunction] = {"l1": l1, "mse": mse, "l1+gradient": l1_and_gradient}
"""The distances L by the names that recipes give them."""


def sources(
    distance: DistanceFunction, fused: torch.Tensor, infrared: torch.Tensor, visible: torch.Tensor
) -> torch.Tensor:
    """Return L(f, i) + L(f, v), the traditional loss of Exp. II and III."""
    return distance(fused, infrared) + distance(fused, visible)


def maximum(fused: torch.Tensor, infrared: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return how far intensities are from the larger ones of both sources.

    With :func:`slopes` a plain loss of the field (as in Tang et al., PIAFusion, 2022), for a warm start.
    """
    return l1(fused, torch.maximum(infrared, visible))


def slopes(fused: torch.Tensor, infrared: torch.Tensor, visible: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
    """Return how far slopes are from those of the steeper source, which keep their sign, times a gain.

    A gain above 1 asks for more contrast than either source has.
    """
    one, other = sobel(infrared), sobel(visible)
    steeper = torch.where(one.abs() >= other.abs(), one, other)
    return F.l1_loss(sobel(fused), gain * steeper)

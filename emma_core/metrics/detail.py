"""How much of a source's detail survives in a fused image: what EN, SD, AG, MI, VIF and Qabf leave open.

Those six reward a copy of one source; none says what became of the other. Here each source is followed alone. With g
the gradient of the source and h that of the fused image (Sobel, two components), both taken as vectors over a window of
7 x 7 pixels, its detail survives there by ::

    S = max(0, <g, h>) / (|g| max(|g|, |h|))

which is the smaller of two shares: the contrast that arrives, <g, h> / |g|^2, and the agreement, cos(g, h). So S is 1
where the fused image has the detail in full or amplified and nothing else; c where it arrives with a share c of its
contrast; it falls where other detail buries it; and it is 0 where it is gone, and where it is turned over (dark for
bright), because a reader who knows the source would misread it. The mean over the image weighs each pixel by |g|.

It does not see brightness, colour, or what was added where the source shows nothing, and it cannot tell whose an edge
is that both sources show. Unrelated noise scores about 0.06. The quotient is ours; windows of gradients and weights by
source strength are those of SSIM (Wang et al. 2004) and Qabf (Xydeas and Petrovic 2000).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import avg_pool2d, pad

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 7
"""Side of the window [pixels]; it is cut at the border."""


def detail_survival(source: Tensor, fused: Tensor) -> Tensor:
    """Return the share of a source's detail that survives in fused images.

    Args:
        source: grey levels, (B, H, W).
        fused: of the same shape and device.

    Returns:
        (B,), float32, in [0, 1], higher is better: 1 for a copy, 0 for a constant image; NaN where the source is
        constant and has no detail to lose.
    """
    strength = detail_strength(source)
    return (survival_map(source, fused) * strength).sum((1, 2)) / strength.sum((1, 2))


def survival_map(source: Tensor, fused: Tensor) -> Tensor:
    """Return what survives around each pixel: (B, H, W), float32, in [0, 1], 0 where the source shows nothing.

    Args:
        source: grey levels, (B, H, W).
        fused: of the same shape and device.
    """
    g, h = _gradient(source), _gradient(fused)
    shared, own, other = _window_mean(g * h), _window_mean(g * g), _window_mean(h * h)
    full = (own * torch.maximum(own, other)).sqrt_()
    return torch.where(full > 0, shared / full, 0.0).clamp_(0, 1)


def detail_strength(source: Tensor) -> Tensor:
    """Return how strong the detail of images is: the norm of the gradient, grey levels a pixel, (B, H, W), float32.

    Args:
        source: grey levels, (B, H, W).
    """
    return _gradient(source).square_().sum(1).sqrt_()


def _gradient(levels: Tensor) -> Tensor:
    """Return the Sobel gradient, grey levels a pixel, (B, 2, H, W); a repeated border adds no edge of its own."""
    image = pad(levels[:, None].float(), (1, 1, 1, 1), mode="replicate")
    down = image[..., :-2, :] + 2 * image[..., 1:-1, :] + image[..., 2:, :]
    across = image[..., :-2] + 2 * image[..., 1:-1] + image[..., 2:]
    return torch.cat([down[..., 2:] - down[..., :-2], across[..., 2:, :] - across[..., :-2, :]], dim=1) / 8


def _window_mean(products: Tensor) -> Tensor:
    """Average the sum of both components over the window around each pixel: (B, 2, H, W) to (B, H, W)."""
    return avg_pool2d(products.sum(1, keepdim=True), WINDOW, stride=1, padding=WINDOW // 2)[:, 0]

"""Pseudo-sensing network: what one sensor would have seen of a fused image (arXiv:2305.11443, 3.3.3).

A U-Net (Ronneberger et al., MICCAI 2015) with batch normalisation. Its details follow the authors' released
checkpoints, whose outputs are reproduced to 1e-5.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import nn

from emma_core.models import check_images

if TYPE_CHECKING:
    from emma_core.config import SensingConfig


class SensingUNet(nn.Module):
    """Turns a fused image into the infrared or the visible one.

    Attributes:
        config: its widths, one for each level.
        stride: both sides of an image must be multiples of this [pixels].
        min_size: and at least this long [pixels].
    """

    def __init__(self, config: SensingConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        self.stride = self.min_size = config.stride
        self.encoder = nn.ModuleList(map(DoubleConv, (1, *widths[:-1]), widths))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1, bias=False) for fine, coarse in pairwise(widths)
        )
        self.decoder = nn.ModuleList(DoubleConv(2 * width, width) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], 1, 3, padding=1)
        # Pixel by pixel in memory: faster on a CPU, and what tensor cores want.
        self.to(memory_format=torch.channels_last)

    def forward(self, fused: torch.Tensor) -> torch.Tensor:
        """Compute what the sensor would have seen.

        Args:
            fused: luma, (B, 1, H, W) float in [0, 1]; H and W multiples of ``stride``.

        Returns:
            (B, 1, H, W) in (0, 1).

        Raises:
            UsageError: the sides do not fit.
        """
        check_images(fused, stride=self.stride, min_size=self.min_size)
        x = self.encoder[0](fused)
        skips = []
        for block in self.encoder[1:]:
            skips.append(x)
            x = block(F.max_pool2d(x, 2))
        for up, block in zip(reversed(self.up), reversed(self.decoder), strict=True):
            x = block(torch.cat([F.relu(up(x)), skips.pop()], 1))
        return torch.sigmoid(self.head(x))


class DoubleConv(nn.Module):
    """Twice 3 x 3 convolution, batch normalisation and ReLU; (B, inputs, H, W) to (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)))

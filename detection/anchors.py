"""The anchor-based head of YOLOv5 (Jocher et al., 2020), which today's ultralytics has no more.

So that its public COCO weights can be tried on any input as they are. Backbone and neck are ultralytics' modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

STRIDES = (8, 16, 32)
"""Pixels between two cells of the three grids."""


class AnchorHead(nn.Module):
    """Boxes relative to anchors: one convolution a scale; its tensors are named as in YOLOv5's checkpoints.

    Attributes:
        anchors: (3, A, 2), width and height of the anchors of each scale, in cells.
        m: the convolutions.
    """

    anchors: torch.Tensor

    def __init__(self, classes: int, channels: Sequence[int], anchors: int = 3) -> None:
        """Make an untrained head.

        Args:
            classes: number of classes.
            channels: of the features of each scale.
            anchors: a scale.
        """
        super().__init__()
        self.register_buffer("anchors", torch.ones(len(channels), anchors, 2))
        self.m = nn.ModuleList(nn.Conv2d(width, anchors * (5 + classes), 1) for width in channels)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return what ultralytics' suppression takes, (B, 4 + classes, N): centre and size [pixels], then scores.

        Args:
            features: (B, C, H, W) of each scale, finest first.
        """
        scales = zip(self.m, features, self.anchors, STRIDES, strict=True)
        return torch.cat([self._decode(conv(x), anchors, stride) for conv, x, anchors, stride in scales], dim=2)

    @staticmethod
    def _decode(raw: torch.Tensor, anchors: torch.Tensor, stride: int) -> torch.Tensor:
        batch, _, height, width = raw.shape
        cells = raw.view(batch, len(anchors), -1, height, width).sigmoid()
        rows, columns = torch.meshgrid(
            torch.arange(height, device=raw.device), torch.arange(width, device=raw.device), indexing="ij"
        )
        centre = (2 * cells[:, :, 0:2] - 0.5 + torch.stack([columns, rows])) * stride
        size = (2 * cells[:, :, 2:4]) ** 2 * anchors[:, :, None, None] * stride
        scores = cells[:, :, 4:5] * cells[:, :, 5:]  # objectness times class
        found = torch.cat([centre, size, scores], dim=2)
        return found.permute(0, 2, 1, 3, 4).flatten(2)

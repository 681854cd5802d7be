"""U-Fuser as the papers write it, one operation after the other: what the benchmarks compare with.

The layout of the authors' checkpoints (arXiv:2305.11443, 3.3.2; Restormer, CVPR 2022), with nothing done for speed:
1 x 1 and 3 x 3 convolutions in turn, memory in the usual order, halves of one tensor for gate and content. Its
parameters have the names of :class:`emma_core.models.ufuser.UFuser`, so it takes the same weights; the benchmarks check
that it gives the same output.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import nn

if TYPE_CHECKING:
    from emma_core.config import UFuserConfig
    from emma_core.models.ufuser import UFuser


def plain_copy(network: UFuser) -> PlainUFuser:
    """Make the plain network that computes what ``network`` does, with the weights it has now."""
    plain = PlainUFuser(network.config)
    plain.load_state_dict(network.state_dict())
    return plain


class PlainUFuser(nn.Module):
    """(B, 1, H, W) infrared and visible in [0, 1] to the fused (B, 1, H, W); H and W multiples of 8, at least 16."""

    def __init__(self, config: UFuserConfig) -> None:
        super().__init__()
        widths, heads = config.channels, config.heads

        def blocks(inputs: list[int]) -> nn.ModuleList:
            return nn.ModuleList(map(PlainBlock, inputs, widths, [heads] * len(widths)))

        def halve() -> nn.ModuleList:
            return nn.ModuleList(_conv3x3(width, width, stride=2) for width in widths[:-1])

        self.encoder_visible, self.down_visible = blocks([1, *widths[:-1]]), halve()
        self.encoder_infrared, self.down_infrared = blocks([1, *widths[:-1]]), halve()
        self.fusion = blocks([2 * width for width in widths])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1, bias=False) for fine, coarse in pairwise(widths)
        )
        self.decoder = blocks([*(2 * width for width in widths[:-1]), widths[-1]])
        self.head = _conv3x3(widths[0], 1, bias=True)

    def forward(self, infrared: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Fuse a batch of pairs."""
        features_infrared = self._encode(infrared, self.encoder_infrared, self.down_infrared)
        features_visible = self._encode(visible, self.encoder_visible, self.down_visible)
        skips = [
            block(torch.cat(pair, 1))
            for block, *pair in zip(self.fusion, features_infrared, features_visible, strict=True)
        ]
        x = self.decoder[-1](skips[-1])
        for scale in reversed(range(len(self.up))):
            x = self.decoder[scale](torch.cat([F.relu(self.up[scale](x)), skips[scale]], 1))
        return torch.sigmoid(self.head(x))

    def _encode(self, x: torch.Tensor, blocks: nn.ModuleList, downs: nn.ModuleList) -> list[torch.Tensor]:
        features = [blocks[0](x)]
        for down, block in zip(downs, blocks[1:], strict=True):
            features.append(block(down(features[-1])))
        return features


class PlainBlock(nn.Module):
    """A Restormer block and two residual blocks side by side; (B, inputs, H, W) to (B, channels, H, W)."""

    def __init__(self, inputs: int, channels: int, heads: int) -> None:
        super().__init__()
        self.embed = _conv3x3(inputs, channels)
        self.restormer = nn.Sequential(PlainRestormer(channels, heads))
        self.residual = nn.Sequential(PlainResidual(channels), PlainResidual(channels))
        self.merge = _conv3x3(2 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) to (B, channels, H, W)."""
        x = self.embed(x)
        merged: torch.Tensor = self.merge(torch.cat([self.restormer(x), self.residual(x)], 1))
        return merged


class PlainResidual(nn.Module):
    """Two 3 x 3 convolutions around a ReLU, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, channels, bias=True)
        self.conv2 = _conv3x3(channels, channels, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to the same."""
        refined: torch.Tensor = self.conv2(F.relu(self.conv1(x)))
        return x + refined


class PlainRestormer(nn.Module):
    """Channel attention, then a gated feed-forward network, each on normalised features and added to its input."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = PlainNorm(channels)
        self.attention = PlainAttention(channels, heads)
        self.norm_feed_forward = PlainNorm(channels)
        self.feed_forward = PlainFeedForward(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to the same."""
        x = x + self.attention(self.norm_attention(x))
        refined: torch.Tensor = self.feed_forward(self.norm_feed_forward(x))
        return x + refined


class PlainNorm(nn.LayerNorm):
    """Layer normalisation over the channels of every pixel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to the same."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class PlainAttention(nn.Module):
    """Attention between channels (Restormer, 3.1)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_spatial = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, bias=False)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to the same."""
        heads = self.qkv_spatial(self.qkv(x)).flatten(2).unflatten(1, (3, self.heads, -1))
        query, key, value = F.normalize(heads[:, 0], dim=-1), F.normalize(heads[:, 1], dim=-1), heads[:, 2]
        weights = (query @ key.mT * self.temperature).softmax(-1)
        projected: torch.Tensor = self.project((weights @ value).flatten(1, 2).view_as(x))
        return projected


class PlainFeedForward(nn.Module):
    """Gated-Dconv feed-forward network (Restormer, 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.spatial = nn.Conv2d(
            2 * channels, 2 * channels, 3, padding=1, padding_mode="reflect", groups=channels, bias=False
        )
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to the same."""
        gate, content = self.spatial(self.expand(x)).chunk(2, dim=1)
        projected: torch.Tensor = self.project(F.gelu(gate) * content)
        return projected


def _conv3x3(inputs: int, outputs: int, *, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, padding_mode="reflect", bias=bias)

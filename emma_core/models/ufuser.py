"""U-Fuser: a U-Net of Restormer-CNN blocks that fuses an infrared and a visible image (arXiv:2305.11443, 3.3.2).

The global branch of a block is a Restormer block, attention between channels (Zamir et al., CVPR 2022); the
local branch is residual blocks (He et al., CVPR 2016). What the paper leaves open (activations, borders, the
order of concatenations) follows the authors' released checkpoints, whose outputs are reproduced to 1e-5.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import nn

from emma_core.config import UFuserConfig
from emma_core.models import check_images


class Depth(NamedTuple):
    """How many blocks each branch of a Restormer-CNN block has."""

    restormer: int
    residual: int


FULL_DEPTH = Depth(restormer=1, residual=2)
"""The complete block, as in the authors' checkpoints."""


class UFuser(nn.Module):
    """Fuses two grey images: an encoder each, a fusion block per scale, one decoder with skip connections."""

    stride: ClassVar[int] = UFuserConfig.stride
    """Both sides of an image must be multiples of this [pixels]."""

    min_size: ClassVar[int] = 16
    """Shortest side: borders are reflected, which takes two pixels at the coarsest scale."""

    def __init__(self, config: UFuserConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        depths = [branch_depths(config, width) for width in widths]

        def blocks(inputs: list[int], *, encoder: bool) -> nn.ModuleList:
            chosen = [depth[0] if encoder else depth[1] for depth in depths]
            return nn.ModuleList(map(RestormerCNNBlock, inputs, widths, chosen, [config.heads] * len(widths)))

        def halve() -> nn.ModuleList:
            return nn.ModuleList(ReflectConv(width, width, stride=2) for width in widths[:-1])

        encoder_inputs, twice = [1, *widths[:-1]], [2 * width for width in widths]
        self.encoder_visible, self.down_visible = blocks(encoder_inputs, encoder=True), halve()
        self.encoder_infrared, self.down_infrared = blocks(encoder_inputs, encoder=True), halve()
        self.fusion = blocks(twice, encoder=False)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1, bias=False) for fine, coarse in pairwise(widths)
        )
        self.decoder = blocks([*twice[:-1], widths[-1]], encoder=False)
        self.head = ReflectConv(widths[0], 1, bias=True)
        # Pixel by pixel in memory: up to 1.6 times as fast on a CPU, and what tensor cores want.
        self.to(memory_format=torch.channels_last)

    def forward(self, infrared: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Fuse a batch of pairs.

        Args:
            infrared: (B, 1, H, W) float in [0, 1]; H and W multiples of ``stride``, at least ``min_size``.
            visible: luma, of the same shape.

        Returns:
            The fused luma, (B, 1, H, W) in (0, 1), at least float32 whatever the network computes in.

        Raises:
            UsageError: the sides do not fit, or the shapes differ.
        """
        check_images(infrared, visible, stride=self.stride, min_size=self.min_size)
        features_infrared = _encode(infrared, self.encoder_infrared, self.down_infrared)
        features_visible = _encode(visible, self.encoder_visible, self.down_visible)
        # Popped, so that nothing holds on to features that have been used.
        skips = [block(features_infrared.pop(0), features_visible.pop(0)) for block in self.fusion]
        x = self.decoder[-1](skips.pop())
        for up, block in zip(reversed(self.up), reversed(self.decoder[:-1]), strict=True):
            x = block(F.relu_(up(x)), skips.pop())
        # In bf16 the sigmoid's output near 1 would come in steps of a grey level; its input does not.
        logits = self.head(x)
        return torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))


class RestormerCNNBlock(nn.Module):
    """An embedding, a global and a local branch side by side, and a convolution that merges them.

    A branch of depth 0 is absent, and the merge is as much narrower.
    """

    def __init__(self, inputs: int, channels: int, depth: Depth, heads: int) -> None:
        super().__init__()
        self.embed = ReflectConv(inputs, channels)
        self.restormer = nn.Sequential(*(RestormerBlock(channels, heads) for _ in range(depth.restormer)))
        self.residual = nn.Sequential(*(ResidualBlock(channels) for _ in range(depth.residual)))
        self.merge = ReflectConv(channels * sum(number > 0 for number in depth), channels)

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """Features in one or two tensors, together (B, inputs, H, W), to (B, channels, H, W); H, W >= 2."""
        x = self.embed(*features)
        merged: torch.Tensor = self.merge(*(branch(x) for branch in (self.restormer, self.residual) if len(branch)))
        return merged


class ReflectConv(nn.Conv2d):
    """A 3 x 3 convolution of one or several tensors side by side, with one pixel reflected at the borders."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, bias: bool = False) -> None:
        super().__init__(inputs, outputs, 3, stride=stride, bias=bias)

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """Features, together (B, inputs, H, W), to (B, outputs, H / stride, W / stride); H, W >= 2."""
        together = features[0] if len(features) == 1 else torch.cat(features, 1)
        return F.conv2d(_reflected(together), self.weight, self.bias, self.stride)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a ReLU, added to their input; (B, channels, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ReflectConv(channels, channels, bias=True)
        self.conv2 = ReflectConv(channels, channels, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to the same."""
        refined: torch.Tensor = self.conv2(F.relu_(self.conv1(x)))
        return refined.add_(x)


class RestormerBlock(nn.Module):
    """Attention between channels, then a gated feed-forward layer, each on normalised input and added to it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = ChannelNorm(channels)
        self.attention = ChannelAttention(channels, heads)
        self.norm_feed_forward = ChannelNorm(channels)
        self.feed_forward = GatedFeedForward(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to the same."""
        attended: torch.Tensor = self.attention(self.norm_attention(x)).add_(x)
        refined: torch.Tensor = self.feed_forward(self.norm_feed_forward(attended))
        return refined.add_(attended)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of every pixel; (B, channels, H, W) to the same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to the same."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    """Multi-Dconv head transposed attention (Restormer, 3.1): the scores are between channels, over all pixels.

    Its cost grows with the number of pixels, not with its square. As in the authors' checkpoints, the spatial
    convolution is dense and pads with zeros.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        # With one channel in a head, the softmax runs over one score and is 1: no temperature, query or key matters.
        self.scored = channels > heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1), requires_grad=self.scored)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_spatial = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, bias=False)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def merge(self) -> torch.Tensor:
        """Return the kernel of all queries, keys and values, or of the projected values where nothing is scored."""
        kernel = merged_kernel(self.qkv, self.qkv_spatial)
        if self.scored:
            return kernel
        value = kernel[-self.project.in_channels :]
        return torch.einsum("oi,ihkl->ohkl", self.project.weight.flatten(1), value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to the same."""
        kernel, channels = self.merge(), x.shape[1]
        value = F.conv2d(x, kernel[-channels:], padding=1)
        if not self.scored:
            return value
        # One product holds all scalar products and, on its diagonal, all lengths; in float32, as sums over an image.
        query_key = F.conv2d(x, kernel[: 2 * channels], padding=1).flatten(2).float()
        products = query_key @ query_key.mT
        mixing = attention_mixing(products, self.temperature, self.project.weight)
        # Reshaped with the channels last, or a batch of one loses its layout in memory, and what follows copies it.
        pixels = value.permute(0, 2, 3, 1)
        return (pixels.flatten(1, 2) @ mixing.mT).reshape(pixels.shape).permute(0, 3, 1, 2)


class GatedFeedForward(nn.Module):
    """Gated-Dconv feed-forward network (Restormer, 3.2), no wider than its input; (B, channels, H, W) to the same.

    As in the authors' checkpoints, two channels share a group of the spatial convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.spatial = nn.Conv2d(2 * channels, 2 * channels, 3, groups=channels, bias=False)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def merge(self) -> torch.Tensor:
        """Return the kernel of the gates and the contents."""
        return merged_kernel(self.expand, self.spatial)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to the same."""
        x = _reflected(x)
        # Apart, because halves of one result would lie scattered in memory, where a GELU takes twice as long.
        for_gate, for_content = self.merge().chunk(2)
        projected: torch.Tensor = self.project(F.gelu(F.conv2d(x, for_gate)) * F.conv2d(x, for_content))
        return projected


def merged_kernel(pointwise: nn.Conv2d, spatial: nn.Conv2d) -> torch.Tensor:
    """Return the kernel of the one convolution that equals ``spatial(pointwise(x))``.

    Both are linear without a bias and nothing stands between them, so the product of their kernels does the work
    of both: with a third of the multiplications for queries, keys and values, and without the tiny groups of the
    feed-forward layer, which no library computes quickly.

    Args:
        pointwise: 1 x 1, ``inputs`` to ``inner`` channels.
        spatial: k x k, ``inner`` to ``outputs`` channels, in any number of groups.

    Returns:
        (outputs, inputs, k, k).
    """
    outputs, in_group, *size = spatial.weight.shape
    first = pointwise.weight.reshape(spatial.groups, in_group, -1)
    second = spatial.weight.reshape(spatial.groups, outputs // spatial.groups, in_group, *size)
    return torch.einsum("gic,goikl->gockl", first, second).flatten(0, 1)


def attention_mixing(products: torch.Tensor, temperature: torch.Tensor, project: torch.Tensor) -> torch.Tensor:
    """Return the matrices that weight the values and project them: both are linear between channels.

    Args:
        products: (B, 2 C, 2 C) scalar products of all C queries and C keys, over all pixels, in float32.
        temperature: (heads, 1, 1) factors of the cosines.
        project: (C, C, 1, 1) kernel.

    Returns:
        (B, C, C), of the type of ``project``: its product with the softmax of the cosines in each head.
    """
    channels, heads = len(project), len(temperature)
    inverse_length = products.diagonal(dim1=1, dim2=2).clamp_min(1e-24).rsqrt()
    cosines = products * inverse_length[:, :, None] * inverse_length[:, None, :]
    in_head = channels // heads
    between = cosines[:, :channels, channels:].reshape(-1, heads, in_head, heads, in_head)
    same_head = between.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
    weights = torch.softmax(same_head * temperature, dim=-1).to(project.dtype)
    return torch.einsum("ohc,bhcd->bohd", project.reshape(channels, heads, in_head), weights).flatten(2)


def branch_depths(config: UFuserConfig, channels: int) -> tuple[Depth, Depth]:
    """Say how often the branches are repeated at a scale, in the encoders and in the fusion and decoder blocks.

    Without one branch (paper, Exp. IV and V) the other is repeated until the number of parameters is that of the
    complete network. Whole blocks do that only over two places: for a Restormer block weighs 2.4 times as much
    as two residual blocks, so the encoders get one and the others two. With residual blocks it is 7 and 8.

    Args:
        config: of the network.
        channels: of the scale.

    Returns:
        The depth in each encoder, and in the fusion and the decoder block.
    """
    if config.global_branch and config.local_branch:
        return FULL_DEPTH, FULL_DEPTH
    with torch.device("meta"):
        restormer = _count(RestormerBlock(channels, config.heads))
        residual = _count(ResidualBlock(channels))
        narrower_merge = _count(ReflectConv(channels, channels))
    budget = FULL_DEPTH.restormer * restormer + FULL_DEPTH.residual * residual + narrower_merge
    number = round(2 * budget / (restormer if config.global_branch else residual))
    split = number // 2, number - number // 2
    if config.global_branch:
        return Depth(split[0], 0), Depth(split[1], 0)
    return Depth(0, split[0]), Depth(0, split[1])


def _encode(x: torch.Tensor, blocks: nn.ModuleList, downs: nn.ModuleList) -> list[torch.Tensor]:
    """Return the features at every scale, finest first."""
    features = [blocks[0](x)]
    for down, block in zip(downs, blocks[1:], strict=True):
        features.append(block(down(features[-1])))
    return features


def _reflected(x: torch.Tensor) -> torch.Tensor:
    """Reflect one pixel on each side: (B, C, H, W) to (B, C, H + 2, W + 2)."""
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

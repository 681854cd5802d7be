"""U-Fuser made ready for inference: what :class:`~emma_core.models.ufuser.UFuser` computes, faster and in less memory.

Its maps carry a border that is written in place, oneDNN applies activations, sums and products while it convolves,
and a block works on strips of rows (:mod:`emma_core.models.bordered`). Kernels that stand beside each other are merged
once. What each is worth is in docs/speed.md.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import nn

from emma_core.models import check_images
from emma_core.models.bordered import (
    Convolution,
    clear_,
    constant,
    convolved,
    in_strips,
    pointwise,
    reflect_,
    strips,
    with_border,
)
from emma_core.models.ufuser import attention_mixing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from emma_core.models.ufuser import (
        ChannelNorm,
        ReflectConv,
        ResidualBlock,
        RestormerBlock,
        RestormerCNNBlock,
        UFuser,
    )

    Function = Callable[..., torch.Tensor]

FEW = 16
"""Channels up to which a layer normalisation in float32 is faster as products (docs/speed.md)."""

MANY = 256
"""Channels up to which it is right as products in bfloat16, which has eight digits."""


class FrozenUFuser(nn.Module):
    """Fuses two grey images like the network it was made from, whose later changes it does not see.

    It has no gradients and works in place: call it in ``torch.inference_mode``.
    """

    def __init__(self, network: UFuser) -> None:
        super().__init__()
        self.stride, self.min_size = network.stride, network.min_size

        def blocks(of: Iterable[Any]) -> nn.ModuleList:
            return nn.ModuleList(map(_Block, of))

        def halve(of: Iterable[Any]) -> nn.ModuleList:
            return nn.ModuleList(map(_reflecting, of))

        self.encoder_visible, self.down_visible = blocks(network.encoder_visible), halve(network.down_visible)
        self.encoder_infrared, self.down_infrared = blocks(network.encoder_infrared), halve(network.down_infrared)
        self.fusion, self.decoder = blocks(network.fusion), blocks(network.decoder)
        self.up = nn.ParameterList(map(constant, network.up.parameters()))
        self.head = _reflecting(network.head, border=False)

    def forward(self, infrared: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Fuse a batch of pairs; inputs, output and errors are those of ``UFuser``."""
        check_images(infrared, visible, stride=self.stride, min_size=self.min_size)
        x, y = with_border(infrared), with_border(visible)
        skips = []
        for scale, fusion in enumerate(self.fusion):
            pair = [self.encoder_infrared[scale]([x]), self.encoder_visible[scale]([y])]
            if scale < len(self.up):  # first, because a block writes into the maps it was given
                x, y = self.down_infrared[scale](reflect_(pair[0])), self.down_visible[scale](reflect_(pair[1]))
            skips.append(fusion(pair))
        fused = self.decoder[-1]([skips.pop()])
        for up, block in zip(reversed(self.up), reversed(self.decoder[:-1]), strict=True):
            # Two pixels are cut off on each side instead of one: that is the border, twice as large.
            larger = F.conv_transpose2d(clear_(fused), up, stride=2, padding=2)
            fused = block([F.relu_(larger), skips.pop()])
        # In bf16 the sigmoid's output near 1 would come in steps of a grey level; its input does not.
        logits = self.head(reflect_(fused))
        return torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))


class _Block(nn.Module):
    """A Restormer-CNN block."""

    def __init__(self, block: RestormerCNNBlock) -> None:
        super().__init__()
        self.embed, self.merge = _reflecting(block.embed), _reflecting(block.merge)
        restormer: list[Any] = [*block.restormer]
        residual: list[Any] = [*block.residual]
        self.restormer = nn.ModuleList(map(_Restormer, restormer))
        self.residual = nn.ModuleList(map(_Residual, residual))
        self.scored = any(each.attention.scored for each in restormer)
        self.channels = block.merge.out_channels
        # A convolution embeds, two are in each block of a branch, one merges, and the first of all has its border.
        # Where channels are scored, embedding and all Restormer blocks but the last come before.
        depth = max(1 if self.scored else len(restormer), len(residual))
        self.reach = 2 * depth + (0 if self.scored else 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Maps, together (B, inputs, H + 2, W + 2), to (B, channels, H + 2, W + 2).

        The list is emptied and its maps are written into, so that no more of them are held than needed.
        """
        inputs = [reflect_(maps.pop(0)) for _ in maps[:]]
        if not self.scored:  # it looks at a neighbourhood only
            out = inputs[0] if inputs[0].shape[1] == self.channels else None
            return in_strips(self._at_once, inputs, self.channels, self.reach, out)
        x = embedded = reflect_(self.embed(*inputs))
        inputs.clear()
        for restormer in self.restormer[:-1]:
            attend, inputs = restormer(x)
            x = in_strips(attend, inputs, self.channels, _Restormer.reach)
        attend, inputs = self.restormer[-1](x)
        return in_strips(partial(self._branches, attend), [embedded, *inputs], self.channels, self.reach, embedded)

    def _at_once(self, *maps: torch.Tensor) -> torch.Tensor:
        x = attended = reflect_(self.embed(*maps))
        for restormer in self.restormer:
            attend, inputs = restormer(attended)
            attended = attend(*inputs)
        return self._merged(x, [reflect_(attended)] if len(self.restormer) else [])

    def _branches(self, attend: Function, x: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        return self._merged(x, [reflect_(attend(*inputs))])

    def _merged(self, x: torch.Tensor, attended: list[torch.Tensor]) -> torch.Tensor:
        for number, residual in enumerate(self.residual):
            x = reflect_(residual(x, in_place=number > 0))
        merged: torch.Tensor = self.merge(*attended, *([x] if len(self.residual) else []))
        return merged


class _Residual(nn.Module):
    """Two convolutions around a ReLU, added to their input."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.conv1, self.conv2 = _reflecting(block.conv1), _reflecting(block.conv2)

    def forward(self, x: torch.Tensor, *, in_place: bool) -> torch.Tensor:
        """(B, channels, H + 2, W + 2), its border reflected, to the same."""
        refined: torch.Tensor = self.conv2(
            reflect_(self.conv1(x, then="relu")), then="add_" if in_place else "add", other=x
        )
        return refined


class _Restormer(nn.Module):
    """Attention between channels and a gated feed-forward layer, each added to its input."""

    reach = 1  # of what follows the scores: two convolutions, of which the first has its border

    def __init__(self, block: RestormerBlock) -> None:
        super().__init__()
        attention, feed_forward, norm = block.attention, block.feed_forward, block.norm_feed_forward
        kernel, channels = attention.merge(), attention.project.in_channels
        self.scored = attention.scored
        self.norm_attention, self.norm_feed_forward = _Norm(block.norm_attention), _Norm(norm, scaled=False)
        self.value = Convolution(kernel[-channels:])
        if self.scored:
            self.query_key = Convolution(kernel[:-channels])
            self.temperature, self.mix = constant(attention.temperature), constant(attention.project.weight)
        # Reflected, a constant stays one: what a normalisation multiplies by and adds can go into the kernels after it.
        kernel = feed_forward.merge()
        biases = torch.einsum("oikl,i->o", kernel, norm.bias)
        self.gate, self.content = map(Convolution, (kernel * norm.weight[:, None, None]).chunk(2), biases.chunk(2))
        self.project = Convolution(feed_forward.project.weight)

    def forward(self, x: torch.Tensor) -> tuple[Function, list[torch.Tensor]]:
        """Do with (B, channels, H + 2, W + 2) what takes all of it: score the channels.

        Returns:
            What remains to be done and can be done in strips, and the maps to do it with.
        """
        if not self.scored:
            return self._unscored, [x]
        channels, height = x.shape[1], x.shape[2] - 2
        normal = clear_(in_strips(self.norm_attention, [x], channels, 0))
        rows = math.ceil(height / strips(x, 2 * channels))
        parts = (normal[:, :, first : first + rows + 2] for first in range(0, height, rows))
        products = torch.stack([self._products(part) for part in parts]).sum(0)
        mixing = attention_mixing(products, self.temperature, self.mix)
        if len(x) > 1:
            return partial(self._mixed, mixing), [x, normal]
        # Computing the values and mixing them are both linear: one kernel does both.
        return partial(self._mixed_at_once, torch.einsum("oi,ihkl->ohkl", mixing[0], self.value.kernel)), [x, normal]

    def _unscored(self, x: torch.Tensor) -> torch.Tensor:
        return self._feed_forward(self.value(clear_(self.norm_attention(x)), then="add", other=x))

    def _mixed_at_once(self, kernel: torch.Tensor, x: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
        return self._feed_forward(convolved(normal, kernel, None, [1, 1], [1, 1], "add", x))

    def _mixed(self, mixing: torch.Tensor, x: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
        pixels = self.value(normal).permute(0, 2, 3, 1)
        mixed = (pixels.flatten(1, 2) @ mixing.mT).reshape(pixels.shape).permute(0, 3, 1, 2)
        return self._feed_forward(mixed.add_(x))

    def _products(self, normal: torch.Tensor) -> torch.Tensor:
        """Scalar products of all queries and keys, (B, 2 C, 2 C); in float32, as sums over many pixels."""
        # A border of zeros adds nothing to the sums; without it, the map would have to be copied.
        pixels = clear_(self.query_key(normal)).permute(0, 2, 3, 1).flatten(1, 2).float()
        return pixels.mT @ pixels

    def _feed_forward(self, attended: torch.Tensor) -> torch.Tensor:
        normal = reflect_(self.norm_feed_forward(attended))
        gated = self.content(normal, then="mul", other=self.gate(normal, then="gelu"))
        refined: torch.Tensor = self.project(gated, then="add_", other=attended)
        return refined


class _Norm(nn.Module):
    """Layer normalisation over the channels of every pixel, (B, C, H, W) to the same."""

    def __init__(self, norm: ChannelNorm, *, scaled: bool = True) -> None:
        """Without ``scaled``, what it multiplies by and adds is somebody else's business."""
        super().__init__()
        self.channels, self.eps = norm.weight.numel(), norm.eps
        self.exact = self.channels.bit_count() == 1  # then a type with enough digits has one over it, and 1 less that
        self.weight = constant(norm.weight) if scaled else None
        self.bias = constant(norm.bias) if scaled else None
        average = torch.full((self.channels, self.channels), 1 / self.channels)
        self.average, self.centre = constant(average), constant(torch.eye(self.channels) - average)
        self.epsilon = constant(torch.tensor(self.eps))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fast = {torch.bfloat16: MANY, torch.float32: FEW}.get(x.dtype, 0) >= self.channels
        if self.exact and fast and x.device.type == "cpu":
            return self._products(x)
        pixels = F.layer_norm(x.permute(0, 2, 3, 1), (self.channels,), self.weight, self.bias, self.eps)
        return pixels.permute(0, 3, 1, 2)

    def _products(self, x: torch.Tensor) -> torch.Tensor:
        """Do it in products with matrices, far faster where a pixel has only a few numbers, or bfloat16 ones.

        Those are added up in float32, and what is rounded to bfloat16 is centred before, so no digits cancel out.
        """
        centred = pointwise(x, self.centre)
        variance = pointwise(torch.addcmul(self.epsilon, centred, centred), self.average)
        normal = centred.mul_(variance.rsqrt_())
        if self.weight is None or self.bias is None:
            return normal
        # Row by row: of a few channels at a time, torch would take up to twice as long.
        pixels, width = normal.permute(0, 2, 3, 1), normal.shape[3]
        scaled = torch.addcmul(self.bias.repeat(width), pixels.flatten(2), self.weight.repeat(width))
        return scaled.view(pixels.shape).permute(0, 3, 1, 2)


def _reflecting(convolution: ReflectConv, *, border: bool = True) -> Convolution:
    return Convolution(convolution.weight, convolution.bias, stride=convolution.stride[0], border=border)

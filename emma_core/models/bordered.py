"""Feature maps with a border of one pixel, (B, C, H + 2, W + 2), and what inference does with them.

The border is written in place, by reflection or with zeros, before a convolution needs it, and is of no account
elsewhere. So nothing is copied to be padded: a convolution that pads the border with zeros gives a map that has one
again. What lies pixel by pixel in memory (channels last) stays so. All of it is without gradients.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

Then = Literal["none", "relu", "gelu", "add", "mul", "add_"]
"""What becomes of the output of a convolution: an activation, or a sum or product with another map; ``add_`` writes
the sum into that map."""

STRIP = 2**20
"""Numbers [1] of a map that are worked on at a time on a CPU."""

LANES = 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8
"""Numbers in float32 [1] that the processor multiplies at once."""


def _fused_types() -> frozenset[torch.dtype]:
    """Return the types in which oneDNN does more than convolve, as it does for compiled networks."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise_"):  # type: ignore[no-untyped-call]
        return frozenset()
    half = [torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else []
    return frozenset([torch.float32, *half])


FUSED = _fused_types()
"""Types of numbers with which activations, sums and products on a CPU happen inside a convolution."""


class Convolution(nn.Module):
    """A convolution, with a kernel of 3 x 3 or 1 x 1, of maps with a border that gives maps with a border.

    With fewer outputs than the processor multiplies at once, it computes several pixels side by side as if they were
    the outputs of one: a wider kernel, in which some numbers are 0, makes more multiplications in less time.
    """

    def __init__(
        self, kernel: torch.Tensor, bias: torch.Tensor | None = None, *, stride: int = 1, border: bool = True
    ) -> None:
        """Copy (outputs, inputs, size, size) and (outputs,); without ``border`` the output has none."""
        super().__init__()
        size = kernel.shape[-1]
        self.stride, self.padding = stride, size // 2 * stride if border else 0
        self.kernel, self.bias = constant(kernel), None if bias is None else constant(bias)
        # Nearly all maps are an even number of pixels wide; without its border, the finest is a multiple of eight.
        self.pixels = max(1, min(LANES // len(kernel), 2 if border else 8)) if stride == 1 < size else 1
        if self.pixels > 1:
            self.wide_kernel = constant(side_by_side(kernel, self.pixels))
            self.wide_bias = None if bias is None else constant(bias.repeat(self.pixels))

    def forward(self, *maps: torch.Tensor, then: Then = "none", other: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve maps, together (B, inputs, H + 2, W + 2), to (B, outputs, H / stride + 2, W / stride + 2)."""
        width = maps[0].shape[-1] if self.padding else maps[0].shape[-1] - 2
        pixels = self.pixels if _fused(maps[0]) and width % self.pixels == 0 else 1
        kernel, bias = (self.kernel, self.bias) if pixels == 1 else (self.wide_kernel, self.wide_bias)
        geometry = [self.padding] * 2, [self.stride, self.stride * pixels]
        # One convolution for each map, added up, instead of one of maps that were copied together.
        first, *rest = zip(maps, kernel.chunk(len(maps), 1), strict=True)
        y = convolved(*first, bias, *geometry, then, None if other is None else _regrouped(other, len(kernel)))
        for x, part in rest:
            y = convolved(x, part, None, *geometry, "add_", y)
        return _regrouped(y, len(self.kernel))


def convolved(
    x: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor | None,
    padding: list[int],
    stride: list[int],
    then: Then,
    other: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolve (B, inputs, H, W) and do with the output what ``then`` says."""
    y: torch.Tensor
    if _fused(x):
        onednn, place = torch.ops.mkldnn, (padding, stride, [1, 1], 1)
        if other is None:
            y = onednn._convolution_pointwise(x, kernel, bias, *place, then, [], "none" if then == "gelu" else "")
        elif then == "add_":
            y = onednn._convolution_pointwise_(other, x, kernel, bias, *place, "add", None, None, [], None)
        else:
            y = onednn._convolution_pointwise(x, other, kernel, bias, *place, then, None, None, [], None)
        return y
    y = F.conv2d(x, kernel, bias, stride, padding)
    if other is None:
        return F.relu_(y) if then == "relu" else F.gelu(y) if then == "gelu" else y
    return other.add_(y) if then == "add_" else y.add_(other) if then == "add" else y.mul_(other)


def pointwise(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Multiply the channels of every pixel with a symmetric matrix, in the way that is faster for the type."""
    if x.dtype is torch.bfloat16:
        return convolved(x, matrix[:, :, None, None], None, [0, 0], [1, 1], "none")
    return (x.permute(0, 2, 3, 1) @ matrix).permute(0, 3, 1, 2)


def with_border(x: torch.Tensor) -> torch.Tensor:
    """Put a border around (B, C, H, W), with any numbers in it."""
    batch, channels, height, width = x.shape
    bordered = _empty(x, (batch, channels, height + 2, width + 2))
    bordered[..., 1:-1, 1:-1] = x
    return bordered


def reflect_(x: torch.Tensor) -> torch.Tensor:
    """Make the border a reflection of what is inside, at least 2 x 2, in place."""
    for edge, inner in ((0, 2), (-1, -3)):
        x[:, :, edge].copy_(x[:, :, inner])
    for edge, inner in ((0, 2), (-1, -3)):  # after the rows: they bring the corners
        x[..., edge].copy_(x[..., inner])
    return x


def clear_(x: torch.Tensor) -> torch.Tensor:
    """Make the border 0, in place."""
    for edge in (0, -1):
        x[:, :, edge].zero_()
        x[..., edge].zero_()
    return x


def strips(x: torch.Tensor, channels: int) -> int:
    """Say in how many strips to work on maps of so many channels, as high and as wide as ``x``."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():  # a compiler would write each of them out
        return 1
    return math.ceil(channels * x.shape[2] * x.shape[3] / STRIP)


def in_strips(
    function: Callable[..., torch.Tensor],
    maps: list[torch.Tensor],
    channels: int,
    reach: int,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Apply a function to strips of rows, each with as many rows around it as an output depends on.

    Args:
        function: of maps (B, ..., H + 2, W + 2), which it does not write into, to (B, channels, H + 2, W + 2).
        maps: what it is applied to.
        channels: of its output.
        reach: how far beyond the border of a strip an output depends on pixels.
        out: a map to write into where there are several strips; it may be one of ``maps``.

    Returns:
        The output for the whole maps.
    """
    height = maps[0].shape[2] - 2
    number = min(strips(maps[0], channels), max(1, height - 2 * reach))
    if number == 1:
        return function(*maps)
    # All of a height, so that the memory that one has freed fits the next.
    rows = math.ceil((height - 2 * reach) / number) + 2 * reach
    if out is None:
        out = _empty(maps[0], (len(maps[0]), channels, *maps[0].shape[2:]))
    waiting: list[tuple[slice, torch.Tensor]] = []  # what is done, until no later strip looks at what is there yet
    for place in range(number):
        first = min(place * (rows - 2 * reach), height - rows)
        while waiting and waiting[0][0].stop <= first:
            _write(out, *waiting.pop(0))
        strip = function(*(x[:, :, first : first + rows + 2] for x in maps))
        known = slice(reach + 1 if first else 0, rows + (2 if first + rows == height else 1 - reach))
        waiting.append((slice(first + known.start, first + known.stop), strip[:, :, known]))
    for rest in waiting:
        _write(out, *rest)
    return out


def side_by_side(kernel: torch.Tensor, pixels: int) -> torch.Tensor:
    """Make the kernel, (pixels * outputs, inputs, height, width + pixels - 1), that computes so many pixels at once."""
    *shape, width = kernel.shape
    wide = kernel.new_zeros(pixels, *shape, width + pixels - 1)
    for pixel in range(pixels):
        wide[pixel, ..., pixel : pixel + width] = kernel
    return wide.flatten(0, 1)


def constant(x: torch.Tensor) -> nn.Parameter:
    """Copy a tensor, to be kept and moved with a network."""
    return nn.Parameter(x.detach().clone(), requires_grad=False)


def _fused(x: torch.Tensor) -> bool:
    # A compiler fuses by itself, and expects of these operations another layout in memory than they have.
    return x.device.type == "cpu" and x.dtype in FUSED and not torch.compiler.is_compiling()


def _regrouped(x: torch.Tensor, channels: int) -> torch.Tensor:
    """See pixels side by side as one with more channels, or one as several with fewer; nothing moves in memory."""
    if x.shape[1] == channels:
        return x
    return x.permute(0, 2, 3, 1).view(len(x), x.shape[2], -1, channels).permute(0, 3, 1, 2)


def _write(out: torch.Tensor, rows: slice, content: torch.Tensor) -> None:
    out[:, :, rows].copy_(content)


def _empty(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)

"""Fusion metrics as the field's common evaluator defines them (Tables 1, 2 and 5 of arXiv:2305.11443).

All images are grey, (B, H, W), on any one device, and hold whole grey levels 0..255: how a float image is rounded is
the caller's decision, :func:`grey_levels` is the usual one. Every metric returns (B,), float64. ::

    scores = fusion_metrics(infrared, visible, fused)           # {"EN": (B,), "SD": (B,), ...}
    pair = prepare(infrared, visible)                           # several fused images of one pair
    rows = {name: pair.evaluate(image, ["MI", "VIF"]) for name, image in candidates.items()}
    METRICS["MI"](infrared, visible, fused)                     # one metric; METRICS["MI"].unit is "nats"

Every number is defined for every image: a correlation with a constant image is 0, differences of a single pixel are 0,
VIF with a constant source is 1, Qabf of black sources is 0 (any other constant has an edge where it meets the zero
padding). Only where an image is smaller than the windows of a metric (41 x 41 for VIF, 7 x 7 for SSIM) that metric is
nan, so that one tiny image does not stop a table: average with ``nanmean`` and say how many counted.

Many pairs are best shared out among processes or threads that give torch one thread each (``torch.set_num_threads``).
The metrics can be gamed, by the pixel-wise maximum for one: print the naive rows beside the methods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from emma_core.errors import UsageError
from emma_core.metrics import _histograms, _qabf, _ssim, _vif

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """One fusion metric: what a table needs to print it, and the function behind it.

    Attributes:
        name: column title, the key in :data:`METRICS`.
        title: full name.
        unit: unit of the value, empty for a plain number.
        description: one line: what is computed, and whose idea it is.
        function: the value of a :class:`Triple`, (B,), float64.
        higher_is_better: direction of the arrow in a table.
        digits: decimals to print.
    """

    name: str
    title: str
    unit: str
    description: str
    function: Callable[[Triple], Tensor]
    higher_is_better: bool = True
    digits: int = 2

    def __call__(self, infrared: Tensor, visible: Tensor, fused: Tensor) -> Tensor:
        """Compute this metric alone; arguments and errors as in :func:`fusion_metrics`, value (B,), float64."""
        return self.function(prepare(infrared, visible).triple(fused))


class Statistics:
    """A batch of images and what the metrics need of each alone, computed when first asked for and kept.

    What is kept takes about 50 bytes a pixel.

    Attributes:
        levels: grey levels, (B, H, W), uint8.
    """

    def __init__(self, levels: Tensor) -> None:
        self.levels = levels

    @cached_property
    def rows(self) -> Tensor:
        """The images, rows first: (H, B, W), uint8."""
        return self.levels.transpose(0, 1).contiguous()

    @cached_property
    def edges(self) -> list[_qabf.Edges]:
        """Sobel edges."""
        return _qabf.sobel(self.rows)

    @cached_property
    def windows(self) -> list[_ssim.Windows]:
        """SSIM window statistics."""
        return _ssim.windows(self.rows)

    @cached_property
    def pyramid(self) -> list[_vif.Strip]:
        """VIF scales."""
        return _vif.pyramid(self.rows)

    @cached_property
    def information(self) -> Tensor:
        """What VIF can find in each image as a source, (B,), nats."""
        return _vif.information(self.pyramid)


class PairReference:
    """A batch of source pairs, to score fused images of them.

    Made by :func:`prepare`. Evaluating a second fused image of the same pairs costs little more than half of the
    first, and one that is a source itself less.

    Attributes:
        infrared: the infrared images.
        visible: the visible images.
    """

    def __init__(self, infrared: Tensor, visible: Tensor) -> None:
        self.infrared = Statistics(infrared)
        self.visible = Statistics(visible)

    @property
    def sources(self) -> tuple[Statistics, Statistics]:
        """Both sources, infrared first."""
        return self.infrared, self.visible

    def evaluate(self, fused: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Score fused images of these pairs; arguments, value and errors as in :func:`fusion_metrics`."""
        metrics = _select(names)
        triple = self.triple(fused)
        return {metric.name: metric.function(triple) for metric in metrics}

    def triple(self, fused: Tensor) -> Triple:
        """Join fused images, (B, H, W), grey levels 0..255, to these pairs."""
        source = self.infrared.levels
        levels = _whole_levels("fused", fused)
        if (levels.shape, levels.device) != (source.shape, source.device):
            expected = f"{tuple(source.shape)} on {source.device}, as the sources"
            raise UsageError(f"fused is {tuple(levels.shape)} on {levels.device}; expected {expected}")
        # A table scores the sources as well: what is known of them need not be computed again.
        known = (image for image in self.sources if torch.equal(image.levels, levels))
        return Triple(self, next(known, Statistics(levels)))

    @cached_property
    def joint(self) -> Tensor:
        """Joint histogram of infrared (rows) and visible (columns), (B, 256, 256)."""
        return _histograms.joint_histogram(self.infrared.levels, self.visible.levels)


class Triple:
    """Fused images beside their sources, with the statistics that several metrics share.

    Attributes:
        pair: the sources.
        fused: the fused images.
    """

    def __init__(self, pair: PairReference, fused: Statistics) -> None:
        self.pair = pair
        self.fused = fused

    @cached_property
    def infrared_joint(self) -> Tensor:
        """Joint histogram of infrared (rows) and fused (columns), (B, 256, 256)."""
        return _histograms.joint_histogram(self.pair.infrared.levels, self.fused.levels)

    @cached_property
    def visible_joint(self) -> Tensor:
        """Joint histogram of visible (rows) and fused (columns), (B, 256, 256)."""
        return _histograms.joint_histogram(self.pair.visible.levels, self.fused.levels)

    @cached_property
    def histogram(self) -> Tensor:
        """Histogram of the fused images, (B, 256)."""
        return self.infrared_joint.sum(1)

    def smaller_than(self, side: int) -> bool:
        """Tell whether the images are too small for windows that need ``side`` x ``side`` pixels."""
        return min(self.fused.levels.shape[-2:]) < side

    def undefined(self) -> Tensor:
        """Return nan for every image, (B,), float64."""
        levels = self.fused.levels
        return torch.full(levels.shape[:1], math.nan, dtype=torch.float64, device=levels.device)


def fusion_metrics(
    infrared: Tensor, visible: Tensor, fused: Tensor, names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Score fused images against their sources.

    Args:
        infrared: grey levels, (B, H, W), whole numbers 0..255 of any dtype.
        visible: the same shape and device. For PET and SPECT, infrared is the functional image and visible the MRI.
        fused: the same shape and device.
        names: metrics to compute, keys of :data:`METRICS`; all of them by default.

    Returns:
        Values (B,), float64, by name in the order asked for. On an Apple GPU, which has no float64, they are
        computed on, and stay on, the CPU.

    Raises:
        UsageError: the images differ in shape or device, are empty or hold anything but whole numbers 0..255, or a
            name is unknown.
    """
    return prepare(infrared, visible).evaluate(fused, names)


def prepare(infrared: Tensor, visible: Tensor) -> PairReference:
    """Check source pairs and keep what the metrics need of them, to score several fused images of the same pairs.

    Args:
        infrared: grey levels, (B, H, W), whole numbers 0..255 of any dtype.
        visible: the same shape and device.

    Returns:
        The pairs, ready for :meth:`PairReference.evaluate`.

    Raises:
        UsageError: the images differ in shape or device, are empty, or hold anything but whole numbers 0..255.
    """
    first, second = _whole_levels("infrared", infrared), _whole_levels("visible", visible)
    if (first.shape, first.device) != (second.shape, second.device):
        found = f"infrared is {tuple(first.shape)} on {first.device}, visible {tuple(second.shape)} on {second.device}"
        raise UsageError(f"{found}; expected the same shape and device")
    return PairReference(first, second)


def grey_levels(image: Tensor) -> Tensor:
    """Turn luma in [0, 1] into grey levels as an 8-bit file would hold them.

    Args:
        image: luma, any shape, floating point; values outside [0, 1] are clipped.

    Returns:
        Whole numbers 0..255, half rounded to even; shape and dtype of the input.
    """
    return (image * 255).round_().clamp_(0, 255)


def entropy(triple: Triple) -> Tensor:
    """Return the entropy of the fused grey levels: bits, (B,), in [0, 8]."""
    return _histograms.entropy(triple.histogram) / math.log(2)


def standard_deviation(triple: Triple) -> Tensor:
    """Return the population standard deviation of the fused image: grey levels, (B,), in [0, 127.5]."""
    return _histograms.standard_deviation(triple.histogram)


def spatial_frequency(triple: Triple) -> Tensor:
    """Return the root of the summed mean squares of both first differences: grey levels, (B,); 1 x 1 gives 0."""
    image = triple.fused.levels.float()
    squares = [_mean(image.diff(dim=dim).square_()) for dim in (-2, -1)]
    return (squares[0] + squares[1]).sqrt_()


def average_gradient(triple: Triple) -> Tensor:
    """Return the mean root mean square of both slopes: grey levels, (B,); an axis of one pixel has slope 0.

    Slopes are central differences, one-sided at the border.
    """
    image = triple.fused.levels.float()
    down, across = (_slope(image, dim) for dim in (-2, -1))
    return _mean(down.square_().addcmul_(across, across).div_(2).sqrt_())


def mutual_information(triple: Triple) -> Tensor:
    """Return I(infrared; fused) + I(visible; fused): nats, (B,), at least 0, at most twice the fused entropy."""
    return _histograms.shared_entropy(triple.infrared_joint) + _histograms.shared_entropy(triple.visible_joint)


def visual_information_fidelity(triple: Triple) -> Tensor:
    """Return the share of visual information kept, summed over both sources: (B,); nan below 41 x 41."""
    if triple.smaller_than(_vif.SMALLEST_SIDE):
        return triple.undefined()
    infrared, visible = (
        _vif.visual_information_fidelity(source.pyramid, source.information, triple.fused.pyramid)
        for source in triple.pair.sources
    )
    return infrared + visible


def edge_preservation(triple: Triple) -> Tensor:
    """Return how much of the source edges the fused image keeps: (B,), in [0, 1); 0 where the sources have none."""
    return _qabf.edge_preservation((source.edges for source in triple.pair.sources), triple.fused.edges)


def correlation_of_differences(triple: Triple) -> Tensor:
    """Return corr(infrared, fused - visible) + corr(visible, fused - infrared): (B,), in [-2, 2]."""
    sources = triple.pair.joint
    return _histograms.correlation_with_rest(
        triple.infrared_joint, triple.visible_joint, sources
    ) + _histograms.correlation_with_rest(triple.visible_joint, triple.infrared_joint, sources.mT)


def correlation(triple: Triple) -> Tensor:
    """Return the mean of corr(infrared, fused) and corr(visible, fused): (B,), in [-1, 1]."""
    return (_histograms.correlation(triple.infrared_joint) + _histograms.correlation(triple.visible_joint)) / 2


def structural_similarity(triple: Triple) -> Tensor:
    """Return the mean structural similarity summed over both sources: (B,), in [-2, 2]; nan below 7 x 7."""
    if triple.smaller_than(_ssim.SMALLEST_SIDE):
        return triple.undefined()
    infrared, visible = (
        _ssim.structural_similarity(source.windows, triple.fused.windows) for source in triple.pair.sources
    )
    return infrared + visible


_TABLE = (
    Metric("EN", "entropy", "bits", "256 bins, base 2 (Roberts et al. 2008)", entropy),
    Metric("SD", "standard deviation", "grey levels", "population (Rao 1997)", standard_deviation),
    Metric(
        "SF",
        "spatial frequency",
        "grey levels",
        "first differences of rows and columns (Eskicioglu & Fisher 1995)",
        spatial_frequency,
    ),
    Metric(
        "AG",
        "average gradient",
        "grey levels",
        "central differences, one-sided at the border (Cui et al. 2015)",
        average_gradient,
    ),
    Metric(
        "MI",
        "mutual information",
        "nats",
        "sum over both sources, natural logarithm, 256 bins (Qu et al. 2002)",
        mutual_information,
    ),
    Metric(
        "VIF",
        "visual information fidelity",
        "",
        "sum over both sources, pixel domain, four scales (Sheikh & Bovik 2006)",
        visual_information_fidelity,
    ),
    Metric(
        "Qabf",
        "edge preservation",
        "",
        "strength and orientation of Sobel edges, weighted by the sources (Xydeas & Petrovic 2000)",
        edge_preservation,
    ),
    Metric(
        "SCD",
        "sum of the correlations of differences",
        "",
        "each source with what the fused image adds to the other (Aslantas & Bendes 2015)",
        correlation_of_differences,
    ),
    Metric("CC", "correlation coefficient", "", "mean over both sources (Deshmukh & Bhosale 2010)", correlation),
    Metric(
        "SSIM",
        "structural similarity",
        "",
        "sum over both sources, 7 x 7 uniform window, data range 255 (Wang et al. 2004)",
        structural_similarity,
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Every metric by name, in the order of the tables."""


def _select(names: Iterable[str] | None) -> list[Metric]:
    """Look metrics up by name; all of them for None."""
    chosen = list(METRICS if names is None else names)
    unknown = [name for name in chosen if name not in METRICS]
    if unknown:
        raise UsageError(f"unknown metric {', '.join(map(repr, unknown))}; expected some of {', '.join(METRICS)}")
    return [METRICS[name] for name in chosen]


def _whole_levels(name: str, image: Tensor) -> Tensor:
    """Check one input and return it as uint8."""
    if image.ndim != 3 or not image.numel():
        raise UsageError(f"{name} is {tuple(image.shape)}; expected (B, H, W) with at least one pixel")
    image = image.cpu() if image.device.type == "mps" else image  # which has no float64
    levels = image.to(torch.uint8)
    if not (levels == image).all():
        found = f"{name} holds values in {image.min().item():g}..{image.max().item():g}"
        raise UsageError(f"{found}; expected whole grey levels 0..255, which grey_levels() makes of [0, 1]")
    return levels


def _slope(image: Tensor, dim: int) -> Tensor:
    """Return the slope along an axis, one-sided at its ends, 0 where it has a single pixel; shape of the image."""
    if image.shape[dim] == 1:
        return torch.zeros_like(image)
    (slope,) = torch.gradient(image, dim=dim)
    return slope


def _mean(values: Tensor) -> Tensor:
    """Average each image, (B, ...), in double precision; 0 for no values."""
    return values.sum((-2, -1), dtype=torch.float64) / max(values[0].numel(), 1)

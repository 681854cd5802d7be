"""What histograms of grey levels tell: entropy, mutual information, correlations; no pixel is looked at again.

Counts are whole numbers in double precision, so that moments are exact before the division.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_LEVELS = 256


def joint_histogram(first: Tensor, second: Tensor) -> Tensor:
    """Count pairs of grey levels, both (B, H, W), uint8: (B, 256, 256), float64; rows are levels of the first image."""
    index = first.int().mul_(_LEVELS).add_(second)
    index += torch.arange(len(first), device=first.device).int().view(-1, 1, 1) * _LEVELS**2
    counts = torch.bincount(index.flatten(), minlength=len(first) * _LEVELS**2)
    return counts.view(-1, _LEVELS, _LEVELS).double()


def _values(histogram: Tensor) -> Tensor:
    """Return the grey levels 0..255, (256,), float64, on the device of a histogram."""
    return torch.arange(_LEVELS, dtype=torch.float64, device=histogram.device)


def entropy(counts: Tensor) -> Tensor:
    """Return the entropy of histograms, (B, ...), in nats, (B,)."""
    share = counts.flatten(1) / counts.flatten(1).sum(1, keepdim=True)
    nats: Tensor = torch.special.entr(share).sum(1)
    return nats


def shared_entropy(joint: Tensor) -> Tensor:
    """Return the mutual information of a joint histogram: nats, (B,)."""
    return (entropy(joint.sum(1)) + entropy(joint.sum(2)) - entropy(joint)).clamp_(min=0)


def _mean_and_variance(counts: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return both moments, (B,), of values (n,) seen that often (B, n); exactly 0 variance for a single value."""
    pixels = counts.sum(1)
    mean = counts @ values / pixels  # whole numbers throughout, so exact before the division
    return mean, (counts * (values - mean[:, None]).square()).sum(1) / pixels


def _covariance(joint: Tensor) -> Tensor:
    """Return the covariance of both images of a joint histogram, (B,)."""
    values = _values(joint)
    rows, columns = (values - _mean_and_variance(joint.sum(dim), values)[0][:, None] for dim in (2, 1))
    return torch.einsum("bi,bij,bj->b", rows, joint, columns) / joint.sum((1, 2))


def standard_deviation(counts: Tensor) -> Tensor:
    """Return the population standard deviation of histograms, (B, 256): grey levels, (B,)."""
    return _mean_and_variance(counts, _values(counts))[1].sqrt()


def correlation(joint: Tensor) -> Tensor:
    """Return Pearson's coefficient of both images of a joint histogram, (B,)."""
    rows, columns = (_mean_and_variance(joint.sum(dim), _values(joint))[1] for dim in (2, 1))
    return _ratio(_covariance(joint), (rows * columns).sqrt_())


def correlation_with_rest(own: Tensor, other: Tensor, sources: Tensor) -> Tensor:
    """Correlate a source with what the fused image holds beyond the other source, (B,).

    Args:
        own: joint histogram of this source and the fused image.
        other: joint histogram of the other source and the fused image.
        sources: joint histogram of this source and the other.
    """
    values = _values(own)
    source = _mean_and_variance(own.sum(2), values)[1]
    rest = _mean_and_variance(other.flatten(1), (values[None, :] - values[:, None]).flatten())[1]
    return _ratio(_covariance(own) - _covariance(sources), (source * rest).sqrt_())


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Divide, with 0 where the denominator is 0."""
    return torch.where(below > 0, above / below, 0.0)

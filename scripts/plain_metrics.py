"""The ten fusion metrics as their formulas read, in numpy and scipy: slow, and the yardstick for the library.

Images are grey, (H, W), whole numbers 0..255. Nothing here is shared with ``emma_core.metrics``, so that the tests
and ``benchmark_metrics.py`` compare two independent evaluations.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.signal import convolve2d

Grey: TypeAlias = NDArray[np.float64]


def entropy(image: Grey) -> float:
    """EN in bits."""
    share = np.bincount(image.astype(int).ravel(), minlength=256) / image.size
    return float(-sum(p * np.log2(p) for p in share if p > 0))


def spatial_frequency(image: Grey) -> float:
    """SF in grey levels."""
    across, down = np.diff(image, axis=1), np.diff(image, axis=0)
    return float(np.sqrt(np.mean(across**2) + np.mean(down**2)))


def average_gradient(image: Grey) -> float:
    """AG in grey levels."""
    down, across = np.gradient(image)
    return float(np.mean(np.sqrt((across**2 + down**2) / 2)))


def mutual_information(source: Grey, fused: Grey) -> float:
    """One half of MI, in nats."""
    pairs = np.bincount((source * 256 + fused).astype(int).ravel(), minlength=65536).reshape(256, 256)
    joint = pairs / source.size
    independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    seen = joint > 0
    return float(np.sum(joint[seen] * np.log(joint[seen] / independent[seen])))


def correlation(first: Grey, second: Grey) -> float:
    """Pearson's coefficient; 0 where one image is constant."""
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt(np.sum(first**2) * np.sum(second**2))
    return float(np.sum(first * second) / scale) if scale > 0 else 0.0


def gaussian(size: int) -> Grey:
    """Window of VIF: size x size, sigma size / 5, sum 1."""
    offset = np.arange(size) - size // 2
    window = np.exp(-(offset[:, None] ** 2 + offset[None, :] ** 2) / (2 * (size / 5) ** 2))
    return np.asarray(window / window.sum())


def vif(source: Grey, fused: Grey, noise: float = 2.0, tiny: float = 1e-10) -> float:
    """One half of VIF: pixel domain, four scales."""
    kept = total = 0.0
    for size in (17, 9, 5, 3):
        window = gaussian(size)
        if size < 17:
            source = convolve2d(source, window, mode="valid")[::2, ::2]
            fused = convolve2d(fused, window, mode="valid")[::2, ::2]
        source_mean = convolve2d(source, window, mode="valid")
        fused_mean = convolve2d(fused, window, mode="valid")
        source_power = np.maximum(convolve2d(source**2, window, mode="valid") - source_mean**2, 0)
        fused_power = np.maximum(convolve2d(fused**2, window, mode="valid") - fused_mean**2, 0)
        common = convolve2d(source * fused, window, mode="valid") - source_mean * fused_mean
        gain = common / (source_power + tiny)
        rest = fused_power - gain * common
        flat = source_power < tiny
        gain[flat], rest[flat], source_power[flat] = 0, fused_power[flat], 0
        gain[fused_power < tiny], rest[fused_power < tiny] = 0, 0
        rest[gain < 0] = fused_power[gain < 0]
        gain[gain < 0] = 0
        rest = np.maximum(rest, tiny)
        kept += np.sum(np.log10(1 + gain**2 * source_power / (rest + noise)))
        total += np.sum(np.log10(1 + source_power / noise))
    return float(kept / total) if total > 0 else 1.0


def edges(image: Grey) -> tuple[Grey, Grey]:
    """Sobel strength and orientation, zeros beyond the border."""
    kernel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    across = convolve2d(image, -kernel, mode="same")
    up = convolve2d(image, kernel.T, mode="same")
    vertical = across == 0
    ratio = np.divide(up, across, where=~vertical, out=np.zeros_like(up))
    return np.hypot(across, up), np.where(vertical, np.pi / 2, np.arctan(ratio))


def edge_preservation(source: tuple[Grey, Grey], fused: tuple[Grey, Grey]) -> Grey:
    """How much of each edge of the source the fused image keeps, 0..1."""
    low, high = np.minimum(source[0], fused[0]), np.maximum(source[0], fused[0])
    strength = np.where(low == high, low, low / np.where(high > 0, high, 1))
    orientation = 1 - np.abs(source[1] - fused[1]) / (np.pi / 2)
    strength_kept = 0.9994 / (1 + np.exp(-15 * (strength - 0.5)))
    return np.asarray(strength_kept * 0.9879 / (1 + np.exp(-22 * (orientation - 0.8))))


def qabf(infrared: Grey, visible: Grey, fused: Grey) -> float:
    """Qabf, 0..1; 0 where neither source has an edge."""
    sources, target = (edges(infrared), edges(visible)), edges(fused)
    weight = sum(np.sum(source[0]) for source in sources)
    kept = sum(np.sum(edge_preservation(source, target) * source[0]) for source in sources)
    return float(kept / weight) if weight > 0 else 0.0


def ssim(source: Grey, fused: Grey) -> float:
    """One half of SSIM: 7 x 7 uniform window, data range 255, sample covariance, whole windows only."""

    def local(image: Grey) -> Grey:
        return np.asarray(uniform_filter(image, 7)[3:-3, 3:-3])

    first, second = local(source), local(fused)
    common = (local(source * fused) - first * second) * 49 / 48
    powers = (local(source**2) - first**2 + local(fused**2) - second**2) * 49 / 48
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * first * second + c1) / (first**2 + second**2 + c1)
    return float(np.mean(luminance * (2 * common + c2) / (powers + c2)))


def plain_metrics(infrared: NDArray[Any], visible: NDArray[Any], fused: NDArray[Any]) -> dict[str, float]:
    """All ten numbers of one triple of grey images, (H, W), 0..255, at least 41 x 41."""
    i, v, f = (np.asarray(image, dtype=np.float64) for image in (infrared, visible, fused))
    return {
        "EN": entropy(f),
        "SD": float(np.std(f)),
        "SF": spatial_frequency(f),
        "AG": average_gradient(f),
        "MI": mutual_information(i, f) + mutual_information(v, f),
        "VIF": vif(i, f) + vif(v, f),
        "Qabf": qabf(i, v, f),
        "SCD": correlation(i, f - v) + correlation(v, f - i),
        "CC": (correlation(i, f) + correlation(v, f)) / 2,
        "SSIM": ssim(i, f) + ssim(v, f),
    }

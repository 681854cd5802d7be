"""The measure of surviving detail: what it is, against plain code, and what it promises at its ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import random_image
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from emma_core.metrics.detail import WINDOW, detail_strength, detail_survival, survival_map


def levels(seed, shape=(40, 56)):
    return torch.from_numpy(np.rint(random_image(seed, shape) * 255))[None]


def stripes(rows, columns, *, across):
    """Stripes in one half of an image and nothing in the other."""
    image = torch.zeros(1, rows, columns)
    half = image[..., : columns // 2 - 8] if across else image[..., columns // 2 + 8 :]
    half[..., ::4, :] = 120.0
    half[..., 1::4, :] = 120.0
    return image


def plain_survival(source, fused):
    """The definition in numpy and scipy, one window at a time."""
    gradients = [
        np.stack([ndimage.sobel(image, axis, mode="nearest") / 8 for axis in (0, 1)]) for image in (source, fused)
    ]
    height, width = source.shape
    reach = WINDOW // 2
    shares = np.zeros(source.shape)
    for y in range(height):
        for x in range(width):
            window = np.s_[:, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            g, h = (gradient[window].ravel() for gradient in gradients)
            norm = np.linalg.norm(g) * max(np.linalg.norm(g), np.linalg.norm(h))
            shares[y, x] = max(0.0, float(g @ h) / norm) if norm > 0 else 0.0
    weight = np.linalg.norm(gradients[0], axis=0)
    return shares, float((shares * weight).sum() / weight.sum())


@pytest.mark.parametrize("shape", [(17, 23), (7, 7), (3, 11), (1, 9)])
def test_agrees_with_the_definition(shape):
    source, fused = levels(1, shape), levels(2, shape)
    shares, figure = plain_survival(source[0].double().numpy(), fused[0].double().numpy())
    np.testing.assert_allclose(survival_map(source, fused)[0], shares, atol=1e-5)
    assert float(detail_survival(source, fused)) == pytest.approx(figure, abs=1e-5)


def test_a_batch_is_its_images_one_by_one():
    sources, fused = torch.cat([levels(i) for i in range(3)]), torch.cat([levels(i) for i in range(3, 6)])
    alone = [float(detail_survival(sources[i : i + 1], fused[i : i + 1])) for i in range(3)]
    assert detail_survival(sources, fused).tolist() == pytest.approx(alone, abs=1e-6)


def test_ends_of_the_scale():
    source = levels(3)
    assert float(detail_survival(source, source)) == pytest.approx(1, abs=1e-6)
    assert float(detail_survival(source, torch.full_like(source, 90))) == 0
    assert math.isnan(float(detail_survival(torch.full_like(source, 90), source)))
    assert math.isnan(float(detail_survival(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))))


def test_both_of_two_details_that_lie_apart_survive_in_their_sum():
    left, right = stripes(32, 64, across=True), stripes(32, 64, across=False)
    both = left + right
    for source, other in ((left, right), (right, left)):
        assert float(detail_survival(source, both)) == pytest.approx(1, abs=1e-6)
        assert float(detail_survival(source, other)) == 0


@pytest.mark.parametrize(("factor", "expected"), [(0.5, 0.5), (0.1, 0.1), (2.0, 1.0), (-1.0, 0.0)])
def test_contrast_counts_up_to_that_of_the_source_and_turned_over_it_counts_nothing(factor, expected):
    source = levels(4)
    assert float(detail_survival(source, factor * source)) == pytest.approx(expected, abs=1e-5)


@given(st.integers(0, 200), st.integers(0, 40))
def test_brightness_does_not_matter(offset, seed):
    source, fused = levels(seed), levels(seed + 1)
    expected = float(detail_survival(source, fused))
    assert float(detail_survival(source, fused + offset)) == pytest.approx(expected, abs=1e-6)
    assert float(detail_survival(source + offset, fused)) == pytest.approx(expected, abs=1e-6)


def test_detail_that_another_buries_survives_less():
    source = stripes(32, 64, across=True)
    noise = torch.rand(source.shape, generator=torch.Generator().manual_seed(0)) * 255
    buried = [float(detail_survival(source, source + factor * noise)) for factor in (0, 0.5, 1, 4)]
    assert buried == sorted(buried, reverse=True)
    assert buried[-1] < 0.6 * buried[0]


def test_what_has_nothing_to_do_with_the_source_scores_next_to_nothing():
    draws = torch.Generator().manual_seed(1)
    source, fused = (torch.randint(256, (1, 128, 128), generator=draws) for _ in range(2))
    assert 0.03 < float(detail_survival(source, fused)) < 0.09  # the 0.06 that the module names


def test_strength_of_a_ramp_is_its_slope():
    ramp = torch.arange(20.0).mul(3).repeat(10, 1)[None]
    assert detail_strength(ramp)[0, :, 1:-1].unique().tolist() == [3.0]

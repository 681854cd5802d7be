"""Distances and terms: against the authors' value, and where images are degenerate."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from emma_core import losses


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.data
def test_the_released_loss_is_the_authors(reference):
    wanted = json.loads((reference / "released_checkpoint_layout_seed7.json").read_text())
    images = []
    for name in ("infrared", "visible"):
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"7:{name}".encode())))
        images.append(torch.from_numpy(rng.random((64, 80)).astype(np.float32))[None, None])
    found = losses.DISTANCES["l1+gradient"](*images).item()
    assert found == pytest.approx(wanted["loss_intensity_plus_gradient(infrared,visible)"], abs=1e-6)


def test_sobel_is_scipys_divided_by_eight():
    image = noise(0, 9, 13)
    slopes = losses.sobel(image)[0].numpy()
    for slope, axis in zip(slopes, (1, 0), strict=True):
        np.testing.assert_allclose(slope, ndimage.sobel(image[0, 0].numpy(), axis, mode="nearest") / 8, atol=1e-6)


@pytest.mark.parametrize("name", sorted(losses.DISTANCES))
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (16, 16)])
def test_distances_are_zero_for_equal_images_only_and_symmetric(name, shape):
    distance, one, other = losses.DISTANCES[name], noise(1, *shape), noise(2, *shape)
    assert distance(one, one) == 0
    assert distance(one, other) == distance(other, one) > 0


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12))
def test_intensity_and_gradient_add_up(height, width):
    one, other = noise(1, height, width), noise(2, height, width)
    total = losses.l1(one, other) + losses.l1(losses.sobel(one), losses.sobel(other))
    torch.testing.assert_close(losses.l1_and_gradient(one, other), total)


def test_a_constant_difference_has_no_gradient_term():
    one = noise(1, 8, 8)
    assert losses.l1(one, one + 0.25).item() == pytest.approx(0.25)
    assert losses.l1_and_gradient(one, one + 0.25).item() == pytest.approx(0.25)


def test_half_precision_images_are_compared_in_float32():
    one, other = noise(1, 8, 8).bfloat16(), noise(2, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        for distance in losses.DISTANCES.values():
            assert distance(one, other).dtype == torch.float32


@pytest.mark.parametrize("term", [losses.maximum, losses.slopes])
def test_the_plain_terms_vanish_where_one_image_is_brighter_and_steeper(term):
    bright, dark = noise(1, 8, 8) + 1, torch.zeros(2, 1, 8, 8)
    assert term(bright, bright, dark) == term(bright, dark, bright) == 0
    assert term(dark, bright, dark) > 0


def test_a_gain_asks_for_more_contrast():
    image = noise(1, 8, 8)
    torch.testing.assert_close(losses.slopes(1.5 * image, image, image, 1.5), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert losses.slopes(image, image, image, 1.5) > 0


def test_the_traditional_loss_pulls_to_both_sources():
    one, other = noise(1, 8, 8), noise(2, 8, 8)
    between = losses.sources(losses.l1, (one + other) / 2, one, other)
    torch.testing.assert_close(between, losses.l1(one, other))
    for source in (one, other):
        assert losses.sources(losses.l1, source, one, other) == losses.l1(one, other)

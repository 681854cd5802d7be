"""Images that vary: the same draw for image and mask, each kind of change by itself, and a frame without distortion."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from emma_core.chance import stream
from segmentation.augment import GREY, fit, vary
from segmentation.labels import UNLABELLED
from segmentation.recipes import AugmentConfig, SegmentationTraining

STILL = AugmentConfig(scale=(1.0, 1.0), flip=0, blur=0, rotate=0, brightness=0, saturation=0, hue=0)
TINY = SegmentationTraining(size=(64, 96))


def scene(seed: int, shape=(60, 80)) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of classes, and an image whose red channel tells the class."""
    blocks = np.random.default_rng(seed).integers(9, size=(shape[0] // 20, shape[1] // 20)).astype(np.uint8)
    mask = np.kron(blocks, np.ones((20, 20), np.uint8))
    return np.stack([20 * mask, np.full_like(mask, 90), 255 - 20 * mask], axis=-1), mask


GEOMETRY = replace(STILL, scale=(0.5, 2.0), flip=0.5, rotate=1.0)


@pytest.mark.parametrize("seed", range(6))
def test_image_and_mask_are_moved_alike(seed):
    training = SegmentationTraining(size=(64, 80), crop=(64, 64), augment=GEOMETRY)
    image, mask = vary(*scene(seed), training, stream(seed, "test"))
    assert image.shape == (64, 64, 3)
    assert mask.shape == (64, 64)
    outside = mask == UNLABELLED
    # Away from edges, where the image is blended and the mask is not, the colour still tells the class.
    inner = np.pad(np.ones((58, 58), bool), 3)
    for step in product(range(-3, 4), repeat=2):
        inner &= np.roll(mask, step, (0, 1)) == mask
    assert inner.mean() > 0.3
    assert np.abs(image[..., 0][inner & ~outside] / 20 - mask[inner & ~outside]).max() < 0.5
    assert (image[inner & outside] == GREY).all()


def test_all_draws_differ_and_come_back():
    training = replace(TINY, augment=replace(GEOMETRY, brightness=0.3, saturation=0.7, hue=0.05))
    first = [vary(*scene(0), training, stream(0, "vary", number)) for number in range(6)]
    again = [vary(*scene(0), training, stream(0, "vary", number)) for number in range(6)]
    assert len({image.tobytes() for image, _ in first}) == 6
    for (image, mask), (image_again, mask_again) in zip(first, again, strict=True):
        assert np.array_equal(image, image_again)
        assert np.array_equal(mask, mask_again)


def test_colour_varies_only_where_there_is_colour():
    colourful = replace(TINY, augment=replace(STILL, brightness=0.3, saturation=0.7, hue=0.05))
    image, mask = scene(0)
    grey = np.repeat(image[..., :1], 3, axis=2)
    hues = []
    for number in range(5):
        varied, same = vary(grey, mask, colourful, stream(0, "vary", number))
        assert (varied == varied[..., :1]).all()
        assert np.array_equal(same, vary(grey, mask, replace(TINY, augment=STILL), stream(0, "vary", number))[1])
        hues.append(vary(image, mask, colourful, stream(0, "vary", number))[0].astype(float).std(axis=-1).mean())
    assert np.ptp(hues) > 1


@pytest.mark.parametrize("shape", [(60, 80), (31, 90), (97, 13), (1, 1)])
def test_a_whole_image_fits_its_frame(shape):
    image = np.full((*shape, 3), 200, np.uint8)
    frame, (height, width) = fit(image, (64, 96))
    assert frame.shape == (64, 96, 3)
    assert (frame[:height, :width] == 200).all()
    assert (frame[height:] == GREY).all()
    assert (frame[:, width:] == GREY).all()
    assert height == 64 or width == 96
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.1)


def varied(image: np.ndarray, mask: np.ndarray, number: int = 0, **change: object) -> tuple[np.ndarray, np.ndarray]:
    """An image of the size of its frame after one kind of change alone."""
    training = SegmentationTraining(size=(64, 80), augment=replace(STILL, **change))
    return vary(image, mask, training, stream(0, "vary", number))


def framed() -> tuple[np.ndarray, np.ndarray]:
    """A scene that fills its frame, with a grain that a blur would smooth."""
    image, mask = (np.ascontiguousarray(part[:64]) for part in scene(1, (80, 80)))
    grain = np.random.default_rng(0).integers(-15, 16, size=image.shape)
    return np.clip(image.astype(int) + grain, 0, 255).astype(np.uint8), mask


def test_without_any_change_the_image_stays():
    for found, wanted in zip(varied(*framed()), framed(), strict=True):
        assert np.array_equal(found, wanted)


def test_a_mirrored_image_is_mirrored_and_half_of_them_are():
    image, mask = framed()
    for found, wanted in zip(varied(image, mask, flip=1), (image, mask), strict=True):
        assert np.array_equal(found, wanted[:, ::-1])
    mirrored = [not np.array_equal(varied(image, mask, number, flip=0.5)[0], image) for number in range(20)]
    assert 3 < sum(mirrored) < 17


def test_a_turned_image_keeps_its_middle_and_has_corners_without_a_label():
    image, mask = framed()
    turned = [varied(image, mask, number, rotate=1, degrees=10) for number in range(8)]
    assert max((found == UNLABELLED).sum() for _, found in turned) > 50
    for found, labels in turned:
        assert not np.array_equal(found, image)
        assert (labels[28:36, 36:44] == mask[28:36, 36:44]).mean() > 0.8
        assert (labels == UNLABELLED).mean() < 0.3  # by 10 degrees, not by any angle


def test_a_blurred_image_has_less_grain_and_the_same_mask():
    image, mask = framed()
    blurred, same = varied(image, mask, blur=1)
    grain = [np.abs(np.diff(levels.astype(int), axis=1)).mean() for levels in (image, blurred)]
    assert grain[1] < 0.8 * grain[0]
    assert abs(blurred.mean() - image.mean()) < 1
    assert np.array_equal(same, mask)


def test_a_brighter_image_is_brighter_everywhere_by_one_share():
    image, mask = framed()
    image //= 2  # nothing is cut off at white
    shares = []
    for number in range(12):
        brighter, same = varied(image, mask, number, brightness=0.3)
        shares.append(brighter.mean() / image.mean())
        assert np.abs(brighter - shares[-1] * image).max() < 2
        assert np.array_equal(same, mask)
    assert 0.69 < min(shares) < 0.9
    assert 1.1 < max(shares) < 1.31


def test_saturation_and_hue_change_colours_each_by_itself():
    image, mask = framed()
    spread = [np.ptp(varied(image, mask, number, saturation=0.7)[0].astype(int), axis=2).mean() for number in range(8)]
    assert min(spread) < 0.8 * np.ptp(image.astype(int), axis=2).mean() < max(spread)
    turned = [varied(image, mask, number, hue=0.05)[0].astype(int) for number in range(8)]
    assert max(np.abs(found - image).mean() for found in turned) > 2
    for found in turned:
        assert abs(found.max(axis=2).mean() - image.max(axis=2).mean()) < 1


@pytest.mark.parametrize(("factor", "labelled"), [(0.5, 1 / 4), (0.25, 1 / 16), (2.0, 1.0)])
def test_a_scaled_image_is_that_much_smaller_or_larger(factor, labelled):
    image, mask = np.full((64, 80, 3), 200, np.uint8), np.zeros((64, 80), np.uint8)
    mask[20:40, 30:60] = 1
    found, labels = varied(image, mask, scale=(factor, factor))
    assert found.shape == image.shape
    assert (labels != UNLABELLED).mean() == pytest.approx(labelled)
    assert (found[labels != UNLABELLED] == 200).all()
    if factor < 1:
        assert (labels == 1).sum() == pytest.approx(600 * factor**2, rel=0.2)


@pytest.mark.parametrize("change", [{"scale": (factor,) * 2} for factor in (0.4, 0.7, 1.3, 1.7)] + [{"rotate": 1}])
def test_masks_lie_exactly_on_their_images(change):
    row, column = np.mgrid[:64, :80]
    off = []
    for number in range(12):
        disk = ((row - 31 - number / 7) ** 2 + (column - 39 + number / 5) ** 2 < 15**2).astype(np.uint8)
        image, mask = varied(np.stack([255 * disk] * 3, axis=-1), disk, number, **change)
        weights = [image[..., 0] * (mask != UNLABELLED), (mask == 1).astype(float)]
        (y, x), (mask_y, mask_x) = ([np.average(axis, weights=w) for axis in (row, column)] for w in weights)
        off.append((mask_y - y, mask_x - x))
    assert np.abs(np.mean(off, axis=0)).max() < 0.1


def test_scales_are_drawn_from_the_whole_range():
    image, mask = np.full((64, 80, 3), 200, np.uint8), np.zeros((64, 80), np.uint8)
    shares = [(varied(image, mask, number, scale=(0.25, 1.0))[1] == 0).mean() ** 0.5 for number in range(40)]
    assert 0.24 < min(shares) < 0.4
    assert 0.85 < max(shares) <= 1

"""Scoring a row: it is read from its own images, at their own size, by a segmenter whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import write_pairs
from torch import nn

from emma_core.images import write_image
from emma_core.rows import InputRow, source_rows
from segmentation.data import RowImages, find_data
from segmentation.evaluation import evaluate_row, predict
from segmentation.labels import SegmentationSpec, read_mask, write_mask

CPU, SIZE = torch.device("cpu"), (64, 96)
TOY = SegmentationSpec(
    "toy",
    ("Red", "Green", "Blue"),
    ((255, 0, 0), (0, 255, 0), (0, 0, 255)),
    "{split}/masks",
    infrared="{split}/ir",
    visible="{split}/vi",
)


class Brightest(nn.Module):
    """Takes each pixel for the class of its brightest channel."""

    classes = 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.fixture
def world(tmp_path):
    """Red infrared, green visible and blue fused images; half of each test mask is red, a quarter green and blue."""
    shape = (24, 32)
    for split in ("train", "test"):
        write_pairs(tmp_path / split, 2, shape=shape)
        for index in range(2):
            for folder, channel in (("ir", 0), ("vi", 1), ("fused", 2)):
                image = np.zeros((*shape, 3), np.float32)
                image[..., channel] = 1
                write_image(tmp_path / split / folder / f"{index:03d}.png", image)
            mask = np.zeros(shape, np.uint8)
            mask[:, 16:24], mask[:, 24:] = 1, 2
            write_mask(tmp_path / split / "masks" / f"{index:03d}.png", mask, TOY)
    data = find_data(TOY, tmp_path)
    files = {pair.key: pair.infrared.parent.parent / "fused" / pair.infrared.name for pair in data.pairs.pairs}
    return data, (*source_rows(data.pairs), InputRow("EMMA", files, {}))


def test_each_row_is_scored_on_its_own_images(world, tmp_path):
    data, rows = world
    for channel, row in enumerate(rows):
        matrices = evaluate_row(Brightest(), row, data, SIZE, CPU, tmp_path / row.name)
        wanted = np.zeros((3, 3), np.int64)
        wanted[:, channel] = 24 * 16, 24 * 8, 24 * 8
        assert matrices.tolist() == [wanted.tolist()] * 2
        assert (read_mask(tmp_path / row.name / "test" / "001.png", TOY) == channel).all()


def test_where_zero_is_ignored_masks_and_predictions_have_ids_from_one(world, tmp_path):
    data, (infrared, *_) = world
    spec = replace(TOY, ignore=0)
    for pair in data.test.pairs:
        mask = read_mask(data.masks[pair.key], TOY)
        mask[:4] = 255
        write_mask(data.masks[pair.key], mask, spec)  # 255 becomes 0, and what was 0 becomes 1
    matrices = evaluate_row(Brightest(), infrared, replace(data, spec=spec), SIZE, CPU, tmp_path / "found")
    assert matrices[0].tolist() == [[20 * 16, 0, 0], [20 * 8, 0, 0], [20 * 8, 0, 0]]
    assert (read_mask(tmp_path / "found" / "test" / "000.png", spec) == 0).all()
    assert (read_mask(tmp_path / "found" / "test" / "000.png", TOY) == 1).all()


def test_each_row_is_trained_on_its_own_images(world):
    data, rows = world
    for channel, row in enumerate(rows):
        images = RowImages(row, data, data.train)
        for index in range(2):
            image, mask = images[index]
            assert image.reshape(-1, 3).max(axis=0).tolist() == [255 * (channel == each) for each in range(3)]
            assert np.array_equal(mask, read_mask(data.masks[f"train/{index:03d}"], TOY))


@pytest.mark.parametrize("shape", [(64, 96), (48, 96), (64, 48), (31, 90), (200, 100), (97, 40), (30, 300)])
def test_classes_are_found_where_they_are_whatever_the_shape(shape):
    """Quarters of an image that does not fill its frame: without its crop the border would push them aside."""
    height, width = shape
    image = np.zeros((*shape, 3), np.uint8)
    image[: height // 2, : width // 2, 0] = image[: height // 2, width // 2 :, 1] = 255
    image[height // 2 :, :, 2] = 255
    found = predict(Brightest(), image, SIZE, CPU)
    assert found.shape == shape
    assert found.dtype == np.uint8
    factor = min(SIZE[0] / height, SIZE[1] / width)
    near = int(np.ceil(1 / factor)) + 1  # edges are blended
    wanted = image.argmax(axis=2)
    inner = np.ones(shape, bool)
    inner[max(0, height // 2 - near) : height // 2 + near] = False
    inner[: height // 2, max(0, width // 2 - near) : width // 2 + near] = False
    assert inner.mean() > 0.3
    assert np.array_equal(found[inner], wanted[inner])

"""Crops and scenes: what is dropped, what is named, and that crop n is crop n."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from conftest import random_image, write_pairs

from emma_core.datasets import folder_spec
from emma_core.errors import DataError
from emma_core.images import write_image
from emma_core.pairs import find_pairs
from emma_core.patches import Crops, Numbers, crop_batches, has_contrast
from emma_core.scenes import Scene, hold_out, open_scenes, with_teachers
from emma_core.training_config import CropConfig

SMALL = CropConfig(size=16, flips=True, exposure=0.5, gamma=0.5)


def scenes_of(root, teachers=()):
    pairs = find_pairs(folder_spec("mine", root / "ir", root / "vi"), root)
    return open_scenes(with_teachers("mine", pairs.pairs, teachers))


@pytest.fixture
def root(tmp_path):
    return write_pairs(tmp_path / "pairs", 6, shape=(40, 48))


def crops_of(opened, config=SMALL, seed=0, **options):
    return Crops(opened.scenes, opened.reader, config, seed, **options)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("image", "kept"),
    [
        (np.zeros((8, 8), np.uint8), False),
        (np.full((8, 8), 200, np.uint8), False),
        (np.full((1, 1), 255, np.uint8), False),
        (np.arange(64, dtype=np.uint8).reshape(8, 8), True),
        (200 + np.arange(64, dtype=np.uint8).reshape(8, 8) // 8, False),
    ],
)
def test_the_contrast_filter(image, kept):
    assert has_contrast(image, 0.1) is kept


def test_contrast_is_between_the_tenth_and_the_ninetieth_percentile():
    image = np.full((1, 101), 100, np.uint8)
    image[0, :11] = 90
    assert has_contrast(image, 0.1)  # (100 - 90) / 100
    assert not has_contrast(image, 0.101)
    image[0, :10], image[0, 10] = 0, 100  # one pixel too few for the tenth percentile
    assert not has_contrast(image, 0.001)


def test_without_a_threshold_only_black_is_dropped():
    assert has_contrast(np.full((8, 8), 7, np.uint8), 0.0)
    assert not has_contrast(np.zeros((8, 8), np.uint8), 0.0)


@pytest.mark.parametrize("placing", ["random", "grid"])
@pytest.mark.parametrize("black", [("ir", "vi"), ("ir",), ("vi",)])
def test_a_pair_with_a_black_image_gives_no_crop(root, placing, black):
    for folder in ("ir", "vi"):
        write_image(root / folder / "black.png", (folder not in black) * random_image(7, (40, 48)))
    opened = scenes_of(root)
    assert len(opened.scenes) == 7
    crops = crops_of(opened, CropConfig(size=16, stride=16, placing=placing))
    for number in range(3 * len(crops)):
        assert min(image.max() for image in crops[number].values()) > 0


def test_nothing_but_black_is_an_error(tmp_path):
    for folder in ("ir", "vi"):
        write_image(tmp_path / folder / "black.png", np.zeros((40, 48), np.float32))
    with pytest.raises(DataError, match="No crop with contrast"):
        crops_of(scenes_of(tmp_path))[0]
    with pytest.raises(DataError, match="None of 1 pairs has a crop"):
        crops_of(scenes_of(tmp_path), CropConfig(size=16, placing="grid"))


def test_crop_n_is_crop_n_whoever_asks_and_when(root):
    opened = scenes_of(root)
    first, later = crops_of(opened), crops_of(scenes_of(root))
    expected = [first[number] for number in range(14)]
    for number in (13, 2, 7, 0):
        assert same(later[number], expected[number])
    assert not same(crops_of(opened, seed=1)[0], expected[0])


def test_an_epoch_shows_every_pair_once(tmp_path):
    crops = crops_of(scenes_of(write_pairs(tmp_path, 6, shape=(40, 40))), CropConfig(size=40))
    orders = []
    for epoch in range(3):
        orders.append([float(crops[epoch * 6 + position]["infrared"].sum()) for position in range(6)])
        assert len(set(orders[-1])) == 6
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_crops_have_the_right_shape_and_range(root):
    crops = crops_of(scenes_of(root), teachers=True, classical=("max", "laplacian"))
    for number in range(12):
        crop = crops[number]
        assert set(crop) == {"infrared", "visible", "teacher"}
        for image in crop.values():
            assert image.shape == (1, 16, 16)
            assert image.dtype == torch.float32
            assert 0 <= image.min() <= image.max() <= 1


def test_random_crops_reach_every_place(tmp_path):
    crops = crops_of(scenes_of(write_pairs(tmp_path, 1, shape=(17, 18))), CropConfig(size=16))
    whole = crops_of(scenes_of(tmp_path), CropConfig(size=18))[0]["infrared"][:, :17]
    places = {(row, column): whole[:, row : row + 16, column : column + 16] for row in range(2) for column in range(3)}
    found = [crops[number]["infrared"] for number in range(60)]
    for place, image in places.items():
        assert any(torch.equal(crop, image) for crop in found), place


def test_exposure_multiplies_and_gamma_is_a_power(tmp_path):
    image = np.repeat(np.array([[51, 102]], np.float32) / 255, 16, axis=0).repeat(8, axis=1)
    for folder in ("ir", "vi"):
        write_image(tmp_path / folder / "a.png", image)
    opened = scenes_of(tmp_path)
    dark, bright = (np.float64(level) for level in (0.2, 0.4))
    for config in (CropConfig(size=16, exposure=1.0), CropConfig(size=16, gamma=1.0)):
        crops = crops_of(opened, config)
        found = np.array([crops[number]["infrared"].aminmax() for number in range(60)], np.float64).T
        wanted = found[0] / dark * bright if config.exposure else bright ** (np.log(found[0]) / np.log(dark))
        np.testing.assert_allclose(found[1], wanted, rtol=1e-5)
        amount = np.log2(found[0] / dark if config.exposure else np.log(found[0]) / np.log(dark))
        assert -1 <= amount.min() < -0.5
        assert 0.5 < amount.max() <= 1
        assert 20 < np.isclose(amount, 0, atol=1e-6).sum() < 40  # half of the images stay as they are


def test_a_fusion_rule_is_applied_to_the_augmented_crop(root):
    crops = crops_of(scenes_of(root), teachers=True, classical=("max",))
    for number in range(12):
        crop = crops[number]
        assert torch.equal(crop["teacher"], torch.maximum(crop["infrared"], crop["visible"]))


def test_teachers_on_file_are_found_in_any_format_and_never_augmented(root, tmp_path):
    from emma_core.images import read_grey

    for index in range(6):  # the visible image itself, so that crops can be compared
        image = read_grey(root / "vi" / f"{index:03d}.png")
        write_image(tmp_path / "teacher" / "all" / f"{index:03d}.png", image)
        assert (tmp_path / "teacher" / "all" / f"{index:03d}.png").rename(
            tmp_path / "teacher" / "all" / f"{index:03d}.TIF"
        )
    opened = scenes_of(root, [("copy", tmp_path / "teacher")])
    assert not opened.faults
    crops = crops_of(opened, teachers=True)
    for number in range(12):
        assert torch.allclose(crops[number]["teacher"], crops[number]["visible"], atol=1 / 255)


def test_a_pair_without_a_teacher_is_an_error_unless_a_rule_helps(root):
    with pytest.raises(DataError, match=r"6 pairs have no fused image by a teacher, first mine/all/000"):
        crops_of(scenes_of(root), teachers=True)


def test_the_grid_has_the_stride_that_was_asked_for(root):
    crops = crops_of(scenes_of(root), CropConfig(size=16, placing="grid", stride=24))
    assert len(crops) == 6 * 2 * 2
    released = crops_of(scenes_of(root), CropConfig(size=16, placing="grid", stride=200))
    assert len(released) == 6


def test_images_smaller_than_a_crop_are_reflected(tmp_path):
    write_pairs(tmp_path, 2, shape=(5, 7))
    crop = crops_of(scenes_of(tmp_path), CropConfig(size=32))[0]
    assert crop["visible"].shape == (1, 32, 32)


def test_unreadable_pairs_and_teachers_are_named_and_left_out(root, tmp_path):
    (root / "vi" / "001.png").write_bytes(b"")
    write_image(root / "ir" / "002.png", random_image(0, (10, 10)))
    for index in (3, 4, 5):
        write_image(tmp_path / "teacher" / f"{index:03d}.png", random_image(index, (40, 48)))
    (tmp_path / "teacher" / "003.png").write_bytes(b"no image")
    write_image(tmp_path / "teacher" / "004.png", random_image(0, (9, 9)))
    opened = scenes_of(root, [("T", tmp_path / "teacher")])
    assert [scene.pair.id for scene in opened.scenes] == ["000", "003", "004", "005"]
    assert [len(scene.teachers) for scene in opened.scenes] == [0, 0, 0, 1]
    said = "\n".join(map(str, opened.faults))
    for expected in ("mine/all/001", "001.png: the file is empty", "differ in size", "teacher T", "9 x 9"):
        assert expected in said


def test_no_usable_pair_at_all_is_an_error(root):
    for file in (root / "ir").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="No pair can be trained on; first: mine/all/000"):
        scenes_of(root)


def test_a_full_cache_changes_nothing(root):
    pairs = find_pairs(folder_spec("mine", root / "ir", root / "vi"), root)
    lean = open_scenes(with_teachers("mine", pairs.pairs, []), cache_bytes=0)
    assert lean.hash == scenes_of(root).hash
    assert same(crops_of(lean)[5], crops_of(scenes_of(root))[5])


def test_the_hash_follows_the_content(root):
    before = scenes_of(root).hash
    write_image(root / "ir" / "000.png", random_image(9, (40, 48)))
    assert scenes_of(root).hash != before


def test_processes_share_the_crops_and_a_later_start_skips_without_replay():
    together = [number for batch in islice(Numbers(0, 4, 1, 0, 1), 6) for number in batch]
    apart = [islice(Numbers(0, 2, 1, rank, 2), 6) for rank in (0, 1)]
    assert [number for turn in zip(*apart, strict=True) for batch in turn for number in batch] == together
    assert next(iter(Numbers(3, 2, 2, 1, 2))) == [26, 27]


def test_workers_give_the_same_batches(root):
    crops = crops_of(scenes_of(root))
    here, there = (list(islice(crop_batches(crops, Numbers(2, 3, 1, 0, 1), workers=workers), 3)) for workers in (0, 1))
    assert all(same(one, other) for one, other in zip(here, there, strict=True))


@pytest.mark.parametrize(("count", "number", "held"), [(1, 8, 1), (2, 8, 1), (10, 3, 3), (100, 8, 8)])
def test_held_out_scenes_are_not_trained_on(count, number, held):
    scenes = [Scene("mine", None, {str(index): None}) for index in range(count)]
    training, validation = hold_out(scenes, number)
    assert len(validation) == held
    if count > 1:
        assert len(training) + held == count
        assert not {next(iter(scene.teachers)) for scene in training} & {next(iter(s.teachers)) for s in validation}


def test_held_out_scenes_are_spread_evenly():
    scenes = [Scene("mine", None, {str(index): None}) for index in range(10)]
    assert [scenes.index(scene) for scene in hold_out(scenes, 2)[1]] == [2, 7]

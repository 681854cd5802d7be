"""Masks: where they are, what they may hold, and one clear line for each way in which they are wrong."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY, write_pairs
from PIL import Image
from skimage.io import imread

from emma_core.config import write_toml
from emma_core.errors import DataError, UsageError
from emma_core.images import write_image
from segmentation.data import check_inputs, find_data
from segmentation.labels import SEGMENTATIONS, UNLABELLED, SegmentationSpec, colour_mask, label_set, read_mask

MSRS, PSEUDO = SEGMENTATIONS["MSRS"], SEGMENTATIONS["MSRS-pseudo"]
TOY = SegmentationSpec(
    "toy",
    ("Back", "Car"),
    ((0, 0, 0), (64, 0, 128)),
    "labels",
    infrared="{split}/ir",
    visible="{split}/vi",
)


def write_mask(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(ids, np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path):
    """A data set of two training and two test pairs, 24 x 32, in the layout of MSRS."""
    for split in ("train", "test"):
        write_pairs(tmp_path / split, 2)
        for index in range(2):
            write_mask(tmp_path / split / "Segmentation_labels" / f"{index:03d}.png", np.full((24, 32), index))
    return tmp_path


def test_the_table_of_label_sets():
    assert label_set("msrs") is MSRS
    assert len(MSRS.classes) == len(set(MSRS.palette)) == 9
    assert PSEUDO.title == "Segmentation against pseudo-labels"
    assert "no ground truth" in PSEUDO.note
    with pytest.raises(UsageError, match="known: MSRS, MSRS-pseudo, or a file"):
        label_set("Cityscapes")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"palette": ((0, 0, 0),)}, "1 colours for 2 classes"),
        ({"classes": ("Car", "Car")}, "2 classes; expected 2 to 254 of different names"),
        ({"ignore": 1}, "ignore is 1, expected 0, or 2 to 255"),
        ({"infrared": ""}, "give dataset = one of MSRS"),
        ({"name": "../up"}, "cannot name a label set"),
    ],
)
def test_a_declaration_that_cannot_hold_is_refused(change, match):
    with pytest.raises(UsageError, match=match):
        replace(TOY, **change)


def test_a_label_set_of_ones_own(root, tmp_path):
    write_toml(tmp_path / "toy.toml", TOY)
    spec = label_set(str(tmp_path / "toy.toml"))
    assert spec == TOY
    for split in ("train", "test"):
        for index in range(2):
            write_mask(tmp_path / "labels" / split / f"{index:03d}.png", np.full((24, 32), index))
    data = find_data(spec, root)
    assert (data.dataset, data.train.parts, data.test.parts) == ("toy", ("train",), ("test",))
    assert data.masks["test/001"] == tmp_path / "labels" / "test" / "001.png"
    write_toml(tmp_path / "taken.toml", replace(TOY, name="MSRS"))
    with pytest.raises(UsageError, match="MSRS is a known label set"):
        label_set(str(tmp_path / "taken.toml"))
    (tmp_path / "odd.toml").write_text('name = "odd"\ncolours = 3\n')
    with pytest.raises(UsageError, match=r"odd\.toml: unknown key 'colours'"):
        label_set(str(tmp_path / "odd.toml"))


def test_the_declaration_in_the_docs_can_be_used(tmp_path):
    text = (REPOSITORY / "docs" / "segmentation.md").read_text("utf-8")
    (tmp_path / "mine.toml").write_text(text.partition("```toml\n")[2].partition("```")[0])
    spec = label_set(str(tmp_path / "mine.toml"))
    assert (spec.name, len(spec.classes), spec.conditions[0]) == ("mine", 3, ("day", "D"))


def test_ids_of_every_kind_of_file(tmp_path):
    ids = np.arange(9, dtype=np.uint8).repeat(4).reshape(6, 6)
    plain = write_mask(tmp_path / "plain.png", ids)
    palette = Image.fromarray(ids)
    palette.putpalette([level for index in range(256) for level in (index,) * 3])
    palette.save(tmp_path / "palette.png")
    assert palette.mode == "P"
    for path in (plain, tmp_path / "palette.png"):
        assert np.array_equal(read_mask(path, MSRS), ids), path


def test_ties_are_unlabelled_where_they_are_declared(tmp_path):
    ids = np.array([[0, 8], [255, 3]])
    path = write_mask(tmp_path / "1.png", ids)
    assert read_mask(path, PSEUDO).tolist() == [[0, 8], [UNLABELLED, 3]]
    with pytest.raises(DataError, match=r"1\.png: holds id 255 \(1 pixels\); expected 0 to 8 \(MSRS\)"):
        read_mask(path, MSRS)


def test_faults_of_a_mask_are_one_line(tmp_path):
    high = write_mask(tmp_path / "high.png", [[0, 9, 9], [11, 1, 2]])
    with pytest.raises(DataError, match=r"high\.png: holds id 9 \(2 pixels\), 11 \(1 pixels\); expected 0 to 8 "):
        read_mask(high, MSRS)
    painted = write_mask(tmp_path / "painted.png", [[[64, 0, 128], [0, 0, 0]], [[1, 2, 3], [0, 0, 0]]])
    with pytest.raises(DataError, match=r"label in colours, e\.g\. .*\(64, 0, 128\) \(Car\); expected one class id"):
        read_mask(painted, MSRS)
    coded, deep = cv2.imencode(".png", np.full((4, 4), 3, np.uint16))
    assert coded
    (tmp_path / "deep.png").write_bytes(deep.tobytes())
    with pytest.raises(DataError, match=r"deep\.png: a 16-bit file"):
        read_mask(tmp_path / "deep.png", MSRS)
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.png: the file is empty"):
        read_mask(tmp_path / "empty.png", MSRS)


def test_parts_by_folder_and_by_list(root, tmp_path):
    data = find_data(MSRS, root)
    assert [pair.key for pair in data.train.pairs] == ["train/000", "train/001"]
    assert [pair.key for pair in data.pairs.pairs][2:] == ["test/000", "test/001"]
    train, test = tmp_path / "a.txt", tmp_path / "b.txt"
    train.write_text("test/000\n")
    test.write_text("test/001\n")
    listed = find_data(MSRS, root, train_list=train, test_list=test)
    assert [pair.key for pair in listed.test.pairs] == ["test/001"]
    assert listed.test.label.startswith("b-")
    assert len({data.hash, listed.hash}) == 2
    test.write_text("test/000\n")
    with pytest.raises(DataError, match="1 pairs are to be trained on and tested on, first test/000"):
        find_data(MSRS, root, train_list=train, test_list=test)


def test_without_a_training_folder_lists_are_asked_for(root):
    (root / "train").rename(root / "elsewhere")
    with pytest.raises(DataError, match=r"Without a folder train, give --train-list FILE"):
        find_data(MSRS, root)


def test_a_mask_that_may_be_of_the_pairs_of_two_parts_is_refused(root, tmp_path):
    write_mask(tmp_path / "000.png", np.zeros((24, 32), np.uint8))
    with pytest.raises(DataError, match=r"000\.png: may be the label of train/000 or of test/000; .*for each part"):
        find_data(replace(MSRS, partial=True), root, labels=tmp_path)


def test_missing_masks(root, tmp_path):
    (root / "train" / "Segmentation_labels" / "001.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 pairs have no label, first train/001; expected .*001\.png.*--labels"):
        find_data(MSRS, root)
    partial = find_data(replace(MSRS, partial=True), root)
    assert (len(partial.train.pairs), len(partial.test.pairs), partial.unlabelled) == (1, 2, 1)
    with pytest.raises(DataError, match="2 of 2 pairs have no label"):
        find_data(replace(MSRS, partial=True), root, labels=tmp_path / "nowhere")


def test_endings_of_masks_in_any_case(root):
    place = root / "train" / "Segmentation_labels"
    (place / "001.png").rename(place / "001.PNG")
    assert find_data(MSRS, root).masks["train/001"] == place / "001.PNG"
    if (place / "001.png").exists():
        return  # a disk that knows no case
    write_mask(place / "001.png", np.zeros((24, 32)))
    with pytest.raises(DataError, match=r"two masks of one pair: 001\.PNG, 001\.png; keep one"):
        find_data(MSRS, root)


def test_a_folder_of_other_masks(root, tmp_path):
    for key in ("train/000", "train/001", "001", "000"):
        write_mask(tmp_path / "other" / f"{key}.png", np.zeros((24, 32)))
    data = find_data(MSRS, root, labels=tmp_path / "other")
    assert data.masks["train/000"] == tmp_path / "other" / "train" / "000.png"
    assert data.masks["test/001"] == tmp_path / "other" / "001.png"
    assert data.labels_hash() != find_data(MSRS, root).labels_hash()


def test_sizes_are_compared_before_anything_is_trained(root):
    from emma_core.rows import source_rows

    data = find_data(MSRS, root)
    check_inputs(data, source_rows(data.pairs))
    write_mask(root / "test" / "Segmentation_labels" / "001.png", np.zeros((12, 16)))
    with pytest.raises(DataError, match=r"001\.png: the label is 16 x 12, the image .* of row IR is 32 x 24"):
        check_inputs(data, source_rows(data.pairs))
    write_mask(root / "test" / "Segmentation_labels" / "001.png", np.full((24, 32), 77))
    with pytest.raises(DataError, match=r"001\.png: holds id 77 \(768 pixels\)"):
        check_inputs(data, source_rows(data.pairs))


def test_colours_of_a_mask(tmp_path):
    painted = colour_mask(np.array([[1, 2], [8, UNLABELLED]], np.uint8), MSRS.palette)
    assert (painted * 255).round().astype(int).tolist() == [
        [[64, 0, 128], [64, 64, 0]],
        [[192, 64, 0], [255, 255, 255]],
    ]
    write_image(tmp_path / "painted.png", painted)
    with pytest.raises(DataError, match="label in colours"):
        read_mask(tmp_path / "painted.png", MSRS)


@pytest.mark.data
def test_the_real_pseudo_labels(data):
    root = data / "MSRS"
    found = find_data(PSEUDO, root, train_list=root / "train_list.txt", test_list=root / "test_list.txt")
    assert (len(found.train.pairs), len(found.test.pairs), found.unlabelled) == (121, 55, 25)
    assert found.dataset == "MSRS-pseudo"
    assert {found.masks[pair.key].parent.name for pair in found.train.pairs} == {"mfnet"}
    assert {found.masks[pair.key].parent.name for pair in found.test.pairs} == {"consensus"}
    for pair in found.test.pairs[::10]:
        mask = read_mask(found.masks[pair.key], PSEUDO)
        assert np.array_equal(mask, imread(found.masks[pair.key])[..., 0])
        assert mask.shape == (480, 640)

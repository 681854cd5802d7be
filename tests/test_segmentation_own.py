"""A data set of one's own, from its declaration to its table: the commands that are advised, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, Outcome, emma
from own_data import follow_advice, write_own
from PIL import Image

from emma_core.datasets import SAMPLE_MARK
from emma_core.errors import DataError, UsageError
from emma_core.manifest import read_manifest
from segmentation.data import check_inputs, find_data
from segmentation.labels import SegmentationSpec, label_set, read_mask, write_mask

DOCS = REPOSITORY / "docs" / "segmentation.md"

TOY = SegmentationSpec(
    "toy", ("Back", "Car"), ((0, 0, 0), (64, 0, 128)), "{split}/masks", infrared="{split}/ir", visible="{split}/vi"
)


@pytest.fixture
def place(tmp_path) -> Path:
    """The declaration of the docs, and pairs and masks where it says that they are; also some to validate with."""
    counts = {"train": 2, "val": 1, "test": 2}
    root = write_own(tmp_path, "segmentation.md", counts)
    for split, count in counts.items():
        for index in range(count):
            write_mask(root / split / "masks" / f"{index:03d}.png", np.full((24, 32), index, np.uint8), TOY)
    return tmp_path


def segment(place: Path, *options: str) -> Outcome:
    return emma("segment", "mine.toml", "--root", "my data", "--dry-run", *options, cwd=place)


def test_the_advised_command_makes_the_fused_row(place):
    follow_advice(segment(place), place, "max")
    folder = place / "runs" / "fused" / "mine" / "max"
    found = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.png"))
    assert found == ["test/000.png", "test/001.png", "train/000.png", "train/001.png", "val/000.png"]
    outcome = segment(place)
    assert outcome.returncode == 0, outcome.stderr
    assert "2 pairs of mine, tested on 2" in outcome.stdout
    assert "max, seed 0: would be trained" in outcome.stdout


def test_the_advised_command_brings_a_fused_row_up_to_date(place):
    folders = ("--ir", "my data/{split}/thermal", "--vis", "my data/{split}/rgb")
    assert emma("fuse-dataset", "mine", *folders, "--method", "max", "--limit", "3", cwd=place).returncode == 0
    follow_advice(segment(place), place, "max")
    assert segment(place).returncode == 0
    scored = emma("evaluate", "mine", *folders, "--split", "test", "--dry-run", cwd=place)
    assert "Would score 2 pairs of mine: IR, VI, mean, max" in scored.stdout


def test_a_folder_without_parts_asks_for_lists(place):
    text = (place / "mine.toml").read_text("utf-8").replace("{split}", "test")
    (place / "mine.toml").write_text(text, "utf-8")
    refused = segment(place)
    assert refused.returncode == 1
    assert "mine has no part train, only all; give --train-list FILE" in refused.stderr
    assert "--split-file" not in refused.stderr


def test_samples_in_a_layout_of_ones_own_stay_samples(place):
    (place / "my data" / SAMPLE_MARK).write_text("{}")
    follow_advice(segment(place), place, "max")
    assert read_manifest(place / "runs" / "fused" / "mine-sample" / "max").dataset == "mine-sample"
    assert segment(place).returncode == 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"palette": ((0, 0, 0), (0, 256, 0))}, r"palette has the colour \(0, 256, 0\); expected 0 to 255"),
        ({"palette": ((0, -1, 0), (0, 0, 0))}, r"palette has the colour \(0, -1, 0\)"),
        ({"classes": ("Back", "Back ")}, "two columns would be called 'Back'"),
        ({"classes": ("Back", " ")}, "a class or a condition has no name"),
        ({"classes": ("Back", "mIoU")}, "two columns would be called 'mIoU'"),
        ({"classes": ("Pixel acc.", "Car")}, "two columns would be called 'Pixel acc.'"),
        ({"conditions": (("fg", "D"),)}, "two columns would be called 'mIoU fg'"),
        ({"conditions": (("", "D"),)}, "a class or a condition has no name"),
        ({"conditions": (("day", "D"), ("day", "N"))}, "two columns would be called 'mIoU day'"),
        ({"conditions": (("day", "D"),), "classes": ("Back", "mIoU day")}, "two columns would be called 'mIoU day'"),
        ({"ignore": -1}, "ignore is -1, expected 0, or 2 to 255"),
    ],
)
def test_declarations_that_would_spoil_a_table_are_refused(change, match):
    with pytest.raises(UsageError, match=match):
        replace(TOY, **change)


def test_a_split_in_one_folder_alone_is_refused(place):
    with pytest.raises(UsageError, match=r"\{split\} stands in one of them; expected in both or in neither"):
        replace(TOY, visible="vi").pairs_spec()


@pytest.mark.parametrize("name", ["MSRS-sample", "Msrs", "tno"])
def test_names_of_known_data_sets_are_refused(tmp_path, name):
    text = f'name = "{name}"\nclasses = ["a", "b"]\npalette = [[0, 0, 0], [1, 1, 1]]\nlabels = "m"\n'
    (tmp_path / "mine.toml").write_text(text + 'infrared = "ir"\nvisible = "vi"\n')
    with pytest.raises(UsageError, match="is a known label set"):
        label_set(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("part", ["train", "test"])
def test_masks_that_tell_no_classes_apart_are_refused_before_training(place, part):
    masks = sorted((place / "my data" / part / "masks").glob("*.png"))
    both, void = np.arange(24 * 32).reshape(24, 32) % 2, np.full((24, 32), 255)
    data = find_data(label_set(str(place / "mine.toml")), place / "my data")
    for mask, level in zip(masks, (void, both), strict=True):
        write_mask(mask, level.astype(np.uint8), TOY)
    check_inputs(data, ())
    Image.fromarray(both.astype(bool)).save(masks[1])  # of one bit: black and white
    with pytest.raises(
        DataError, match=rf"all pixels of the 2 masks to {part} on are Background or 255, which is ignored"
    ):
        check_inputs(data, ())
    write_mask(masks[1], void.astype(np.uint8), TOY)
    with pytest.raises(DataError, match=rf"all pixels of the 2 masks to {part} on are 255, which is ignored"):
        check_inputs(data, ())


def test_where_zero_is_ignored_the_classes_have_the_ids_from_one(tmp_path):
    spec = replace(TOY, ignore=0)
    Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8)).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", spec)
    assert mask.tolist() == [[255, 0], [1, 1]]
    write_mask(tmp_path / "found.png", np.array([[0, 1]], np.uint8), spec)
    assert np.asarray(Image.open(tmp_path / "found.png")).tolist() == [[1, 2]]  # noqa: TID251 - as others read it
    assert read_mask(tmp_path / "found.png", spec).tolist() == [[0, 1]]
    Image.fromarray(np.array([[3]], np.uint8)).save(tmp_path / "high.png")
    with pytest.raises(DataError, match=r"holds id 3 \(1 pixels\); expected 1 to 2 or 0 \(toy\)"):
        read_mask(tmp_path / "high.png", spec)


def test_what_zero_means_is_part_of_the_labels(place):
    spec = label_set(str(place / "mine.toml"))
    data = find_data(spec, place / "my data")
    assert replace(data, spec=replace(spec, ignore=0)).labels_hash() != data.labels_hash()


def test_the_command_of_the_docs_turns_indexed_masks_into_ids(tmp_path):
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3) % 2
    indexed = Image.fromarray(ids)
    indexed.putpalette([0, 0, 0, 64, 0, 128])
    (tmp_path / "masks").mkdir()
    indexed.save(tmp_path / "masks" / "1.png")
    with pytest.raises(DataError, match=r"a label in colours.*indexed masks: docs/segmentation\.md"):
        read_mask(tmp_path / "masks" / "1.png", TOY)
    command = DOCS.read_text("utf-8").partition("```sh\n")[2].partition("```")[0]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env={"PATH": path}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_mask(tmp_path / "ids" / "1.png", TOY).tolist() == ids.tolist()

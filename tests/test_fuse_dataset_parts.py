"""Fusing again after pairs of a data set are gone, or fusing some of them: what becomes of the other images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import killed_at_its_end, random_image, tree, write_pairs

from emma_core.datasets import dataset_spec
from emma_core.fuse_dataset import fuse_dataset
from emma_core.fusers import load_fuser
from emma_core.images import write_image
from emma_core.manifest import read_manifest
from emma_core.pairs import find_pairs

MSRS = dataset_spec("MSRS")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "fused"


@pytest.fixture
def roads(tmp_path):
    """A data set of two parts, three pairs each."""
    root = tmp_path / "MSRS"
    for part in ("train", "test"):
        write_pairs(root / part, 3)
    return root


def run_roads(root, folder, *, limit=None, **chosen):
    return fuse_dataset(find_pairs(MSRS, root, **chosen), load_fuser("max"), folder, limit=limit)


def remove_pairs(root: Path, *keys: str) -> None:
    for key in keys:
        part, name = key.split("/")
        for side in ("ir", "vi"):
            (root / part / side / f"{name}.png").unlink()


@pytest.mark.parametrize("part", [None, "train"])
def test_pairs_that_are_gone_take_rows_and_images_along(roads, folder, tmp_path, part):
    run_roads(roads, folder)
    remove_pairs(roads, "train/000", "train/002", "test/001")
    summary = run_roads(roads, folder, split=part)
    assert (summary.fused, summary.kept) == ((0, 3) if part is None else (0, 1))
    rows = {"train/001", "test/000", "test/002"} | ({"test/001"} if part else set())
    assert read_manifest(folder).rows.keys() == rows
    assert {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.png")} == rows
    if part is None:
        run_roads(roads, tmp_path / "fresh")
        assert tree(folder) == tree(tmp_path / "fresh")


@pytest.mark.parametrize("by", ["list", "limit"])
def test_a_run_over_some_pairs_leaves_all_others(roads, folder, tmp_path, by):
    """A list may be called like a part."""
    run_roads(roads, folder)
    remove_pairs(roads, "train/002", "test/001")
    (tmp_path / "train.txt").write_text("train/000\n")
    before = tree(folder)
    some = {"split_file": tmp_path / "train.txt"} if by == "list" else {"limit": 1}
    assert run_roads(roads, folder, **some).kept == 1
    assert tree(folder) == before


@pytest.mark.parametrize("absence", ["no folder", "an empty folder", "no folder to read"])
def test_a_part_without_pairs_keeps_its_images(roads, folder, monkeypatch, absence):
    """It may be on a disk that is not there today."""
    run_roads(roads, folder)
    images = {path: path.read_bytes() for path in folder.rglob("*.png")}
    if absence == "no folder to read":
        unreadable(roads / "train" / "ir", monkeypatch)
    else:
        remove_pairs(roads, *(f"train/{number:03d}" for number in range(3)))
    if absence == "no folder":
        shutil.rmtree(roads / "train")
    assert run_roads(roads, folder).kept == 3
    assert {path: path.read_bytes() for path in folder.rglob("*.png")} == images
    assert len(read_manifest(folder).rows) == 6


def unreadable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let listing it fail, for root too."""
    listed = Path.iterdir

    def iterdir(self):
        if self == folder:
            raise OSError(5, "Input/output error", str(self))
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)


def test_only_files_of_the_record_go_and_links_are_not_followed(roads, folder, tmp_path):
    run_roads(roads, folder)
    theirs = tmp_path / "theirs.png"
    shutil.copy(folder / "train" / "000.png", theirs)
    (folder / "train" / "000.png").unlink()
    (folder / "train" / "000.png").symlink_to(theirs)
    (folder / "train" / "notes.png").write_bytes(b"somebody's")
    remove_pairs(roads, "train/000")
    run_roads(roads, folder)
    assert theirs.exists()
    assert sorted(path.name for path in (folder / "train").iterdir()) == ["001.png", "002.png", "notes.png"]


@pytest.mark.parametrize("by", ["part", "list", "limit"])
def test_a_run_over_other_pairs_knows_of_earlier_failures(roads, folder, tmp_path, by):
    (roads / "train" / "ir" / "001.png").write_bytes(b"")
    assert [fault.key for fault in run_roads(roads, folder).faults] == ["train/001"]
    before = tree(folder)
    (tmp_path / "list.txt").write_text("test/000\ntrain/000\n")
    some = {"part": {"split": "test"}, "list": {"split_file": tmp_path / "list.txt"}, "limit": {"limit": 1}}[by]
    assert run_roads(roads, folder, **some).faults == (), "it is not of this run"
    assert tree(folder) == before


def test_a_mended_pair_is_no_failure_even_if_its_run_is_killed(roads, folder, tmp_path, monkeypatch):
    (roads / "train" / "ir" / "001.png").write_bytes(b"")
    run_roads(roads, folder)
    write_image(roads / "train" / "ir" / "001.png", random_image(1, (24, 32)))
    (tmp_path / "list.txt").write_text("train/001\n")
    with killed_at_its_end(monkeypatch):
        run_roads(roads, folder, split_file=tmp_path / "list.txt")
    run_roads(roads, folder, split="test")
    assert read_manifest(folder).failures == {}
    assert len(read_manifest(folder).rows) == 6

"""A data set that changes between two runs of the same command: what follows is remade or refused, never stale.

Fused images of changed sources are also refused in test_evaluate.py, and remade in test_fuse_dataset.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import emma, random_image, tree, write_pairs
from victims import TINY_DETECTOR, TINY_SEGMENTER

from emma_core.images import read_image, write_image
from emma_core.results import find_results, read_result
from emma_core.samples import write_samples


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def replace(file: Path) -> None:
    """Put another image of the same size in its place."""
    write_image(file, 1 - read_image(file))


def figures(folder: Path) -> dict[str, tuple[object, ...]]:
    """What every result below a folder says, but for times."""
    found = {path.relative_to(folder).as_posix(): read_result(path) for path in find_results(folder)}
    return {name: (each.values, each.count, each.split_hash, each.sources_hash) for name, each in found.items()}


TNO_CHANGES = {
    "an infrared image replaced": lambda root: replace(root / "ir" / "001.png"),
    "a visible image replaced": lambda root: replace(root / "vi" / "001.png"),
    "a pair removed": lambda root: [(root / side / "001.png").unlink() for side in ("ir", "vi")],
    "a mate removed": lambda root: (root / "vi" / "001.png").unlink(),
    "a pair added": lambda root: [
        write_image(root / side / "0005.png", random_image(9, (24, 32, 3))) for side in ("ir", "vi")
    ],
    "two images exchanged": lambda root: (
        (root / "vi" / "001.png").rename(root / "vi" / "x.png"),
        (root / "vi" / "002.png").rename(root / "vi" / "001.png"),
        (root / "vi" / "x.png").rename(root / "vi" / "002.png"),
    ),
}


@pytest.mark.parametrize("change", TNO_CHANGES)
def test_fuse_dataset_and_evaluate(tmp_path, change):
    """After a change both end with what they would have made of the changed data at first."""
    root = write_pairs(tmp_path / "TNO", 4)

    def run(command: str, runs: str) -> int:
        method = ("--method", "max") if command == "fuse-dataset" else ()
        return emma(command, "TNO", "--root", root, "--runs", tmp_path / runs, *method).returncode

    assert (run("fuse-dataset", "again"), run("evaluate", "again")) == (0, 0)
    before = figures(tmp_path / "again")
    TNO_CHANGES[change](root)
    refused = run("evaluate", "again")
    assert refused == 1 or "removed" in change, "images of other sources were scored"
    if refused and "mate" not in change:
        assert figures(tmp_path / "again") == before
    states = [(run("fuse-dataset", runs), run("evaluate", runs)) for runs in ("again", "fresh")]
    assert states[0] == states[1] == ((1, 1) if "mate" in change else (0, 0))
    assert figures(tmp_path / "again") == figures(tmp_path / "fresh") != before
    again, fresh = (
        {name: data for name, data in tree(tmp_path / runs / "fused").items() if name.endswith(".png")}
        for runs in ("again", "fresh")
    )
    assert fresh.items() <= again.items()
    assert again.keys() - fresh.keys() <= {"TNO/max/all/001.png"}, "kept, because a later list may name it again"


@pytest.fixture(scope="module")
def detected(tmp_path_factory):
    world = tmp_path_factory.mktemp("detect")
    write_samples(world, ["M3FD"], 12, size=(96, 128))
    (world / "tiny.toml").write_text(TINY_DETECTOR.replace("epochs = 8", "epochs = 1"))
    assert detect(world).returncode == 0
    return world


def detect(world: Path):
    options = ["--root", world / "M3FD", "--runs", world / "runs", "--config", world / "tiny.toml"]
    return emma("detect", *options, "--ir", "--split", "thirds")


def move_box(root: Path) -> None:
    file = root / "Annotation" / "00000.xml"
    text = file.read_text()
    start = text.index("<xmin>") + len("<xmin>")
    end = text.index("</xmin>")
    file.write_text(f"{text[:start]}{float(text[start:end]) + 1}{text[end:]}")


M3FD_CHANGES = {
    "images": lambda root: replace(root / "Ir" / "00000.png"),
    "labels": move_box,
    "images, one added": lambda root: [
        shutil.copy(root / side / f"00000.{end}", root / side / f"00099.{end}")
        for side, end in (("Ir", "png"), ("Vis", "png"), ("Annotation", "xml"))
    ],
    "images, one removed": lambda root: [(root / side / "00011.png").unlink() for side in ("Ir", "Vis")],
}


@pytest.mark.parametrize("change", M3FD_CHANGES)
def test_detect_refuses(detected, tmp_path, change):
    """The folder of a row is of the images, boxes and split that it was trained on."""
    world = shutil.copytree(detected, tmp_path / "world")
    before = figures(world)
    M3FD_CHANGES[change](world / "M3FD")
    refused = detect(world)
    assert refused.returncode == 2, refused.stderr
    assert f"holds a run of other settings ({change.split(',')[0]}: " in refused.stderr.splitlines()[-1]
    assert figures(world) == before
    split = json.loads(next(world.glob("runs/detect/*/*/split.json")).read_text())
    assert len(split["train"] + split["val"] + split["test"]) == 12, "the split that the results are of was replaced"


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    world = tmp_path_factory.mktemp("segment")
    write_samples(world, ["MSRS"], 6, size=(64, 96))
    (world / "tiny.toml").write_text(TINY_SEGMENTER.replace("epochs = 4", "epochs = 1"))
    assert segment(world).returncode == 0
    return world


def segment(world: Path, runs: str = "runs"):
    options = ["--root", world / "MSRS", "--runs", world / runs, "--config", world / "tiny.toml"]
    return emma("segment", "MSRS", *options, "--ir")


def erase(mask: Path) -> None:
    write_image(mask, 0 * read_image(mask))


def first(root: Path, part: str, folder: str) -> Path:
    return sorted((root / part / folder).glob("*.png"))[0]


MSRS_CHANGES = {
    "training image": lambda root: replace(first(root, "train", "ir")),
    "training label": lambda root: erase(first(root, "train", "Segmentation_labels")),
    "test label": lambda root: erase(first(root, "test", "Segmentation_labels")),
    "pair removed": lambda root: [first(root, "train", side).unlink() for side in ("ir", "vi", "Segmentation_labels")],
}


@pytest.mark.parametrize("change", MSRS_CHANGES)
def test_segment_refuses(segmented, tmp_path, change):
    world = shutil.copytree(segmented, tmp_path / "world")
    before = figures(world)
    MSRS_CHANGES[change](world / "MSRS")
    refused = segment(world)
    assert refused.returncode == 1, refused.stderr
    assert "belongs to a run with another configuration" in refused.stderr.splitlines()[-1]
    assert figures(world) == before


def test_segment_scores_a_changed_test_image_again(segmented, tmp_path):
    """Its weights do not depend on it; its figures do."""
    world = shutil.copytree(segmented, tmp_path / "world")
    replace(first(world / "MSRS", "test", "ir"))
    assert [segment(world, runs).returncode for runs in ("runs", "fresh")] == [0, 0]
    assert figures(world / "runs") == figures(world / "fresh") != figures(segmented / "runs")

"""A data set that changes between two runs of the same command: what follows is remade or refused, never stale.

Fused images of changed sources are also refused in test_evaluate.py, and remade in test_fuse_dataset.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import emma, random_image, tree, write_pairs
from test_medical_scans import STORED, dicom, save
from tiny import TINY_DETECTOR, TINY_SEGMENTER
from victims import TINY_SENSING

from emma_core.images import read_image, write_image
from emma_core.results import find_results, read_result
from emma_core.samples import write_samples

pytestmark = pytest.mark.usefixtures("one_thread")


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
        method = ("--method", "laplacian") if command == "fuse-dataset" else ()
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
    assert tree(tmp_path / "again" / "fused") == tree(tmp_path / "fresh" / "fused"), "nor is anything left of before"


def rendered(world: Path, dataset: str, count: int, size: tuple[int, int], configuration: str) -> Path:
    """Render a data set for a task that trains, and write its configuration."""
    write_samples(world, [dataset], count, size=size)
    (world / "tiny.toml").write_text(configuration)
    return world


@pytest.fixture(scope="module")
def detected(tmp_path_factory):
    world = rendered(tmp_path_factory.mktemp("detect"), "M3FD", 12, (96, 128), TINY_DETECTOR)
    assert detect(world).returncode == 0
    return world


def detect(world: Path):
    options = ["--root", world / "M3FD", "--runs", world / "runs", "--config", world / "tiny.toml"]
    return emma("detect", *options, "--ir", "--split", "thirds", "--epochs", "1")


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
    world = rendered(tmp_path_factory.mktemp("segment"), "MSRS", 6, (64, 96), TINY_SEGMENTER)
    assert segment(world).returncode == 0
    return world


def segment(world: Path, runs: str = "runs"):
    options = ["--root", world / "MSRS", "--runs", world / runs, "--config", world / "tiny.toml"]
    return emma("segment", "MSRS", *options, "--ir", "--epochs", "1")


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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A sensing network trained on three pairs and images that a teacher fused of them; a fourth is held out."""
    world = tmp_path_factory.mktemp("train")
    write_pairs(world, 4)
    for number in range(4):
        write_image(world / "fused" / f"{number:03d}.png", random_image(50 + number, (24, 32)))
    (world / "tiny.toml").write_text(TINY_SENSING)
    assert train(world).returncode == 0
    return world


def train(world: Path):
    data = ["--data", f"mine={world / 'ir'},{world / 'vi'}", "--teacher", f"Theirs={world / 'fused'}"]
    options = [*data, "--held-out", "1", "--config", world / "tiny.toml", "--steps", "2", "--out", world / "run"]
    return emma("train", "sensing", "--modality", "ir", "--recipe", "quick", *options)


TRAINED_CHANGES = {
    "an infrared image replaced": lambda root: replace(root / "ir" / "000.png"),
    "a visible image replaced": lambda root: replace(root / "vi" / "000.png"),
    "a held-out image replaced": lambda root: replace(root / "ir" / "002.png"),
    "a teacher's image replaced": lambda root: replace(root / "fused" / "000.png"),
    "a pair renamed": lambda root: [
        (root / side / "000.png").rename(root / side / "0000.png") for side in ("ir", "vi", "fused")
    ],
    "a pair removed": lambda root: [(root / side / "000.png").unlink() for side in ("ir", "vi")],
}


@pytest.mark.parametrize("change", TRAINED_CHANGES)
def test_train_refuses(trained, tmp_path, change):
    """A run has one data set from its first step to its last."""
    world = shutil.copytree(trained, tmp_path / "world")
    before = tree(world / "run")
    TRAINED_CHANGES[change](world)
    refused = train(world)
    assert refused.returncode == 1, refused.stderr
    said = refused.stderr.splitlines()[-1]
    assert "belongs to a run with another configuration (the images changed" in said
    assert tree(world / "run") == before


def medical(world: Path, runs: str, *data: str | Path):
    return emma("medical", *(data or ("--root", world / "Harvard", "--modality", "CT")), "--runs", world / runs)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Two rendered heads, MRI and CT, as small images."""
    world = tmp_path_factory.mktemp("medical")
    write_samples(world, ["Harvard"], 4, 0)
    for path in (world / "Harvard").rglob("*.png"):
        write_image(path, read_image(path)[::4, ::4])
    return world / "Harvard"


def scans(root: Path, side: str) -> list[Path]:
    return sorted((root / "Harvard" / "MRI-CT" / side).glob("*.png"))


HEAD_CHANGES = {
    "an MRI replaced": lambda root: replace(scans(root, "MRI")[0]),
    "a CT replaced": lambda root: replace(scans(root, "CT")[0]),
    "a pair removed": lambda root: [scans(root, side)[0].unlink() for side in ("MRI", "CT")],
    "a pair added": lambda root: [
        shutil.copy(scans(root, side)[0], scans(root, side)[0].with_name("99.png")) for side in ("MRI", "CT")
    ],
}


@pytest.mark.parametrize("change", HEAD_CHANGES)
def test_medical_fuses_and_scores_a_changed_scan_again(heads, tmp_path, change):
    """It ends with what it would have made of the changed scans at first, and fuses no other scan again."""
    shutil.copytree(heads, tmp_path / "Harvard")
    assert medical(tmp_path, "again").returncode == 0
    before = figures(tmp_path / "again")
    kept = max((tmp_path / "again" / "fused").rglob("*.png"))
    made = kept.stat().st_mtime_ns
    HEAD_CHANGES[change](tmp_path)
    assert [medical(tmp_path, runs).returncode for runs in ("again", "fresh")] == [0, 0]
    assert figures(tmp_path / "again") == figures(tmp_path / "fresh") != before
    assert tree(tmp_path / "again" / "fused") == tree(tmp_path / "fresh" / "fused")
    assert kept.stat().st_mtime_ns == made


def test_medical_converts_a_changed_dicom_file_again(tmp_path):
    """The images that scans become are in the folder of the runs, so an old one could stand for a new scan."""
    for side, shift in (("mri", 0), ("ct", 9)):
        (tmp_path / side).mkdir()
        save(tmp_path / side / "0.dcm", dicom(np.roll(STORED, shift)))
    data = ("--mri", tmp_path / "mri", "--other", tmp_path / "ct", "--modality", "CT")
    assert medical(tmp_path, "again", *data).returncode == 0
    before = figures(tmp_path / "again")
    save(tmp_path / "ct" / "0.dcm", dicom(np.roll(STORED, 5)))
    assert [medical(tmp_path, runs, *data).returncode for runs in ("again", "fresh")] == [0, 0]
    assert figures(tmp_path / "again") == figures(tmp_path / "fresh") != before

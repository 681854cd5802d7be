"""What is named like a file but is none: pipes, which would be waited for, and devices, which do not end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from conftest import emma, random_image, write_pairs
from damage import watchdog

from detection.coco import read_predictions
from detection.label_files import read_coco, read_voc, read_yolo
from detection.scoring import read_conditions
from detection.splits import read_split
from detection.weights import read_weights
from emma_core import cli
from emma_core.checkpoint import load_ufuser
from emma_core.comparisons import read_comparisons
from emma_core.config import UFuserConfig, read_toml
from emma_core.datasets import dataset_spec
from emma_core.errors import EmmaError
from emma_core.images import read_image, write_image
from emma_core.manifest import MANIFEST, file_sha256, read_manifest
from emma_core.pairs import find_pairs
from emma_core.pictures import read_index
from emma_core.results import read_result
from emma_core.training_state import load_state
from segmentation.labels import SEGMENTATIONS, find_masks
from segmentation.network import load_segmenter

READERS = {
    "image": read_image,
    "result": read_result,
    "comparisons": read_comparisons,
    "pictures": read_index,
    "TOML": lambda path: read_toml(path, UFuserConfig),
    "U-Fuser": load_ufuser,
    "training state": load_state,
    "detector": read_weights,
    "segmenter": load_segmenter,
    "VOC": lambda path: read_voc(path, ("Car",)),
    "YOLO": lambda path: read_yolo(path, ["car"], ("Car",)),
    "COCO": lambda path: read_coco(path, ("Car",)),
    "predictions": read_predictions,
    "split": lambda path: read_split(path, ()),
    "conditions": read_conditions,
    "manifest": lambda path: read_manifest(path.parent),
}


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, device])
@pytest.mark.parametrize("kind", READERS)
def test_readers_refuse_them_at_once(tmp_path, kind, make):
    path = tmp_path / MANIFEST
    make(path)
    with watchdog(), pytest.raises(EmmaError, match=MANIFEST):
        READERS[kind](path)
    assert file_sha256(path) is None


def test_a_pipe_among_labels_is_named(tmp_path):
    root = write_pairs(tmp_path / "M3FD", 6, folders=("Ir", "Vis"))
    (root / "labels").mkdir()
    (root / "labels" / "classes.txt").write_text("Car\n")
    pipe(root / "labels" / "000.txt")
    with watchdog():
        outcome = emma("detect", "M3FD", "--root", root, "--ir", "--split", "thirds", "--dry-run", cwd=tmp_path)
    assert outcome.returncode == 1
    assert "000.txt: cannot be read (not a regular file)" in outcome.stderr


def test_a_pipe_among_masks_is_no_mask(tmp_path):
    pairs = find_pairs(dataset_spec("TNO"), write_pairs(tmp_path, 1)).pairs
    pipe(tmp_path / "000.png")
    with pytest.raises(EmmaError, match="1 of 1 pairs have no label, first all/000"):
        find_masks(SEGMENTATIONS["MSRS"], tmp_path, pairs, tmp_path)


@pytest.mark.parametrize(
    "fault", [lambda **_: torch.empty(2**55), lambda **_: bytearray(2**60)], ids=["torch", "Python"]
)
def test_too_little_memory_is_one_line(monkeypatch, capsys, fault):
    monkeypatch.setattr(cli, "build_app", lambda: fault)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("Error: not enough memory")


def test_other_faults_of_the_program_stay_faults(monkeypatch):
    monkeypatch.setattr(cli, "build_app", lambda: lambda **_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError):
        cli.main()


def test_an_image_that_does_not_fit_into_memory_is_not_called_damaged(tmp_path, monkeypatch):
    from emma_core import images

    write_image(tmp_path / "a.png", random_image(0, (8, 8)))
    monkeypatch.setattr(images, "_decode", lambda _: bytearray(2**60))
    with pytest.raises(EmmaError, match=r"a\.png: not enough memory to decode it"):
        read_image(tmp_path / "a.png")

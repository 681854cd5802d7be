"""A damaged file of each kind, as a person meets it: exit status 1 or 2, and one line that names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import emma, write_pairs, write_released_checkpoint
from PIL import Image
from tiny import TINY_DETECTOR, TINY_SEGMENTER
from victims import TINY_SENSING

from emma_core.checkpoint import save_checkpoint
from emma_core.config import SensingConfig, UFuserConfig
from emma_core.images import write_image
from emma_core.models.ufuser import UFuser
from emma_core.models.unet import SensingUNet
from emma_core.samples import write_samples


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Everything that commands read, undamaged."""
    world = tmp_path_factory.mktemp("whole")
    write_pairs(world / "TNO", 4)
    write_samples(world, ["M3FD", "MSRS"], 10, size=(64, 96))
    for number, form in enumerate(("png", "jpg", "bmp", "tif", "webp")):
        levels = np.random.default_rng(number).integers(0, 255, (24, 32), np.uint8)
        Image.fromarray(levels).save(world / f"one.{form}")
    write_image(world / "other.png", np.full((24, 32), 0.5, np.float32))
    emma("fuse-dataset", "TNO", "--root", world / "TNO", "--method", "laplacian", "--runs", world / "runs")
    emma("evaluate", "TNO", "--root", world / "TNO", "--runs", world / "runs")
    write_released_checkpoint(world / "EMMA.pth")
    save_checkpoint(world / "fuser.safetensors", UFuser(UFuserConfig((8, 8, 8, 8))), recipe="test", provenance={})
    save_checkpoint(world / "sensing.safetensors", SensingUNet(SensingConfig((4, 8))), recipe="test", provenance={})
    for name, text in (("detector", TINY_DETECTOR), ("segmenter", TINY_SEGMENTER), ("sensing", TINY_SENSING)):
        (world / f"{name}.toml").write_text(text)
    keys = [f"all/{number:05d}" for number in range(10)]
    (world / "split.json").write_text(json.dumps({"train": keys[:6], "val": keys[6:7], "test": keys[7:]}))
    (world / "lights.json").write_text(json.dumps({f"{number:05d}": "night" for number in range(10)}))
    (world / "ids.txt").write_text("000\n001\n")
    return world


ONE = "fuse --vis other.png --method max --out fused.png --ir"
TNO = "TNO --root TNO --method laplacian --runs runs"
DETECT = "detect --root M3FD --ir --split thirds --config detector.toml"
SEGMENT = "segment --root MSRS --ir --config segmenter.toml"
TRAIN = "train sensing --modality ir --data mine=TNO/ir,TNO/vi --recipe quick --config sensing.toml"
FUSER = TRAIN.replace("sensing --modality ir", "fuser")
CASES = [
    *((f"one.{form}", f"{ONE} one.{form}") for form in ("png", "jpg", "bmp", "tif", "webp")),
    ("runs/fused/TNO/laplacian/manifest.json", f"fuse-dataset {TNO}"),
    ("runs/fused/TNO/laplacian/manifest.json", f"fuse-dataset {TNO} --overwrite"),
    ("runs/fused/TNO/laplacian/manifest.json", "evaluate TNO --root TNO --runs runs"),
    ("runs/fused/TNO/laplacian/all/000.png", "evaluate TNO --root TNO --runs runs"),
    ("EMMA.pth", "fuse-dataset TNO --root TNO --weights EMMA.pth"),
    ("fuser.safetensors", "fuse-dataset TNO --root TNO --weights fuser.safetensors"),
    ("ids.txt", f"fuse-dataset {TNO} --split-file ids.txt"),
    ("M3FD/Annotation/00003.xml", f"{DETECT} --dry-run"),
    ("split.json", "detect --root M3FD --ir --split-file split.json --dry-run"),
    ("lights.json", f"{DETECT} --conditions lights.json --dry-run"),
    ("detector.toml", f"{DETECT} --dry-run"),
    ("fuser.safetensors", "detect --root M3FD --ir --split thirds --evaluate-only fuser.safetensors"),
    ("EMMA.pth", f"{DETECT} --pretrained EMMA.pth"),
    ("segmenter.toml", f"{SEGMENT} --dry-run"),
    ("MSRS/train/Segmentation_labels/*", f"{SEGMENT} --runs out"),
    ("MSRS/test/ir/*", f"{SEGMENT} --runs out"),
    ("sensing.toml", f"{TRAIN} --dry-run"),
    (
        "sensing.safetensors",
        f"{FUSER} --sensing-ir sensing.safetensors --sensing-vis sensing.safetensors",
    ),
]


@pytest.mark.parametrize(("damaged", "command"), CASES)
def test_one_line_and_a_status(whole, tmp_path, damaged, command):
    world = Path(shutil.copytree(whole, tmp_path / "world"))
    file = sorted(world.glob(damaged))[0]
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + b"\xff\x00" + content[len(content) // 2 + 9 : -len(content) // 4])
    done = emma(*command.split(), cwd=world)
    assert done.returncode in {1, 2}, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert sum(line.startswith("Error: ") for line in lines) == 1, done.stderr
    assert lines[-1].startswith("Error: ")
    assert file.stem in lines[-1] or str(file.parent) in lines[-1], "which file it was is not said"
    assert "Traceback" not in done.stderr


def test_a_report_shows_what_can_be_read_and_names_the_rest(whole, tmp_path):
    """Damaged results, comparisons and manifests leave a warning; only if nothing can be read it is an error."""
    world = Path(shutil.copytree(whole, tmp_path / "world"))
    results = sorted(world.glob("runs/evaluate/TNO/all/*/result.json"))
    results[0].write_bytes(results[0].read_bytes()[:50])
    (world / "runs/evaluate/TNO/all/comparisons.json").write_text("{")
    done = emma("report", "--runs", world / "runs")
    assert done.returncode == 0
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["Warning"] * 2
    for file in (*results, world / "runs/fused/TNO/laplacian/manifest.json"):
        file.write_text("[")
    done = emma("report", "--runs", world / "runs")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot; first: " in done.stderr

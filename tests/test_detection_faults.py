"""Data sets of which something cannot be used: ``detect`` refuses before anything is trained, in a dry run too."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import emma
from detection_bench import make_bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return make_bench(tmp_path_factory.mktemp("detect"))


@pytest.fixture
def root(bench, tmp_path):
    return shutil.copytree(bench / "data" / "M3FD", tmp_path / "M3FD")


@pytest.fixture
def detect(bench, root, tmp_path):
    """``emma-tasks detect`` on a copy of the data, with a recipe of seconds; nothing is written but under tmp_path."""
    options = ["--root", root, "--ir", "--vis", "--runs", tmp_path / "runs"]

    def run(*more):
        training = [] if "--evaluate-only" in more else ["--config", bench / "tiny.toml"]
        return emma("detect", *options, *training, *more)

    return run


def listed(tmp_path, name, numbers):
    path = tmp_path / name
    path.write_text("\n".join(f"{number:05d}" for number in numbers))
    return path


WAYS = "mend the data, or list the pairs to use: --test-list with --train-list (or --evaluate-only), or --split-file"


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--evaluate-only", "w.safetensors"]])
def test_a_missing_mate_is_refused_before_anything_is_done(detect, root, tmp_path, more):
    (root / "Ir" / "00003.png").unlink()
    outcome = detect("--split", "thirds", *more)
    assert outcome.returncode == 1
    assert outcome.stderr.splitlines() == [
        f"Error: M3FD-sample: 1 pair cannot be used (all/00003: its mate is missing in {root / 'Ir'}); {WAYS}"
    ]
    assert not (tmp_path / "runs").exists()


def test_three_of_many_are_named(detect, root):
    for number in range(5):
        (root / "Vis" / f"{number:05d}.png").unlink()
    (line,) = detect("--split", "thirds", "--dry-run").stderr.splitlines()
    assert "5 pairs cannot be used (all/00000: its mate" in line
    assert "all/00002: " in line
    assert "all/00003" not in line
    assert f"; and 2 more); {WAYS}" in line


def test_lists_of_the_pairs_to_use_are_a_way_out(detect, root, tmp_path):
    (root / "Ir" / "00003.png").unlink()
    test, train = listed(tmp_path, "test.txt", [2, 5]), listed(tmp_path, "train.txt", [0, 1, 4, 6])
    split = tmp_path / "own.json"
    split.write_text(json.dumps({"train": ["00000"], "val": ["00001"], "test": ["00002"]}))
    for lists in (["--test-list", test, "--train-list", train], ["--split-file", split]):
        outcome = detect(*lists, "--dry-run")
        assert (outcome.returncode, "00003" in outcome.stderr) == (0, False), outcome.stderr
        assert "Would train" in outcome.stdout
    frozen = detect("--test-list", test, "--evaluate-only", "w.safetensors", "--dry-run")
    assert (frozen.returncode, "on 2 images" in frozen.stdout) == (0, True), frozen.stderr
    outcome = detect("--test-list", test, "--dry-run")  # would train on whatever the list does not name
    assert (outcome.returncode, "1 pair cannot be used" in outcome.stderr) == (1, True)
    outcome = detect("--test-list", listed(tmp_path, "all.txt", [2, 3]), "--train-list", train, "--dry-run")
    assert (outcome.returncode, "1 of 2 ids are no pairs with boxes here, first '00003'" in outcome.stderr) == (1, True)


@pytest.mark.parametrize("more", [[], ["--evaluate-only", "w.safetensors"]])
def test_a_dry_run_sees_boxes_of_another_size(detect, root, more):
    label = root / "Annotation" / "00002.xml"  # a test pair
    label.write_text(label.read_text().replace("<width>128<", "<width>64<"))
    outcome = detect("--split", "thirds", "--dry-run", *more)
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert "00002.png is 128 x 96, its boxes are of 64 x 96" in outcome.stderr.splitlines()[-1]


def test_a_dry_run_of_a_frozen_detector_reads_no_other_than_test_images(detect, root):
    label = root / "Annotation" / "00003.xml"  # a training pair
    label.write_text(label.read_text().replace("<width>128<", "<width>64<"))
    assert detect("--split", "thirds", "--dry-run").returncode == 1
    outcome = detect("--split", "thirds", "--dry-run", "--evaluate-only", "w.safetensors")
    assert outcome.returncode == 0, outcome.stderr

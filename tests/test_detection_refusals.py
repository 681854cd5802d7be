"""What ``emma-tasks detect`` refuses, before anything is trained: options, inputs and images that cannot be used."""

from __future__ import annotations

import shutil

import pytest
from conftest import emma
from detection_bench import detect, make_bench, untrained

from detection import command
from emma_core.images import read_image, write_image


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return make_bench(tmp_path_factory.mktemp("detect"))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], "paper"),
        (["--recipe", "Quick"], "quick"),
        (["--recipe", "quick", "--epochs", "30"], "quick"),
        (["--recipe", "quick", "--epochs", "20"], "quick, changed"),
        (["--size", "320"], "paper, changed"),
        (["--model", "yolov5n"], "paper, changed"),
        (["--config", "batch = 4"], "paper, changed"),
        (["--config", "batch = 8"], "paper"),
    ],
)
def test_a_recipe_that_was_changed_says_so(options, name, tmp_path, monkeypatch):
    if "--config" in options:
        (tmp_path / "own.toml").write_text(options[1])
        options = ["--config", tmp_path / "own.toml"]
    jobs = []
    monkeypatch.setattr(command, "find_dataset", lambda *_: 1 / 0)  # nothing is read
    monkeypatch.setattr(command, "_Training", lambda *job: jobs.append(job))
    with pytest.raises(ZeroDivisionError):
        emma("detect", *options)
    assert [job[0] for job in jobs] == [name]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--recipe", "paper"),
        ("--config", "a.toml"),
        ("--model", "yolov5n"),
        ("--pretrained", "w.pt"),
        ("--epochs", "3"),
        ("--seeds", "0"),
    ],
)
def test_options_about_training_go_not_with_a_frozen_detector(option, value):
    outcome = emma("detect", "--evaluate-only", "w.safetensors", option, value)
    assert outcome.returncode == 2
    assert f"{option} is about training, and --evaluate-only trains nothing" in outcome.stderr


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--split", "thirds", "--test-list", "a.txt"], 2, "Give one of --split, --split-file, and --test-list"),
        (["--train-list", "a.txt"], 2, "go with --test-list"),
        (["--split", "random"], 2, "--split 'random': expected paper"),
        (["--test-list", "nowhere.txt"], 1, "nowhere.txt: no such file"),
        (["--recipe", "slow"], 2, "Unknown recipe 'slow'; known: paper, quick, demo"),
        (["--size", "100"], 2, "expected a multiple of 32 pixels"),
        (["--model", "resnet"], 2, "--model resnet: no such model"),
        (["--seeds", "one"], 2, "--seeds 'one': expected whole numbers"),
        (["--seeds", "20240101123"], 2, "--seeds '20240101123': expected numbers below 4294967296"),
        (["--device", "quantum"], 2, "Unknown device 'quantum'"),
        (["--labels", "nowhere"], 1, "nowhere: no such file or folder; expected labels"),
        (["--conditions", "nowhere.json"], 1, "no JSON object of conditions"),
        (["--pretrained", "nowhere.pt"], 1, "nowhere.pt: cannot be read"),
        (["--fused-dir", "X=nowhere"], 1, "no such folder"),
    ],
)
def test_requests_that_cannot_be_met(bench, options, status, message):
    split = [] if {"--split", "--test-list", "--train-list"} & set(options) else ["--split", "thirds"]
    outcome = detect(bench, *split, *options)
    assert (outcome.returncode, len(outcome.stderr.splitlines()[-1:])) == (status, 1)
    assert message in outcome.stderr.splitlines()[-1]


def test_frozen_detectors_that_are_none(bench):
    outcome = untrained(bench, "--split", "thirds", "--evaluate-only", "nowhere.pt")
    assert (outcome.returncode, "nowhere.pt: cannot be read" in outcome.stderr.splitlines()[-1]) == (1, True)
    outcome = untrained(bench, "--evaluate-only", "nowhere.pt", "--size", "100")
    assert (outcome.returncode, "--size 100: expected a multiple of 32 pixels" in outcome.stderr) == (2, True)


def test_a_missing_fused_image_stops_before_training(bench, tmp_path):
    runs = tmp_path / "runs"
    outcome = detect(bench, "--split", "thirds", "--runs", runs)
    assert outcome.returncode == 1
    assert "Make them with: emma-tasks fuse-dataset M3FD --root" in outcome.stderr
    emma("fuse-dataset", "M3FD", "--root", bench / "data" / "M3FD", "--runs", runs, "--method", "mean")
    (runs / "fused" / "M3FD-sample" / "mean" / "all" / "00003.png").unlink()
    outcome = detect(bench, "--split", "thirds", "--runs", runs)
    assert outcome.returncode == 1
    assert "1 of 12 fused images are missing" in outcome.stderr
    assert not (runs / "detect" / "M3FD-sample").exists()


@pytest.mark.parametrize("name", ["TNO", "mine"])
def test_data_sets_without_boxes(bench, name):
    outcome = emma("detect", name, "--root", bench / "data" / "M3FD")
    assert outcome.returncode == 2
    (line,) = outcome.stderr.splitlines()
    known = "known: M3FD, MSRS, RoadScene, or a file FILE.toml that declares yours (docs/detection.md)"
    assert line == f"Error: No boxes of {name!r} are known; {known}"


@pytest.mark.parametrize(
    ("more", "spoilt", "said"),
    [
        ([], (0, 1, 3, 4, 7, 9, 10), "not one box in the 7 images to train on"),
        ([], (2, 5, 8, 11), "not one box in the 4 images to test on"),
        (["--evaluate-only", "w.safetensors"], (2, 5, 8, 11), "not one box in the 4 images to test on"),
    ],
)
def test_nothing_is_trained_or_tested_without_a_box(bench, tmp_path, more, spoilt, said):
    root = shutil.copytree(bench / "data" / "M3FD", tmp_path / "M3FD")
    for number in spoilt:
        (root / "Annotation" / f"{number:05d}.xml").write_text("<annotation/>")
    outcome = untrained(bench, "--split", "thirds", "--dry-run", *more, "--root", root)
    assert outcome.returncode == 1
    (line,) = outcome.stderr.splitlines()
    assert f"{root / 'Annotation'}: {said} (0 of all pairs had no area); expected some" in line


def test_a_frozen_detector_needs_no_box_to_train_on(bench, tmp_path):
    root = shutil.copytree(bench / "data" / "M3FD", tmp_path / "M3FD")
    for number in (0, 1, 3, 4, 7, 9, 10):
        (root / "Annotation" / f"{number:05d}.xml").write_text("<annotation/>")
    weights = tmp_path / "w.safetensors"
    weights.touch()
    outcome = untrained(bench, "--split", "thirds", "--ir", "--dry-run", "--evaluate-only", weights, "--root", root)
    assert outcome.returncode == 0, outcome.stderr
    assert "Split thirds: 4 to test (hash" in outcome.stderr
    assert "to train" not in outcome.stderr


SPOILT = {
    "size": (lambda image, path: write_image(path, image[::2, ::2]), "is 64 x 48, its boxes are of 128 x 96"),
    "damage": (lambda _, path: path.write_bytes(path.read_bytes()[:2000]), "damaged or truncated image"),
}


@pytest.mark.parametrize("number", [1, 2], ids=["training image", "test image"])
@pytest.mark.parametrize("kind", SPOILT)
def test_an_image_that_cannot_be_used_stops_before_training(bench, tmp_path, number, kind):
    folder = shutil.copytree(bench / "data" / "M3FD" / "Vis", tmp_path / "theirs")
    path = folder / f"{number:05d}.png"
    spoil, message = SPOILT[kind]
    spoil(read_image(path), path)
    outcome = detect(bench, "--split", "thirds", "--ir", "--fused-dir", f"X={folder}", "--runs", tmp_path / "runs")
    assert outcome.returncode == 1
    assert f"{path.name}" in outcome.stderr
    assert message in outcome.stderr
    assert not list((tmp_path / "runs").rglob("*.toml"))

"""``emma-tasks detect`` as people run it: the table of all rows, going on, one frozen detector, and refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import emma, emma_process, tree

from detection import offline
from detection.classes import dataset_classes
from detection.command import DEMO_START, demo
from detection.recipes import RECIPES
from detection.weights import read_weights
from emma_core.comparisons import read_comparisons
from emma_core.images import read_image, write_image
from emma_core.pictures import read_index
from emma_core.results import read_result
from emma_core.samples import write_samples

TINY = """
model = "yolov5n"
width = 0.0625
size = 64
epochs = 2
batch = 4
nominal_batch = 4
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Rendered scenes, their pixel-wise maximum, and a recipe of seconds."""
    out = tmp_path_factory.mktemp("detect")
    (root,) = write_samples(out / "data", ["M3FD"], pairs=12, size=(96, 128))
    emma("fuse-dataset", "M3FD", "--root", root, "--runs", out / "runs", "--method", "max")
    (out / "tiny.toml").write_text(TINY)
    (out / "lights.json").write_text(json.dumps({f"{n:05d}": "night" if n % 2 else "day" for n in range(12)}))
    return out


def detect(bench, *more):
    options = ["--root", bench / "data" / "M3FD", "--runs", bench / "runs", "--config", bench / "tiny.toml"]
    return emma("detect", *options, *more)


@pytest.fixture(scope="module")
def done(bench):
    outcome = detect(bench, "--split", "thirds", "--seeds", "0,1", "--conditions", bench / "lights.json")
    assert outcome.returncode == 0, outcome.stderr
    return outcome


def table_folder(bench):
    return bench / "runs" / "detect" / "M3FD-sample" / "thirds"


def test_every_row_and_seed_leaves_a_result(bench, done):
    results = [
        read_result(table_folder(bench) / row / f"seed{seed}" / "result.json")
        for row in ("IR", "VI", "max")
        for seed in (0, 1)
    ]
    first = results[0]
    names = [column.name for column in first.columns]
    assert names[:7] == ["Bus", "Car", "Lamp", "Motorcycle", "People", "Truck", "mAP@0.5"]
    assert {result.table_key for result in results} == {first.table_key}
    assert [result.seed for result in results] == [0, 1] * 3
    assert [result.baseline for result in results] == [True] * 6
    assert (first.count, first.parts, first.split) == (4, ("all",), "thirds")
    assert first.recipe["model"] == "yolov5n"
    assert first.recipe["start"] == "from scratch"
    assert first.sources_hash
    assert all(result.seconds > 0 for result in results)


def test_it_says_what_was_read_and_found(bench, done):
    assert "M3FD-sample: 12 pairs with boxes (Bus" in done.stderr
    assert "Split thirds: 7 to train, 1 to validate, 4 to test" in done.stderr
    assert "No --pretrained weights: detectors start from scratch" in done.stderr
    assert "Object detection: M3FD-sample thirds, 4 images" in done.stdout
    assert "mean and standard deviation over 2 seeds" in " ".join(done.stdout.split())
    assert "max and IR cannot be told apart: mAP@0.5" in done.stdout or "max finds" in done.stdout


def test_what_lies_beside_the_results(bench, done):
    folder = table_folder(bench)
    assert {path.name for path in (folder / "VI" / "seed1").iterdir() if not path.name.startswith("events")} == {
        "conditions.json",
        "config.toml",
        "log.jsonl",
        "predictions.json",
        "result.json",
        "weights.safetensors",
    }
    lights = json.loads((folder / "VI" / "seed1" / "conditions.json").read_text())
    assert [lights[light]["images"] for light in ("day", "night")] == [2, 2]
    split = json.loads((folder / "split.json").read_text())
    truth = json.loads((folder / "truth.json").read_text())
    assert [image["file_name"] for image in truth["images"]] == split["test"] == [f"all/{n:05d}" for n in (2, 5, 8, 11)]
    comparisons = read_comparisons(folder / "comparisons.json")
    assert {(each.row, each.against) for each in comparisons if each.column == "mAP@0.5"} == {
        ("max", "IR"),
        ("max", "VI"),
    }
    pictures = read_index(folder / "pictures" / "pictures.json")
    assert {"curves.png", "confusion.png"} <= {picture.file for picture in pictures}
    for picture in pictures:
        assert min(read_image(folder / "pictures" / picture.file).shape[:2]) > 100


def test_the_report_shows_the_table(bench, done):
    assert emma("report", "--runs", bench / "runs").returncode == 0
    assert "Object detection: M3FD-sample thirds" in (bench / "runs" / "report" / "tables.md").read_text()


def test_again_trains_nothing(bench, done):
    times = {path: path.stat().st_mtime_ns for path in table_folder(bench).rglob("weights.safetensors")}
    again = detect(bench, "--split", "thirds", "--seeds", "0,1", "--conditions", bench / "lights.json")
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in table_folder(bench).rglob("weights.safetensors")} == times
    assert again.stdout == done.stdout


def test_a_run_of_one_row_keeps_what_others_left(bench, done):
    folder = table_folder(bench)
    before = [(folder / name).read_bytes() for name in ("comparisons.json", "pictures/pictures.json")]
    one = detect(bench, "--split", "thirds", "--ir", "--conditions", bench / "lights.json")
    assert one.stdout == done.stdout
    assert [(folder / name).read_bytes() for name in ("comparisons.json", "pictures/pictures.json")] == before


def test_other_settings_into_the_same_folder_are_refused(bench, done):
    outcome = detect(bench, "--split", "thirds", "--epochs", "3")
    assert outcome.returncode == 2
    assert "holds a run of other settings (epochs: 2, now 3); remove it, or choose another folder" in outcome.stderr


def test_a_frozen_detector_on_every_row(bench, done):
    weights = table_folder(bench) / "VI" / "seed0" / "weights.safetensors"
    outcome = detect(bench, "--split", "thirds", "--evaluate-only", weights)
    assert outcome.returncode == 0, outcome.stderr
    (folder,) = table_folder(bench).parent.glob("thirds-weights-*")
    result = read_result(folder / "VI" / "result.json")
    trained = read_result(weights.parent / "result.json")
    assert result.values == trained.values  # the same detector on the same images
    assert result.seed is None
    assert result.recipe["recipe"] == "evaluate-only"
    predictions = (folder / "VI" / "predictions.json").read_bytes()
    assert predictions == (weights.parent / "predictions.json").read_bytes()


def test_the_split_of_a_run_can_be_given_to_another(bench, done):
    outcome = detect(bench, "--split-file", table_folder(bench) / "split.json", "--dry-run")
    assert outcome.returncode == 0
    assert "7 to train, 1 to validate, 4 to test" in outcome.stderr
    assert "Would train yolov5n for 2 epochs at 64 pixels on 7 images, for each row (IR, VI, max)" in outcome.stdout


def test_dry_run_writes_nothing(bench, done):
    before = tree(bench)
    outcome = detect(bench, "--split", "blocks", "--ir", "--dry-run")
    assert outcome.returncode == 0
    assert "for each row (IR) and seed (0)" in outcome.stdout
    assert tree(bench) == before
    outcome = detect(bench, "--split", "thirds", "--evaluate-only", "w.safetensors", "--dry-run")
    assert "Would score w.safetensors on 4 images of each row: IR, VI, max" in outcome.stdout


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
        (["--device", "quantum"], 2, "Unknown device 'quantum'"),
        (["--labels", "nowhere"], 1, "--labels nowhere: no such file or folder"),
        (["--conditions", "nowhere.json"], 1, "no JSON object of conditions"),
        (["--pretrained", "nowhere.pt"], 1, "nowhere.pt: cannot be read"),
        (["--evaluate-only", "nowhere.pt"], 1, "nowhere.pt: cannot be read"),
        (["--fused-dir", "X=nowhere"], 1, "no such folder"),
    ],
)
def test_requests_that_cannot_be_met(bench, options, status, message):
    split = [] if {"--split", "--test-list", "--train-list"} & set(options) else ["--split", "thirds"]
    outcome = detect(bench, *split, *options)
    assert (outcome.returncode, len(outcome.stderr.splitlines()[-1:])) == (status, 1)
    assert message in outcome.stderr.splitlines()[-1]


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


def test_data_sets_without_boxes(bench):
    outcome = emma("detect", "TNO", "--root", bench / "data" / "M3FD")
    assert outcome.returncode == 2
    assert "has no boxes to detect; expected M3FD, MSRS, RoadScene" in outcome.stderr


def test_images_of_another_size_are_named(bench, tmp_path):
    folder = tmp_path / "theirs"
    for number in range(12):
        image = read_image(bench / "data" / "M3FD" / "Vis" / f"{number:05d}.png")
        write_image(folder / f"{number:05d}.png", image[::2, ::2])
    outcome = detect(bench, "--split", "thirds", "--fused-dir", f"Half={folder}", "--runs", tmp_path / "runs")
    assert outcome.returncode == 1
    assert "is 64 x 48, its boxes are of 128 x 96" in outcome.stderr


def test_killed_for_real_it_goes_on(bench, tmp_path):
    command = [sys.executable, "-m", "emma_core.cli", "detect", "--root", bench / "data" / "M3FD", "--ir"]
    command += ["--split", "thirds", "--config", bench / "tiny.toml", "--epochs", "40", "--runs", tmp_path]
    log = tmp_path / "detect" / "M3FD-sample" / "thirds" / "IR" / "seed0" / "log.jsonl"
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= 3):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    reached = log.read_text().count("\n")
    assert reached < 40
    outcome = emma_process(*command[3:])
    assert outcome.returncode == 0, outcome.stderr
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, 41))
    assert (log.parent / "result.json").exists()


def test_help_loads_nothing_heavy_and_shows_an_example():
    outcome = emma("detect", "--help")
    assert outcome.returncode == 0
    assert "Example: emma-tasks detect M3FD --root" in " ".join(outcome.stdout.split())
    code = "import sys, detection.command; print(sorted({'torch', 'ultralytics', 'cv2', 'numpy'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_demo_begins_with_shipped_weights_that_fit_its_recipe(tmp_path):
    offline.keep_to(tmp_path)
    from detection import yolo

    weights = read_weights(DEMO_START)
    assert weights.info.classes == dataset_classes("M3FD")
    network = yolo.build_network(RECIPES["demo"], 6, 0)
    _, said = yolo.matching_tensors(network, weights)
    assert "145 of 145 layers matched" in said
    assert DEMO_START.stat().st_size < 2_000_000


@pytest.mark.slow
def test_the_demo_shows_fused_above_each_camera(tmp_path):
    (root,) = write_samples(tmp_path / "data", ["M3FD"], pairs=48)
    emma("fuse-dataset", "M3FD", "--root", root, "--runs", tmp_path / "runs")
    demo(tmp_path / "data", tmp_path / "runs")
    found = {
        row: read_result(tmp_path / "runs" / "detect" / "M3FD-sample" / "thirds" / row / "seed0" / "result.json")
        for row in ("IR", "VI", "EMMA")
    }
    means = {row: result.values["mAP@0.5"] for row, result in found.items()}
    assert means["EMMA"] > max(means["IR"], means["VI"]) + 2
    assert found["IR"].values["Lamp"] < found["VI"].values["Lamp"] - 20
    assert found["VI"].values["People"] < found["IR"].values["People"] - 5


@pytest.mark.data
def test_roadscene_without_its_unlabelled_pairs(data, tmp_path):
    outcome = emma(
        "detect", "RoadScene", "--root", data / "RoadScene", "--ir", "--vis", "--runs", tmp_path, "--dry-run"
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "RoadScene: 185 pairs with boxes (Person" in outcome.stderr
    assert "Left out 36 pairs without a label file" in outcome.stderr


@pytest.mark.slow
@pytest.mark.data
def test_the_published_layout_of_m3fd_end_to_end(data, tmp_path):
    root, runs = data / "M3FD", tmp_path / "runs"
    emma("fuse-dataset", "M3FD", "--root", root, "--runs", runs, "--method", "max")
    (tmp_path / "tiny.toml").write_text(TINY.replace("size = 64", "size = 320"))
    options = ["--root", root, "--runs", runs, "--config", tmp_path / "tiny.toml"]
    outcome = emma("detect", "M3FD", *options)
    assert outcome.returncode == 0, outcome.stderr
    assert "Split paper: 9 to train, 2 to validate, 2 to test" in outcome.stderr
    assert "EMMA" in outcome.stdout  # the paper's rows stand beside
    assert emma("detect", "M3FD", *options, "--split", "scene", "--dry-run").returncode == 0


@pytest.mark.slow
@pytest.mark.data
def test_public_weights_on_real_night_and_day_images(data, tmp_path):
    """YOLOv5n of COCO, untouched, on 80 pairs of MSRS: visible above infrared, the maximum above both."""
    msrs, runs = data / "MSRS", tmp_path / "runs"
    test = msrs / "test_list.txt"
    emma("fuse-dataset", "MSRS", "--root", msrs, "--split-file", test, "--method", "max", "--runs", runs)
    weights = data.parent / "weights" / "yolov5n_coco_state_dict.pt"
    outcome = emma("detect", "MSRS", "--root", msrs, "--test-list", test, "--evaluate-only", weights, "--runs", runs)
    assert outcome.returncode == 0, outcome.stderr
    found = {path.parent.name: read_result(path).values["mAP@0.5"] for path in runs.glob("detect/MSRS/*/*/result.json")}
    assert found["IR"] == pytest.approx(31.1, abs=0.5)
    assert found["VI"] == pytest.approx(42.5, abs=0.5)
    assert found["max"] == pytest.approx(49.1, abs=0.5)

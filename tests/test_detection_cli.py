"""``emma-tasks detect`` as people run it: the table of all rows, going on, one frozen detector, and refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import emma, emma_process, tree

from detection import command, offline
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


def untrained(bench, *more):
    return emma("detect", "--root", bench / "data" / "M3FD", "--runs", bench / "runs", *more)


def detect(bench, *more):
    return untrained(bench, "--config", bench / "tiny.toml", *more)


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
    assert names[-2:] == ["mAP@0.5 day", "mAP@0.5 night"]
    assert {result.table_key for result in results} == {first.table_key}
    assert [result.seed for result in results] == [0, 1] * 3
    assert [result.baseline for result in results] == [True] * 6
    assert (first.count, first.parts, first.split) == (4, ("all",), "thirds")
    assert first.recipe["recipe"] == "paper, changed"
    assert first.recipe["model"] == "yolov5n"
    assert first.comparable
    assert first.recipe["start"] == "from scratch"
    assert first.sources_hash
    assert all(result.seconds > 0 for result in results)
    inputs = {result.row: result.source["images_sha256"] for result in results}
    assert len(set(inputs.values())) == 3
    assert all(result.source["images_sha256"] == inputs[result.row] for result in results)  # one for both seeds


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
    figures = read_result(folder / "VI" / "seed1" / "result.json").values
    for light in ("day", "night"):
        assert figures[f"mAP@0.5 {light}"] == pytest.approx(lights[light]["AP@0.5"]["mAP@0.5"], abs=1e-3)
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


def dates(folder):
    """When each file of the rows was written, but for those of the whole table."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/seed*/*")}


def test_again_trains_nothing(bench, done):
    before = dates(table_folder(bench))
    again = detect(bench, "--split", "thirds", "--seeds", "0,1", "--conditions", bench / "lights.json")
    assert again.returncode == 0
    assert dates(table_folder(bench)) == before
    assert again.stdout == done.stdout


def test_finished_rows_are_scored_anew_by_the_rules_of_the_last_call(bench, done, tmp_path):
    """What an older version wrote gets the new columns, rows that were not asked for too, and nothing is trained."""
    copy = shutil.copytree(bench / "runs", tmp_path / "runs") / "detect" / "M3FD-sample" / "thirds"
    results = {path: json.loads(path.read_text()) for path in copy.glob("*/seed*/result.json")}
    for path, content in results.items():
        old = content | {"columns": content["columns"][:7], "source": {}, "recipe": {"recipe": "paper"}}
        old["values"] = dict.fromkeys(content["values"], 1.0)
        path.write_text(json.dumps(old))
    (copy / "comparisons.json").unlink()
    weights = {path: path.stat().st_mtime_ns for path in copy.glob("*/seed*/weights.safetensors")}
    options = ["--split", "thirds", "--ir", "--conditions", bench / "lights.json"]
    again = detect(bench, *options, "--runs", tmp_path / "runs")
    assert again.returncode == 0, again.stderr
    for path, content in results.items():
        new = json.loads(path.read_text())
        assert (new["source"].pop("images_sha256"), new["source"]) == (content["source"].pop("images_sha256"), {})
        assert {**new, "source": 0} == {**content, "source": 0}
    comparisons = [folder / "comparisons.json" for folder in (copy, table_folder(bench))]
    assert comparisons[0].read_bytes() == comparisons[1].read_bytes()
    assert {path: path.stat().st_mtime_ns for path in weights} == weights


def test_what_was_lost_of_finished_runs_is_made_again_and_columns_go_for_all_rows(bench, done, tmp_path):
    copy = shutil.copytree(bench / "runs", tmp_path / "runs") / "detect" / "M3FD-sample" / "thirds"
    (copy / "IR" / "seed0" / "predictions.json").unlink()
    (copy / "VI" / "seed0" / "result.json").write_text("{")
    outcome = detect(bench, "--split", "thirds", "--ir", "--vis", "--runs", tmp_path / "runs")  # without conditions
    assert outcome.returncode == 0, outcome.stderr
    for path in table_folder(bench).glob("*/seed*/*"):
        if path.name in {"weights.safetensors", "predictions.json", "log.jsonl"}:
            assert (copy / path.relative_to(table_folder(bench))).read_bytes() == path.read_bytes()
    results = [read_result(path) for path in copy.glob("*/seed*/result.json")]
    assert len(results) == 6
    assert len({result.table_key for result in results}) == 1
    assert results[0].columns[-1].name == "Recall"


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


def test_rows_of_other_settings_do_not_come_into_the_folder_of_a_table(bench, done):
    """A seed that is not there yet, by another recipe: two tables in one folder would take each other's differences."""
    before = tree(table_folder(bench))
    outcome = detect(bench, "--split", "thirds", "--seeds", "7", "--epochs", "3")
    assert outcome.returncode == 2
    assert "holds a run of other settings (epochs: 2, now 3)" in outcome.stderr
    assert tree(table_folder(bench)) == before


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


def test_a_frozen_detector_on_every_row(bench, done):
    weights = table_folder(bench) / "VI" / "seed0" / "weights.safetensors"
    options = ["--split", "thirds", "--conditions", bench / "lights.json", "--evaluate-only", weights]
    outcome = untrained(bench, *options)
    assert outcome.returncode == 0, outcome.stderr
    (folder,) = table_folder(bench).parent.glob("thirds-weights-*")
    result = read_result(folder / "VI" / "result.json")
    trained = read_result(weights.parent / "result.json")
    assert result.values == trained.values  # the same detector on the same images
    assert result.seed is None
    assert result.recipe["recipe"] == "evaluate-only"
    assert not result.comparable
    assert "One detector scores all rows; it was not trained for any of them here." in result.notes
    assert len(result.source["images_sha256"]) == 64
    predictions = (folder / "VI" / "predictions.json").read_bytes()
    assert predictions == (weights.parent / "predictions.json").read_bytes()
    before = tree(folder)
    assert untrained(bench, *options, "--ir", "--size", "96").returncode == 0
    assert tree(folder) == before, "another size has another folder"
    (smaller,) = table_folder(bench).parent.glob("thirds-weights-*-96px/*/result.json")
    assert read_result(smaller).recipe["size"] == 96
    assert untrained(bench, *options, "--ir").stdout == outcome.stdout  # the other rows are still there


def test_a_frozen_detector_on_other_labels_does_not_take_the_differences_of_the_old_ones(bench, done, tmp_path):
    data, runs = shutil.copytree(bench / "data", tmp_path / "data"), tmp_path / "runs"
    weights = table_folder(bench) / "VI" / "seed0" / "weights.safetensors"
    options = ["--root", data / "M3FD", "--runs", runs, "--split", "thirds", "--evaluate-only", weights]
    assert emma("detect", *options, "--ir", "--vis").returncode == 0
    before = tree(runs)
    label = data / "M3FD" / "Annotation" / "00002.xml"
    label.write_text(label.read_text().replace("People", "Car", 1))
    outcome = emma("detect", *options, "--ir")
    assert outcome.returncode == 2
    assert "holds a run of other settings (labels: " in outcome.stderr
    assert tree(runs) == before
    assert emma("detect", *options, "--ir", "--vis").returncode == 0  # with all of its rows, the table is made anew


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
    outcome = untrained(bench, "--split", "thirds", "--evaluate-only", "w.safetensors", "--dry-run")
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


def test_data_sets_without_boxes(bench):
    outcome = emma("detect", "TNO", "--root", bench / "data" / "M3FD")
    assert outcome.returncode == 2
    assert "has no boxes to detect; expected M3FD, MSRS, RoadScene" in outcome.stderr


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
    assert means["EMMA"] > max(means["IR"], means["VI"])
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

"""``emma-tasks detect`` as people run it: the table of all rows, going on, one frozen detector, and real images."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import emma, emma_process, tree
from detection_bench import detect, make_bench, untrained
from tiny import TINY_DETECTOR
from ultralytics.nn.tasks import yaml_model_load

from detection.weights import read_weights, save_detector
from emma_core.comparisons import read_comparisons
from emma_core.images import read_image, write_image
from emma_core.pictures import read_index
from emma_core.results import read_result


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return make_bench(tmp_path_factory.mktemp("detect"))


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
    assert "max and IR: mAP@0.5 cannot be compared on these images, too few to tell." in done.stdout
    assert "In fewer than 10 test images, too few to tell: mAP@0.5 (4), " in " ".join(done.stdout.split())


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


@pytest.mark.parametrize("lost", [True, False])
def test_what_was_lost_of_finished_runs_is_made_again_and_columns_go_for_all_rows(bench, done, tmp_path, lost):
    copy = shutil.copytree(bench / "runs", tmp_path / "runs") / "detect" / "M3FD-sample" / "thirds"
    found = copy / "IR" / "seed0" / "predictions.json"
    if lost:
        found.unlink()
    else:  # valid, but not what was found
        found.write_text(json.dumps(json.loads(found.read_text())[1:]))
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


def test_a_truncated_list_of_pictures_is_made_anew(bench, done, tmp_path):
    copy = shutil.copytree(bench / "runs", tmp_path / "runs") / "detect" / "M3FD-sample" / "thirds"
    index = copy / "pictures" / "pictures.json"
    whole = index.read_bytes()
    index.write_bytes(whole[: len(whole) // 2])
    options = ["--split", "thirds", "--seeds", "0,1", "--conditions", bench / "lights.json"]
    again = detect(bench, *options, "--runs", tmp_path / "runs")
    assert again.returncode == 0, again.stderr
    assert index.read_bytes() == whole


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


@pytest.mark.parametrize("name", ["00002", "00000"])  # one to train on, one to test on
def test_a_row_on_other_source_images_does_not_join_a_table(bench, done, tmp_path, name):
    """Images made elsewhere may stay what they are while the cameras' are replaced: their rows would be stale."""
    data = shutil.copytree(bench / "data", tmp_path / "data") / "M3FD"
    runs = shutil.copytree(bench / "runs", tmp_path / "runs")
    before = tree(runs)
    (camera,) = (data / "Vis").glob(f"{name}.*")
    write_image(camera, 1 - read_image(camera).astype(np.float32) / 255)
    options = ["--conditions", bench / "lights.json", "--split", "thirds", "--root", data, "--runs", runs]
    outcome = detect(bench, *options, "--ir")
    assert outcome.returncode == 2
    assert "holds a run of other settings (" in outcome.stderr
    assert tree(runs) == before


def test_a_model_of_ones_own_that_was_changed_is_another_one(bench, tmp_path):
    model = tmp_path / "mine.yaml"
    content = yaml_model_load("yolov5n.yaml")
    model.write_text(json.dumps(content))  # JSON is YAML
    options = ["--split", "thirds", "--ir", "--model", model, "--epochs", "1", "--runs", tmp_path / "runs"]
    assert detect(bench, *options).returncode == 0
    content["scales"]["n"][0] = 0.66  # deeper
    model.write_text(json.dumps(content))
    outcome = detect(bench, *options)
    assert outcome.returncode == 2
    assert "holds a run of other settings (architecture: " in outcome.stderr


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


def test_classes_that_a_frozen_detector_does_not_know_are_named(bench, done, tmp_path):
    found = read_weights(table_folder(bench) / "VI" / "seed0" / "weights.safetensors")
    assert found.info
    names = ["Deer" if name == "Lamp" else name for name in found.info.classes]
    save_detector(tmp_path / "w.safetensors", found.tensors, replace(found.info, classes=tuple(names)))
    options = ["--split", "thirds", "--evaluate-only", tmp_path / "w.safetensors", "--ir", "--runs", tmp_path]
    outcome = untrained(bench, *options)
    assert outcome.returncode == 0, outcome.stderr
    assert "The detector does not know Lamp: AP 0 there, and in the means." in outcome.stdout


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


@pytest.mark.parametrize("spell", [str, "all/{}".format, "{}.png".format, "all/{}.PNG".format])
def test_light_is_told_by_ids_parts_and_names_of_files(bench, done, tmp_path, spell):
    lights = json.loads((bench / "lights.json").read_text())
    (tmp_path / "lights.json").write_text(json.dumps({spell(name): light for name, light in lights.items()}))
    split = ["--root", bench / "data" / "M3FD", "--split", "thirds"]
    weights = table_folder(bench) / "VI" / "seed0" / "weights.safetensors"
    options = [*split, "--conditions", tmp_path / "lights.json", "--ir", "--evaluate-only", weights]
    assert emma("detect", *options, "--runs", tmp_path).returncode == 0
    (result,) = (tmp_path / "detect").rglob("result.json")
    assert [column.name for column in read_result(result).columns][-2:] == ["mAP@0.5 day", "mAP@0.5 night"]


def test_lights_of_other_images_are_refused(bench, tmp_path):
    (tmp_path / "lights.json").write_text(json.dumps({"another": "day"}))
    outcome = detect(bench, "--split", "thirds", "--ir", "--conditions", tmp_path / "lights.json", "--dry-run")
    assert outcome.returncode == 1
    assert "lights.json: names none of the 12 images of M3FD-sample; expected ids such as 00000" in outcome.stderr


def test_help_loads_nothing_heavy_and_shows_an_example():
    outcome = emma("detect", "--help")
    assert outcome.returncode == 0
    assert "Example: emma-tasks detect M3FD --root" in " ".join(outcome.stdout.split())
    code = "import sys, detection.command; print(sorted({'torch', 'ultralytics', 'cv2', 'numpy'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


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
    (tmp_path / "tiny.toml").write_text(TINY_DETECTOR.replace("size = 64", "size = 320"))
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

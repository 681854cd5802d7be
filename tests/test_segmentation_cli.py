"""``emma-tasks segment`` as people run it: a table, what is skipped and what is done again, and one line for faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome, emma, tree
from skimage.io import imread
from tiny import TINY_SEGMENTER

from emma_core.comparisons import read_comparisons
from emma_core.images import write_image
from emma_core.metrics.confusion import confusion_matrix
from emma_core.pictures import read_index
from emma_core.results import read_result
from emma_core.samples import write_samples
from segmentation.evaluation import figures
from segmentation.labels import SEGMENTATIONS
from segmentation.pictures import best_and_worst, gains

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Rendered MSRS scenes, fused by max and by laplacian, and a configuration that takes seconds."""
    world = tmp_path_factory.mktemp("world")
    write_samples(world, ["MSRS"], 6, size=(64, 96))
    (world / "tiny.toml").write_text(TINY_SEGMENTER)
    for method in ("max", "laplacian"):
        done = emma("fuse-dataset", "MSRS", "--root", world / "MSRS", "--method", method, "--runs", world / "runs")
        assert done.returncode == 0, done.stderr
    return world


def segment(world: Path, *options: str | Path, name: str = "MSRS", root: Path | None = None) -> Outcome:
    where = ("--root", root or world / "MSRS", "--runs", world / "runs", "--config", world / "tiny.toml")
    return emma("segment", name, *where, "--epochs", "1", *options)


@pytest.fixture(scope="module")
def done(world) -> Outcome:
    """The default rows, run once."""
    outcome = segment(world)
    assert outcome.returncode == 0, outcome.stderr
    return outcome


def folder_of(world: Path) -> Path:
    return world / "runs" / "segment" / "MSRS-sample" / "test"


def test_the_table_holds_the_rows_and_columns_of_table_4(world, done):
    assert "Segmentation: MSRS-sample test, 2 images" in done.stdout
    results = {row: read_result(folder_of(world) / row / "seed0" / "result.json") for row in ("IR", "VI", "laplacian")}
    names = [column.name for column in results["IR"].columns]
    assert names[:10] == [*SEGMENTATIONS["MSRS"].classes, "mIoU"]
    assert names[10:] == ["mIoU fg", "Pixel acc.", "mIoU day", "mIoU night"]
    assert len({result.table_key for result in results.values()}) == 1
    assert results["laplacian"].source["method"] == "laplacian"
    assert [results[row].baseline for row in results] == [True, True, False]
    recipe = results["IR"].recipe
    assert (recipe["trained on"], recipe["epochs"], recipe["size"]) == ("4 pairs", 1, "96 x 64")
    assert recipe["name"] == "paper, changed"  # by --config and --epochs
    assert recipe["model"] == "DeepLabV3+ mobilenet_v2 (random weights)"
    assert all(result.comparable for result in results.values())
    assert any("random weights" in note for note in results["IR"].notes)


def test_every_figure_comes_from_masks_on_disk(world, done):
    """The figures, once more from the predicted masks, the labels and an independent reader."""
    spec, folder = SEGMENTATIONS["MSRS"], folder_of(world) / "VI" / "seed0"
    labels = sorted((world / "MSRS" / "test" / "Segmentation_labels").glob("*.png"))
    matrices = np.stack(
        [
            confusion_matrix(imread(label), imread(folder / "predictions" / "test" / label.name), len(spec.classes))
            for label in labels
        ]
    )
    result = read_result(folder / "result.json")
    pairs = [type("Pair", (), {"id": label.stem}) for label in labels]
    assert result.values == pytest.approx(figures(matrices, pairs, spec, "zero"), nan_ok=True)
    assert np.array_equal(np.load(folder / "confusion.npy"), matrices)


def test_fused_rows_are_compared_with_each_camera_and_then_with_naive_rules(world, done):
    comparisons = read_comparisons(folder_of(world) / "comparisons.json")
    pairs = [(each.row, each.against) for each in comparisons]
    assert pairs == [(row, camera) for row in ("laplacian", "max") for camera in ("VI", "IR")] + [("laplacian", "max")]
    values = {
        row: read_result(folder_of(world) / row / "seed0" / "result.json").values["mIoU"] for row in ("max", "VI", "IR")
    }
    for each in comparisons:
        if each.row == "max":
            assert each.difference == pytest.approx(values["max"] - values[each.against])
        assert each.sentence() in done.stdout
        assert each.images == 2


def test_pictures_are_left_for_the_report(world, done):
    folder = folder_of(world) / "pictures"
    pictures = read_index(folder / "pictures.json")
    assert [picture.file for picture in pictures[:3]] == ["iou.png", "confusion.png", "training.png"]
    groups = {picture.group for picture in pictures[3:]}
    differing = {"Largest gains by fusing", "Largest losses by fusing"}  # after two steps the rows may be equal
    assert groups - differing == {"Best and worst image of each class"}
    for picture in pictures:
        assert imread(folder / picture.file).std() > 1
    assert emma("report", "--runs", world / "runs").returncode == 0
    assert "What each class was taken for" in (world / "runs" / "report" / "index.html").read_text()


@pytest.mark.parametrize("rows", ["--fused", "--ir"])
def test_what_is_done_is_not_done_again(world, done, rows):
    """Nor are its pictures other ones: those of a camera alone still show what the fused row sees."""
    before = {name: data for name, data in tree(folder_of(world)).items() if "events" not in name}
    assert any(name.startswith("pictures") for name in before)
    again = segment(world, rows)
    assert again.returncode == 0, again.stderr
    assert "IR" in again.stdout  # rows of the same table are shown, whoever asked for them
    assert "training mIoU" not in again.stderr
    after = {name: data for name, data in tree(folder_of(world)).items() if "events" not in name}
    assert after == before


def test_lost_masks_are_made_again_without_training(world, done, tmp_path):
    copy = shutil.copytree(world / "runs", tmp_path / "runs") / "segment" / "MSRS-sample" / "test"
    folder = copy / "VI" / "seed0"
    shutil.rmtree(folder / "predictions")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    told = segment(world, "--vis", "--runs", tmp_path / "runs", "--dry-run")
    assert "VI, seed 0: would go on in" in told.stdout
    again = segment(world, "--vis", "--runs", tmp_path / "runs")
    assert again.returncode == 0, again.stderr
    for name in ("predictions", "../../pictures"):
        assert tree(folder / name) == tree(folder_of(world) / "VI" / "seed0" / name)
    assert (folder / "log.jsonl").read_bytes() == (folder_of(world) / "VI" / "seed0" / "log.jsonl").read_bytes()
    assert len(before) > 1
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_rule_for_absent_classes_holds_for_the_whole_table(world, done):
    """Asked for with one row and another spelling of the recipe: no row is lost, no picture, and nothing is trained."""
    made = [path for path in folder_of(world).rglob("*") if path.suffix in {".safetensors", ".npy"}]
    made += (folder_of(world) / "IR" / "seed0" / "predictions").rglob("*.png")
    before = {path: path.stat().st_mtime_ns for path in made}
    pictures = read_index(folder_of(world) / "pictures" / "pictures.json")
    outcome = segment(world, "--ir", "--absent", "skip", "--recipe", "Paper")
    assert outcome.returncode == 0, outcome.stderr
    results = [read_result(path) for path in sorted(folder_of(world).glob("*/seed0/result.json"))]
    assert [result.row for result in results] == ["IR", "VI", "laplacian", "max"]
    assert {result.recipe["absent class"] for result in results} == {"skip"}
    for result in results:
        known = [result.values[name] for name in SEGMENTATIONS["MSRS"].classes]
        assert result.values["mIoU"] == pytest.approx(np.nanmean(known))
    keys = {each.table_key for each in read_comparisons(folder_of(world) / "comparisons.json")}
    assert keys == {result.table_key for result in results}
    assert len(read_index(folder_of(world) / "pictures" / "pictures.json")) == len(pictures)
    described_by_an_earlier_version(folder_of(world) / "VI" / "seed0" / "result.json")
    assert "VI, seed 0: is done" in segment(world, "--vis", "--dry-run").stdout
    assert segment(world, "--ir").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in made} == before
    result = read_result(folder_of(world) / "VI" / "seed0" / "result.json")
    assert result.recipe["absent class"] == "zero"
    assert result.recipe["epochs"] == 1


def described_by_an_earlier_version(path: Path) -> None:
    """Leave in a result only the keys of the recipe that tell one training from another, and no later field."""
    content = json.loads(path.read_text())
    content["recipe"] = {key: content["recipe"][key] for key in ("config", "split", "training images", "labels")}
    del content["comparable"]
    path.write_text(json.dumps(content))


def test_seeds_get_a_mean_and_another_recipe_is_refused(world, done):
    outcome = segment(world, "--vis", "--seeds", "0,1")
    assert "±" in outcome.stdout
    assert "VI: mean and standard deviation over 2 seeds." in outcome.stdout
    confusion = read_index(folder_of(world) / "pictures" / "pictures.json")[1]
    assert confusion.caption == "What each class was taken for, in % of its pixels (seed 0)."
    first = {row: read_result(folder_of(world) / row / "seed0" / "result.json").values["mIoU"] for row in ("VI", "max")}
    comparisons = read_comparisons(folder_of(world) / "comparisons.json")
    (found,) = [each for each in comparisons if (each.row, each.against) == ("max", "VI")]
    assert found.difference == pytest.approx(first["max"] - first["VI"])  # the seed that both have
    other = emma(*("segment", "MSRS", "--root", world / "MSRS", "--runs", world / "runs", "--vis"), "--epochs", "9")
    assert other.returncode == 1
    assert other.stderr.count("Error:") == 1


def test_a_dry_run_says_what_is_missing(world, done, tmp_path):
    outcome = segment(world, "--ir", "--seeds", "0,7", "--dry-run")
    assert "mobilenet_v2 by recipe paper, changed: 1 epochs on 4 pairs of MSRS-sample, tested on 2" in outcome.stdout
    assert "IR, seed 0: is done" in outcome.stdout
    assert "IR, seed 7: would be trained" in outcome.stdout
    assert not (folder_of(world) / "IR" / "seed7").exists()


def test_pseudo_labels_are_called_so_everywhere(world, tmp_path):
    """The second declaration, on the same scenes: title, rows, note, captions and folder say what the labels are."""
    root, labels = world / "MSRS", tmp_path / "labels"
    for split in ("train", "test"):
        for file in sorted((root / split / "Segmentation_labels").glob("*.png"))[: 2 if split == "test" else 3]:
            ids = imread(file).copy()
            ids[:4] = 255
            write_image(labels / split / file.name, ids.astype(np.float32) / np.float32(255))
    outcome = segment(world, "--labels", labels, "--ir", "--vis", "--fused", name="MSRS-pseudo")
    assert outcome.returncode == 0, outcome.stderr
    assert "1 pairs have no label and are left out" in outcome.stderr
    assert "Segmentation against pseudo-labels: MSRS-pseudo-sample test" in outcome.stdout
    folder = world / "runs" / "segment" / "MSRS-pseudo-sample" / "test"
    for row in ("IR", "VI", "max"):
        result = read_result(folder / row / "seed0" / "result.json")
        assert result.row == f"{row} (pseudo-labels)"
        assert any(note.startswith("Pseudo-labels, no ground truth") for note in result.notes)
        assert any("so they favour rows that show both" in note for note in result.notes)
        assert result.recipe["labels"].startswith("pseudo ")
        assert not result.comparable
        assert f"{row} (pseudo-labels) " in outcome.stdout
    assert all("pseudo-labels" in picture.caption for picture in read_index(folder / "pictures" / "pictures.json"))


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--recipe", "fast"], 2, "Unknown recipe 'fast'; known: paper, quick, demo"),
        (["--absent", "maybe"], 2, "expected zero or skip"),
        (["--seeds", "x"], 2, "expected whole numbers"),
        (["--encoder-weights", "coco"], 2, "encoder_weights: expected"),
        (["--encoder", "nonsense", "--ir", "--runs", "elsewhere"], 2, "--encoder nonsense: cannot be the backbone"),
        (["--encoder", "nonsense", "--ir", "--dry-run"], 2, "--encoder nonsense: cannot be the backbone"),
        (["--labels", "nowhere"], 1, "have no label"),
        (["--fused-dir", "X=nowhere"], 1, "no such folder"),
        (["--config", "none.toml"], 2, "none.toml: cannot be read"),
    ],
)
def test_faults_of_a_request_are_one_line(world, tmp_path, options, status, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = segment(world, *options)
    assert outcome.returncode == status, outcome.stderr
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_faults_of_a_label_are_found_before_training(world, tmp_path):
    root = write_samples(tmp_path, ["MSRS"], 6, size=(64, 96))[0]
    bad = sorted((root / "test" / "Segmentation_labels").glob("*.png"))[-1]
    write_image(bad, np.full((64, 96), 200 / 255, np.float32))
    outcome = segment(world, "--ir", "--runs", tmp_path / "runs", root=root)
    assert outcome.returncode == 1
    assert f"{bad.name}: holds id 200 (6144 pixels); expected 0 to 8 (MSRS)" in outcome.stderr
    assert not (tmp_path / "runs" / "segment").exists()


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_data_set_that_lacks_an_image_is_refused_before_training(world, tmp_path, options):
    root = write_samples(tmp_path, ["MSRS"], 6, size=(64, 96))[0]
    lost = sorted((root / "train" / "ir").glob("*.png"))[0]
    lost.unlink()
    outcome = segment(world, "--ir", "--runs", tmp_path / "runs", *options, root=root)
    assert outcome.returncode == 1
    assert f"1 pair cannot be used (train/{lost.stem}: its mate is missing in" in outcome.stderr
    assert "--train-list and --test-list" in outcome.stderr
    assert not (tmp_path / "runs" / "segment").exists()


def test_where_the_data_set_is_has_to_be_said():
    outcome = emma("segment")
    assert outcome.returncode == 2
    assert "Where is MSRS? Add --root DIR. Where to get it: emma-tasks datasets MSRS" in outcome.stderr


def test_gains_are_over_the_better_rival():
    right, half = np.diag([4, 4]), np.array([[4, 0], [2, 2]])
    gain = gains(np.stack([right, half]), [np.stack([half, half]), np.stack([half, right])])
    miou = (4 / 6 + 2 / 4) / 2
    assert gain.tolist() == pytest.approx([1 - miou, miou - 1])


def test_best_and_worst_image_of_a_class_of_equals_the_one_with_more_of_it():
    small, large, missed, absent = np.diag([9, 1]), np.diag([5, 5]), np.array([[8, 0], [2, 0]]), np.diag([10, 0])
    slip = np.array([[9, 0], [1, 0]])
    assert best_and_worst(np.stack([absent, small, slip, large, missed]), 1) == (3, 4)
    assert best_and_worst(np.stack([small, absent, large]), 1) == (2, 0)
    assert best_and_worst(np.stack([absent, small]), 1) is None


def test_results_name_what_made_them(world, done):
    content = json.loads((folder_of(world) / "max" / "seed0" / "result.json").read_text())
    assert content["parts"] == ["test"]
    assert content["environment"]["device"] == "cpu"
    assert len(content["source"]["images_sha256"]) == 64
    assert content["seed"] == 0

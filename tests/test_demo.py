"""The parts that the tasks play in ``emma-tasks demo``: what they begin with, and that fusing pays on the samples."""

import pytest
from conftest import emma

from detection import offline
from detection.classes import dataset_classes
from detection.command import DEMO_START
from detection.command import demo as detection_demo
from detection.recipes import RECIPES
from detection.weights import read_weights
from emma_core.errors import CheckpointError
from emma_core.results import read_result
from emma_core.samples import write_samples
from segmentation import command, network
from segmentation.command import demo as segmentation_demo

ROWS = ("IR", "VI", "EMMA")


def test_detectors_begin_with_shipped_weights_that_fit_their_recipe(tmp_path):
    offline.keep_to(tmp_path)
    from detection import yolo

    weights = read_weights(DEMO_START)
    assert weights.info.classes == dataset_classes("M3FD")
    _, said = yolo.matching_tensors(yolo.build_network(RECIPES["demo"], 6, 0), weights)
    assert "145 of 145 layers matched" in said
    assert DEMO_START.stat().st_size < 2_000_000


@pytest.mark.parametrize("place", [0.5, 0.9999])
def test_a_damaged_copy_of_the_shipped_weights_is_refused(tmp_path, place):
    data = bytearray(DEMO_START.read_bytes())
    data[int(place * len(data))] ^= 1  # within a tensor: safetensors alone would take it
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"copy\.safetensors: damaged weights \(checksum differs\)"):
        read_weights(copy)


def test_segmenters_say_so_where_they_start_from_scratch(monkeypatch, capsys, tmp_path):
    calls = []
    monkeypatch.setattr(command, "segment", lambda *arguments, **options: calls.append((arguments, options)))
    segmentation_demo(tmp_path / "data", tmp_path / "runs")
    monkeypatch.setattr(network, "lite0_available", lambda: False)
    segmentation_demo(tmp_path / "data", tmp_path / "runs")
    assert [options.get("encoder_weights") for _, options in calls] == [None, "none"]
    assert {options["recipe"] for _, options in calls} == {"demo"}
    assert "training from scratch" in capsys.readouterr().out


def rows_of(task, dataset, split, out):
    """Render the scenes of the demo, fuse them, run one task's part, and return its rows' figures."""
    (root,) = write_samples(out / "data", [dataset], pairs=48)
    emma("fuse-dataset", dataset, "--root", root, "--runs", out / "runs")
    task(out / "data", out / "runs")
    (folder,) = (out / "runs").glob(f"*/{dataset}-sample/{split}")
    return {row: read_result(folder / row / "seed0" / "result.json").values for row in ROWS}


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two minutes on two idle cores
def test_detection_finds_more_in_fused_images_than_in_those_of_either_camera(tmp_path):
    found = rows_of(detection_demo, "M3FD", "thirds", tmp_path)
    assert found["EMMA"]["mAP@0.5"] > max(found["IR"]["mAP@0.5"], found["VI"]["mAP@0.5"])
    assert found["IR"]["Lamp"] < found["VI"]["Lamp"] - 20
    assert found["VI"]["People"] < found["IR"]["People"] - 5


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two minutes on two idle cores
def test_segmentation_labels_fused_images_better_than_those_of_either_camera(tmp_path):
    found = rows_of(segmentation_demo, "MSRS", "test", tmp_path)
    assert found["EMMA"]["mIoU"] > max(found["IR"]["mIoU"], found["VI"]["mIoU"])
    assert found["VI"]["Person"] < found["EMMA"]["Person"] - 10
    assert found["IR"]["Color cone"] < found["EMMA"]["Color cone"] - 20

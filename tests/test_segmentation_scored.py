"""Rows that are done: over which seeds they are compared, what counts as finished, and how an image is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from emma_core.datasets import DATASETS
from emma_core.fusers import SHIPPED_WEIGHTS
from emma_core.manifest import file_sha256, sha256
from emma_core.results import RESULT as RESULT_FILE
from emma_core.results import Result, read_result, write_result
from segmentation.labels import SEGMENTATIONS, UNLABELLED
from segmentation.panels import View, draw_image, paint
from segmentation.recipes import RECIPES, changed, recipe_label
from segmentation.scored import MATRICES, PREDICTIONS, Scored, collect, compare, is_finished

MSRS = SEGMENTATIONS["MSRS"]
PAIRS = DATASETS["MSRS"]
RESULT = Result(
    "segment", "Segmentation", "MSRS", "test", "hash", 4, "IR", (), {}, seed=0, source={"images_sha256": "0"}
)


def row(name: str, seed: int, right: int) -> Scored:
    """A row of four images of ten pixels in two classes, so many of them right."""
    matrix = np.array([[5, 0], [10 - right, right - 5]])
    return Scored(replace(RESULT, row=name, seed=seed), np.stack([matrix] * 4), Path(name) / f"seed{seed}")


def differences(*scored: Scored) -> dict[tuple[str, str], float]:
    return {(each.row, each.against): each.difference for each in compare(scored, PAIRS, ("road", "car"), "zero")}


def test_only_seeds_that_both_rows_have_are_compared():
    found = differences(row("VI", 0, 7), row("VI", 1, 5), row("EMMA", 0, 9), row("EMMA", 2, 5))
    alone = differences(row("VI", 0, 7), row("EMMA", 0, 9))
    assert found == alone
    assert found["EMMA", "VI"] > 0
    assert differences(row("VI", 0, 7), row("EMMA", 3, 9)) == {}


def test_methods_are_compared_with_naive_rules_after_the_cameras():
    names = ("IR", "VI", "mean", "max", "laplacian", "EMMA")
    found = list(differences(*(row(name, 0, 6) for name in names)))
    fused = names[2:]
    cameras = [(name, camera) for name in fused for camera in ("VI", "IR")]
    assert found == cameras + [(name, naive) for name in fused[2:] for naive in ("mean", "max")]


@pytest.mark.parametrize("others_differ", [False, True])
def test_a_mean_that_hangs_on_a_rare_class_is_not_told_apart(others_differ):
    """Of twenty images six show a bump, which one row labels and the other does not; the rest is the same."""
    seen, car = np.diag([5, 5, 5, 0]), np.diag([5, 5, 0, 0])
    missed, dull = seen[:, [0, 1, 3, 2]], car[:, [0, 3, 2, 1]]  # taken for a cone, which no image shows
    ours = np.stack([seen] * 6 + [car] * 14)
    theirs = np.stack([missed] * 6 + [dull if others_differ else car] * 14)
    rows = [
        Scored(replace(RESULT, row=name, count=20), each, Path(name) / "seed0")
        for name, each in (("VI", theirs), ("EMMA", ours))
    ]
    (found,) = compare(rows, PAIRS, ("road", "car", "bump", "cone"), "zero")
    assert found.low > 0
    if others_differ:
        assert (found.sure, found.rare) == (True, ())
    else:
        assert (found.sure, found.rare) == (False, ("bump (6)",))
        assert found.sentence().startswith("EMMA and VI cannot be told apart: mIoU +")
        assert found.sentence().endswith(" hangs on bump (6), which fewer than 10 images show.")


def data_of(classes: int) -> SimpleNamespace:
    """Four test images and some classes."""
    pairs = [SimpleNamespace(key=f"test/{name}") for name in "abcd"]
    return SimpleNamespace(spec=SimpleNamespace(classes=("class",) * classes), test=SimpleNamespace(pairs=pairs))


@pytest.fixture
def finished(tmp_path) -> Path:
    """The folder of a row and seed, with what makes it finished."""
    write_result(tmp_path, RESULT)
    np.save(tmp_path / MATRICES, np.zeros((4, 2, 2), np.int64))
    for pair in data_of(2).test.pairs:
        file = tmp_path / PREDICTIONS / f"{pair.key}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def test_a_row_without_all_of_its_masks_is_not_finished(finished):
    assert is_finished(finished, RESULT, data_of(2))
    (finished / PREDICTIONS / "test" / "c.png").unlink()
    assert not is_finished(finished, RESULT, data_of(2))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", None])
def test_a_row_without_whole_matrices_is_not_finished(finished, content):
    data = data_of(2)
    assert is_finished(finished, RESULT, data)
    assert not is_finished(finished, RESULT, data_of(3))
    assert not is_finished(finished, replace(RESULT, source={"images_sha256": "other"}), data)
    assert is_finished(finished, replace(RESULT, source={"images_sha256": "0", "folder": "moved"}), data)
    assert not is_finished(finished, replace(RESULT, recipe={"config": "other"}), data)
    assert not is_finished(finished, replace(RESULT, recipe={"processes": 2}), data)
    assert is_finished(finished, replace(RESULT, recipe={"absent class": "skip"}), data)
    (finished / MATRICES).unlink()
    if content is not None:
        (finished / MATRICES).write_bytes(content)
    assert not is_finished(finished, RESULT, data)


def test_a_row_whose_matrices_are_not_those_that_were_counted_is_not_finished(finished):
    counted = (finished / MATRICES).read_bytes()
    for evidence, is_whole in (("", True), (sha256(counted), True), (sha256(counted + b"1"), False)):
        write_result(finished, replace(RESULT, evidence=evidence))
        assert is_finished(finished, RESULT, data_of(2)) == is_whole


@pytest.mark.parametrize("labels", ["MSRS", "MSRS-pseudo"])
def test_a_row_that_is_scored_again_says_which_test_pairs_its_weights_were_trained_on(tmp_path, labels):
    source = {"images_sha256": "0", "checkpoint_sha256": file_sha256(SHIPPED_WEIGHTS)}
    names, spec = ("00004N", "00012N", "none", "other"), SEGMENTATIONS[labels]
    pairs = [SimpleNamespace(id=name, key=f"test/{name}") for name in names]
    data = SimpleNamespace(spec=spec, test=SimpleNamespace(dataset="MSRS", pairs=pairs))
    common = replace(RESULT, dataset=labels)
    for name, origin in (("EMMA", source), ("IR", {})):
        place = tmp_path / name / "seed0"
        write_result(place, replace(common, row=spec.row_label(name), source=origin))
        np.save(place / MATRICES, np.ones((4, 9, 9), np.int64))
        for pair in pairs:
            (place / PREDICTIONS / "test").mkdir(parents=True, exist_ok=True)
            (place / PREDICTIONS / f"{pair.key}.png").touch()
    fused, infrared = (each.result for each in collect(tmp_path, common, data, "zero"))
    assert f"{fused.row}: its weights were trained on 2 of these 4 pairs." in fused.notes
    assert "trained on" not in " ".join(infrared.notes).replace("Trained on those of one network", "")
    assert read_result(tmp_path / "EMMA" / "seed0" / RESULT_FILE).notes == fused.notes


def test_a_recipe_keeps_its_name_as_long_as_its_values():
    paper = RECIPES["paper"]
    assert recipe_label("paper", paper) == "paper"
    assert recipe_label("paper", changed(paper, {"schedule": {"epochs": 340}})) == "paper"
    assert recipe_label("paper", changed(paper, {"network": {"encoder": "resnet18"}})) == "paper, changed"
    assert recipe_label("demo", paper) == "demo, changed"


def test_only_the_class_that_a_picture_is_about_is_strong():
    mask = np.array([[0, 1], [2, UNLABELLED]], np.uint8)
    whole, focused = (paint(mask, np.ones((2, 2), np.float32), MSRS, focus) for focus in (None, 1))
    colour = np.array(MSRS.palette, np.float32) / 255
    assert np.allclose(whole[0, 1], colour[1])
    assert np.allclose(whole[1, 0], colour[2])
    assert np.allclose(focused[0, 1], colour[1])
    assert (focused[1, 0] > colour[2] + 0.3).all()
    for painted in (whole, focused):
        assert (painted[1, 1] == 1).all()
        assert np.ptp(painted[0, 0]) == 0  # the image, grey
    dark = paint(np.zeros((1, 2), np.uint8), np.array([[[0, 0, 0], [0.5, 0.2, 0.2]]], np.float32), MSRS)
    assert 0.5 < dark[0, 0, 0] < dark[0, 1, 0] < 1


@pytest.mark.parametrize("focus", [None, 1])
def test_a_test_image_is_drawn_with_what_each_row_sees_and_finds(focus):
    image, truth = np.zeros((6, 8), np.float32), np.zeros((6, 8), np.uint8)
    truth[2:4, 7] = 1  # at the border
    views = [View("IR", image, truth, "IR: 1"), View("EMMA", None, np.full((6, 8), 2, np.uint8), "EMMA: 0")]
    figure = Figure()
    draw_image(figure, views, truth, image, MSRS, focus)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["IR", "", "", "IR: 1", "EMMA: 0", "truth"]
    assert [len(axes.images) for axes in figure.axes] == [1, 0, 0, 1, 1, 1]
    said = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert said == ["Car", "Person", *(["Car, truth"] if focus else [])]
    assert [len(axes.collections) for axes in figure.axes[3:]] == [1 if focus else 0] * 3

"""Rows that are done: over which seeds they are compared, what counts as finished, and how an image is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from emma_core.datasets import DATASETS
from emma_core.results import Result, write_result
from segmentation.labels import SEGMENTATIONS, UNLABELLED
from segmentation.panels import View, draw_image, paint
from segmentation.recipes import RECIPES, changed, recipe_label
from segmentation.scored import MATRICES, Scored, compare, is_finished

MSRS = SEGMENTATIONS["MSRS"]
PAIRS = DATASETS["MSRS"]
RESULT = Result("segment", "Segmentation", "MSRS", "test", "hash", 4, "IR", (), {}, seed=0)


def row(name: str, seed: int, right: int) -> Scored:
    """A row of four images of ten pixels in two classes, so many of them right."""
    matrix = np.array([[5, 0], [10 - right, right - 5]])
    return Scored(replace(RESULT, row=name, seed=seed), np.stack([matrix] * 4), Path(name) / f"seed{seed}")


def differences(*scored: Scored) -> dict[tuple[str, str], float]:
    return {(each.row, each.against): each.difference for each in compare(scored, PAIRS, "zero")}


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


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", None])
def test_a_row_without_whole_matrices_is_not_finished(tmp_path, content):
    write_result(tmp_path, RESULT)
    np.save(tmp_path / MATRICES, np.zeros((4, 2, 2), np.int64))
    assert is_finished(tmp_path, RESULT, 2)
    assert not is_finished(tmp_path, RESULT, 3)
    assert not is_finished(tmp_path, replace(RESULT, source={"images_sha256": "other"}), 2)
    assert not is_finished(tmp_path, replace(RESULT, recipe={"config": "other"}), 2)
    assert is_finished(tmp_path, replace(RESULT, recipe={"absent class": "skip"}), 2)
    (tmp_path / MATRICES).unlink()
    if content is not None:
        (tmp_path / MATRICES).write_bytes(content)
    assert not is_finished(tmp_path, RESULT, 2)


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

"""IoU and its relatives: against scikit-learn, by hand, and where there is little or nothing to count."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, jaccard_score
from sklearn.metrics import confusion_matrix as sklearn_matrix

from emma_core.metrics.confusion import class_frequency, class_iou, confusion_matrix, mean_iou, pixel_accuracy
from emma_core.pairs import Pair
from segmentation.evaluation import columns, figures, notes
from segmentation.labels import SegmentationSpec

SPEC = SegmentationSpec(
    "toy",
    ("Back", "Car", "Person"),
    ((0, 0, 0), (9, 0, 0), (0, 9, 0)),
    "labels",
    infrared="ir",
    visible="vi",
    conditions=(("day", "D"), ("night", "N")),
)


def ids(seed: int, classes: int = 5, shape=(40, 50)) -> np.ndarray:
    return np.random.default_rng(seed).integers(classes, size=shape).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_scikit_learns(seed):
    truth, found = ids(seed), np.where(ids(seed + 10) < 2, ids(seed), ids(seed + 20))
    matrix = confusion_matrix(truth, found, 5)
    assert np.array_equal(matrix, sklearn_matrix(truth.ravel(), found.ravel(), labels=range(5)))
    wanted = jaccard_score(truth.ravel(), found.ravel(), labels=range(5), average=None)
    np.testing.assert_allclose(class_iou(matrix), wanted, rtol=1e-12)
    assert mean_iou(class_iou(matrix)) == pytest.approx(wanted.mean(), rel=1e-12)
    assert pixel_accuracy(matrix) == pytest.approx(accuracy_score(truth.ravel(), found.ravel()), rel=1e-12)
    np.testing.assert_allclose(class_frequency(matrix), np.bincount(truth.ravel(), minlength=5) / truth.size)


def test_ignored_pixels_are_not_counted():
    truth, found = ids(0), ids(1)
    holes = ids(2) == 0
    truth[holes] = 255
    matrix = confusion_matrix(truth, found, 5, ignore=255)
    assert np.array_equal(matrix, sklearn_matrix(truth[~holes], found[~holes], labels=range(5)))


def test_a_matrix_by_hand():
    matrix = confusion_matrix([[0, 0, 1], [1, 2, 2]], [[0, 1, 1], [1, 2, 0]], 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    iou = class_iou(matrix)
    np.testing.assert_allclose(iou, [1 / 3, 2 / 3, 1 / 2, np.nan])
    assert mean_iou(iou, "zero") == pytest.approx(1.5 / 4)
    assert mean_iou(iou, "skip") == pytest.approx(1.5 / 3)


def test_a_class_that_is_only_predicted_is_absent():
    """Which classes a table lacks does not depend on what a row predicts."""
    iou = class_iou(confusion_matrix([0, 0, 0], [0, 1, 1], 2))
    assert iou[0] == pytest.approx(1 / 3)
    assert math.isnan(iou[1])


def test_nothing_and_next_to_nothing():
    one = confusion_matrix([[1]], [[1]], 2)
    assert class_iou(one).tolist()[1] == 1
    assert pixel_accuracy(one) == 1
    nothing = confusion_matrix(np.full((3, 3), 255), np.zeros((3, 3)), 2, ignore=255)
    assert nothing.sum() == 0
    assert math.isnan(mean_iou(class_iou(nothing), "zero"))
    assert math.isnan(pixel_accuracy(nothing))
    assert np.isnan(class_frequency(nothing)).all()


@pytest.mark.parametrize(
    ("truth", "found", "match"),
    [
        ([0, 1], [0], "shape"),
        ([0, 9], [0, 0], "truth holds ids 0 to 9, expected 0 to 2"),
        ([0, 255], [0, 0], "truth holds ids 0 to 255"),
        ([0, 0], [0, 3], "prediction holds ids 0 to 3"),
        ([0, -1], [0, 0], "truth holds ids -1 to 0"),
    ],
)
def test_what_cannot_be_counted_is_refused(truth, found, match):
    with pytest.raises(ValueError, match=match):
        confusion_matrix(truth, found, 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 5))
def test_matrices_add_up_and_perfection_is_one(seed, classes, images):
    rng = np.random.default_rng(seed)
    truths, founds = rng.integers(classes, size=(2, images, 4, 6))
    parts = [confusion_matrix(truth, found, classes) for truth, found in zip(truths, founds, strict=True)]
    assert np.array_equal(np.sum(parts, axis=0), confusion_matrix(truths, founds, classes))
    perfect = class_iou(confusion_matrix(truths, truths, classes))
    assert mean_iou(perfect, "skip") == 1
    iou = class_iou(np.sum(parts, axis=0))
    assert mean_iou(iou, "zero") <= mean_iou(iou, "skip") <= 1


def pair(name: str) -> Pair:
    return Pair("test", name, "", "")


def test_the_figures_of_a_row_by_hand():
    day = confusion_matrix([0, 0, 1, 1], [0, 0, 1, 0], 3)  # IoU 2/3 and 1/2, no person
    night = confusion_matrix([0, 0, 2, 2], [0, 0, 2, 2], 3)  # all right, no car
    matrices, pairs = np.stack([day, night]), [pair("1D"), pair("2N")]
    found = figures(matrices, pairs, SPEC, "skip")
    assert [column.name for column in columns(SPEC)] == list(found)
    assert found["Back"] == pytest.approx(100 * 4 / 5)
    assert found["Car"] == pytest.approx(50)
    assert found["mIoU"] == pytest.approx(100 * (4 / 5 + 1 / 2 + 1) / 3)
    assert found["mIoU fg"] == pytest.approx(75)
    assert found["Pixel acc."] == pytest.approx(100 * 7 / 8)
    assert found["mIoU day"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert found["mIoU night"] == pytest.approx(100)
    assert figures(matrices, pairs, SPEC, "zero")["mIoU day"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 3)


def test_absent_classes_are_said_and_conditions_without_images_have_no_figure():
    matrices, pairs = confusion_matrix([0, 1], [0, 1], 3)[None], [pair("1D")]
    found = figures(matrices, pairs, SPEC, "zero")
    assert math.isnan(found["Person"])
    assert math.isnan(found["mIoU night"])
    assert found["mIoU"] == pytest.approx(200 / 3)
    text = " ".join(notes(matrices, pairs, SPEC, "zero"))
    assert "Back 50.00 %, Car 50.00 %, Person 0.00 %" in text
    assert "No test pixel of Person; an absent class counts as 0" in text
    assert "is left out of the means" in " ".join(notes(matrices, pairs, SPEC, "skip"))
    assert "cannot be compared" not in text  # there is no night


def test_classes_absent_by_day_or_by_night_alone_are_said():
    day, night = confusion_matrix([0, 1, 2], [0, 1, 2], 3), confusion_matrix([0, 0, 2], [0, 0, 2], 3)
    pairs = [pair("1D"), pair("2N")]
    said = notes(np.stack([day, night]), pairs, SPEC, "zero")[-1]
    assert said == (
        "mIoU day and mIoU night cannot be compared with each other: night images have no pixel of Car; an absent "
        "class counts as 0 in the means."
    )
    assert "cannot be compared" not in " ".join(notes(np.stack([night, night]), pairs, SPEC, "zero"))

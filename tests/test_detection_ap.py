"""AP against pycocotools on any resample, against ultralytics' own, and against counting by hand."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detection import coco, scoring
from detection.annotations import Annotations, ImageBoxes
from detection.ap import (
    THRESHOLDS,
    ClassMatches,
    average_precision,
    average_precisions,
    best_operating_point,
    confusion,
    image_points,
    overlaps,
    pair_up,
    precision_recall,
)
from detection.bench import Bench
from detection.scoring import (
    ap50,
    columns,
    compare,
    group_by_condition,
    read_conditions,
    values,
    write_conditions,
)
from detection.splits import DetectionSplit
from emma_core.datasets import DATASETS
from emma_core.errors import DataError, ResultError
from emma_core.metrics.bootstrap import bootstrap
from emma_core.pairs import Pair, PairSet

CLASSES = ("Car", "People", "Bus")
ONES = np.ones(1, np.int64)


def scene(rng, objects=6, side=200.0, ties=False):
    """Boxes of random objects, and detections: shifted copies of most, doubles, and inventions."""
    low = rng.uniform(0, side - 60, (objects, 2))
    boxes = np.hstack([low, low + rng.uniform(12, 60, (objects, 2))])
    kinds = rng.integers(0, 2, objects)  # there is never a bus
    taken = rng.integers(0, objects, 2 * objects)
    copies = boxes[taken] + rng.normal(0, 4, (len(taken), 4))
    inventions = np.sort(rng.uniform(0, side, (4, 2, 2)), axis=1).reshape(4, 4)
    found = np.vstack([copies, inventions])
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    guessed = np.concatenate([kinds[taken], rng.integers(0, 3, 4)])
    scores = rng.integers(1, 20, len(found)) / 20 if ties else rng.random(len(found)).round(6)
    return ImageBoxes(int(side), int(side), boxes, kinds), (found, scores, guessed)


def write(folder, scenes):
    coco.write_truth(folder / "truth.json", {f"all/{n:03d}": truth for n, (truth, _) in enumerate(scenes)}, CLASSES)
    coco.write_predictions(folder / "predictions.json", [found for _, found in scenes])
    return coco.evaluate(folder / "truth.json", folder / "predictions.json")


@pytest.fixture
def scenes():
    rng = np.random.default_rng(5)
    return [scene(rng, objects=int(count)) for count in rng.integers(1, 8, 12)]


def test_any_resample_equals_pycocotools(tmp_path, scenes):
    matches = write(tmp_path, scenes).matches
    rng = np.random.default_rng(1)
    draws = [
        np.arange(12),
        np.array([3]),
        np.array([3, 3, 3, 7]),
        *(np.sort(rng.integers(12, size=12)) for _ in range(12)),
    ]
    for draw in draws:
        whole = write(tmp_path, [scenes[number] for number in draw])
        np.testing.assert_allclose(average_precisions(matches, draw), whole.ap50, atol=1e-12)


def test_equal_scores_are_ordered_as_by_pycocotools(tmp_path):
    rng = np.random.default_rng(6)
    found = write(tmp_path, [scene(rng, ties=True) for _ in range(9)])
    np.testing.assert_allclose(average_precisions(found.matches, np.arange(9)), found.ap50, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_in_which_images_are_drawn_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    matches = [
        ClassMatches(-np.sort(-rng.random(30)), rng.random(30) < 0.5, rng.integers(0, 5, 30), rng.integers(9, 12, 5))
    ]
    draw = rng.integers(5, size=5)
    assert average_precisions(matches, draw) == average_precisions(matches, draw[::-1])
    assert 0 <= average_precisions(matches, draw)[0] <= 1


def test_one_class_by_hand():
    # Right, wrong, right of four objects: precision 1 up to recall 1/4, then 2/3 up to 1/2; 101 levels of recall.
    matches = ClassMatches(
        np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), np.zeros(3, np.int64), np.array([4])
    )
    assert average_precision(matches, ONES) == pytest.approx((26 * 1 + 25 * 2 / 3) / 101)
    recall, precision = precision_recall(matches)
    np.testing.assert_allclose(recall, [0.25, 0.5])
    np.testing.assert_allclose(precision, [1, 2 / 3])


def nothing(objects=0):
    return ClassMatches(np.empty(0), np.empty(0, bool), np.empty(0, np.int64), np.array([objects]))


def test_nothing_found_and_nothing_there():
    assert average_precision(nothing(3), ONES) == 0
    assert np.isnan(average_precision(nothing(), ONES))
    assert precision_recall(nothing())[0].size == 0
    assert all(np.isnan(best_operating_point([nothing()])))
    assert best_operating_point([nothing(3)]).recall == 0


def test_an_evaluation_without_detections_or_objects(tmp_path):
    empty = ImageBoxes(10, 10, np.empty((0, 4)), np.empty(0, np.int64))
    none = (np.empty((0, 4)), np.empty(0), np.empty(0, np.int64))
    found = write(tmp_path, [(empty, none), (empty, none)])
    assert np.isnan(found.ap50).all()
    one = ImageBoxes(10, 10, np.array([[1.0, 1, 5, 5]]), np.array([1]))
    found = write(tmp_path, [(one, none)])
    np.testing.assert_array_equal(found.ap50, [np.nan, 0, np.nan])
    assert values(found, CLASSES)["mAP@0.5"] == 0


def test_ultralytics_own_ap(tmp_path, scenes, monkeypatch):
    """It interpolates precision between its points; by hand on the same matches the two differ by under two points."""
    from detection.offline import keep_to

    keep_to(tmp_path)
    # Its import replaces Pillow's function, which tests that follow would notice.
    monkeypatch.setattr(Image, "open", Image.open)  # noqa: TID251 - put back
    from ultralytics.utils.metrics import ap_per_class

    found = write(tmp_path, scenes)
    parts = [(kind, each) for kind, each in enumerate(found.matches)]
    hits = np.concatenate([each.hits for _, each in parts])[:, None].astype(float)
    scores = np.concatenate([each.scores for _, each in parts])
    guessed = np.concatenate([np.full(len(each.hits), kind) for kind, each in parts])
    there = np.concatenate([np.full(each.objects.sum(), kind) for kind, each in parts])
    theirs = ap_per_class(hits, scores, guessed, there)[5][:, 0]
    np.testing.assert_allclose(theirs, found.ap50[:2], atol=0.02)
    assert (theirs != found.ap50[:2]).all()


def test_operating_point_by_brute_force(tmp_path, scenes):
    matches = write(tmp_path, scenes).matches[:2]
    best = (-1.0, 0.0, 0.0)
    for confidence in np.unique(np.concatenate([each.scores for each in matches])):
        rates = []
        for each in matches:
            taken = each.scores >= confidence
            hits = (each.hits & taken).sum()
            precision, recall = hits / max(taken.sum(), 1), hits / each.objects.sum()
            rates.append((2 * precision * recall / max(precision + recall, 1e-12), precision, recall))
        best = max(best, tuple(np.mean(rates, axis=0)))
    point = best_operating_point(matches)
    assert (point.precision, point.recall) == pytest.approx(best[1:])


def test_what_just_reaches_a_confidence_counts():
    scores = THRESHOLDS[[500, 499]]
    one = ClassMatches(scores, np.array([True, False]), np.array([0, 0]), np.array([1]))
    assert best_operating_point([one]) == (scores[0], 1, 1)
    assert image_points([one], scores[1]).tolist() == [0]
    assert image_points([one], scores[0]).tolist() == [1]


def test_boxes_are_matched_from_an_overlap_of_a_half():
    whole, half, less = (np.array([[0.0, 0, 10, height]]) for height in (10, 5, 4.9))
    assert pair_up(whole, half) == [(0, 0)]
    assert pair_up(whole, less) == []


def test_points_of_images():
    first = ClassMatches(
        np.array([0.9, 0.5, 0.2]), np.array([True, False, True]), np.array([0, 2, 2]), np.array([1, 0, 1])
    )
    second = ClassMatches(np.array([0.8]), np.array([True]), np.array([1]), np.array([0, 1, 0]))
    assert image_points([first, second], 0.4).tolist() == [1, 1, -1]
    assert image_points([first, second], 0.1).tolist() == [1, 1, 0]


def test_overlaps_against_pycocotools():
    from pycocotools import mask

    rng = np.random.default_rng(2)
    one, other = (scene(rng)[0].boxes for _ in range(2))
    sides = [np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]) for boxes in (one, other)]
    np.testing.assert_allclose(overlaps(one, other), mask.iou(*sides, [0] * len(other)), atol=1e-12)


def test_what_was_taken_for_what():
    truth = (np.array([[0.0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]]), np.array([0, 1, 1]))
    found = (np.array([[0.0, 0, 10, 9], [20, 20, 30, 30], [21, 20, 30, 30], [80, 80, 90, 90]]), np.array([0, 0, 1, 0]))
    table = confusion([truth], [found], 2)
    assert table.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
    none = (np.empty((0, 4)), np.empty(0, np.int64))
    assert confusion([truth], [none], 2).tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 0]]


def test_figures_have_the_columns_of_the_paper(tmp_path, scenes):
    found = write(tmp_path, scenes)
    figures = values(found, CLASSES)
    assert list(figures) == [column.name for column in columns(CLASSES)]
    assert figures["mAP@0.5"] == pytest.approx(100 * np.nanmean(found.ap50))
    assert np.isnan(figures["Bus"])
    assert 0 < figures["mAP@0.5:0.95"] < figures["mAP@0.5"]
    names = [column.name for column in columns(("Bus", "Car", "Lamp", "Motorcycle", "People", "Truck"))][:7]
    assert names == ["Bus", "Car", "Lamp", "Motorcycle", "People", "Truck", "mAP@0.5"]


def worse(scenes, drop):
    """The same scenes with the first detections lost."""
    return [(truth, tuple(part[drop:] for part in found)) for truth, found in scenes]


KEY = ("detect", "M3FD", "a", "b")


def test_comparisons(tmp_path, scenes):
    good, bad = write(tmp_path, scenes), write(tmp_path, worse(scenes, 6))
    found = compare(KEY, {"VI": {0: bad}, "EMMA": {0: good}}, ["IR", "VI"], CLASSES)
    assert (found[0].row, found[0].against, found[0].column, found[0].images) == ("EMMA", "VI", "mAP@0.5", 12)
    assert found[0].difference == pytest.approx(100 * (np.nanmean(good.ap50) - np.nanmean(bad.ap50)))
    assert found[0].sentence().startswith("EMMA finds more than VI: mAP@0.5 +")
    assert {comparison.column for comparison in found[1:]} <= {"Car", "People"}
    assert all(comparison.sure for comparison in found[1:])
    same = compare(KEY, {"IR": {0: good}, "max": {0: good}}, ["IR", "VI"], CLASSES)
    assert [(comparison.difference, comparison.low, comparison.high) for comparison in same] == [(0, 0, 0)]


@pytest.mark.parametrize(("count", "told"), [(9, False), (10, True)])
def test_few_images_tell_nothing(tmp_path, count, told):
    """A bus in each image, found by one row and by the other not: an interval from -100 to -100, of however few."""
    box, none = np.array([[1.0, 1, 5, 5]]), np.empty((0, 4))
    bus, empty = ImageBoxes(9, 9, box, np.array([2])), ImageBoxes(9, 9, none, np.empty(0, np.int64))
    seen, missed = (box, np.ones(1), np.array([2])), (none, np.empty(0), np.empty(0, np.int64))
    truth = [bus] * count + [empty] * 5
    good = write(tmp_path, [(each, seen if each is bus else missed) for each in truth])
    bad = write(tmp_path, [(each, missed) for each in truth])
    found = compare(KEY, {"IR": {0: good}, "X": {0: bad}}, ["IR", "VI"], CLASSES)
    said = [comparison.sentence() for comparison in found]
    if told:
        interval = "-100.0 AP (95 % interval -100.0 to -100.0, 15 images)."
        assert said == [f"X finds less than IR: mAP@0.5 {interval}", f"X finds Bus worse than IR: Bus {interval}"]
    else:
        assert said == ["X and IR: mAP@0.5 cannot be compared on these images."]
    assert found[0].difference == -100


@pytest.mark.parametrize("cars_found", [0, 10])
def test_a_mean_that_hangs_on_a_rare_class_is_not_claimed(tmp_path, cars_found):
    """Nine images show a bus, which one row finds and the other does not; the cars of thirty both find, or nearly."""
    box, none = np.array([[1.0, 1, 5, 5]]), (np.empty((0, 4)), np.empty(0), np.empty(0, np.int64))
    truth = [ImageBoxes(9, 9, box, np.array([kind])) for kind in [2] * 9 + [0] * 30]
    good = [(each, (box, np.ones(1), each.classes)) for each in truth]
    bad = [(each, none) for each in truth[:9]] + good[9:29] + [(each, none) for each in truth[29:]] * (cars_found > 0)
    bad += good[len(bad) :]
    (found, *classes) = compare(
        KEY, {"IR": {0: write(tmp_path, bad)}, "X": {0: write(tmp_path, good)}}, ["IR", "VI"], CLASSES
    )
    assert found.low > 0
    assert found.sure == bool(cars_found)
    assert found.rare == (() if cars_found else ("Bus (9)",))
    assert [each.column for each in classes] == ["Car"] * (cars_found > 0)


def test_classes_that_too_few_test_images_show_are_named():
    kinds = {f"{number}D": int(number < 3) for number in range(13)}
    notes = bench_of(kinds).notes
    assert notes[-1] == "In fewer than 10 test images, too few to tell: People (3)."
    assert not any("too few" in note for note in bench_of({f"{number}D": 0 for number in range(10)}).notes)
    assert bench_of({"1D": 0, "2D": 1}).notes[-1].endswith("mAP@0.5 (2), Car (1), People (1).")


def test_methods_are_compared_with_naive_rules_after_the_cameras(tmp_path, scenes, monkeypatch):
    monkeypatch.setattr(scoring, "bootstrap", partial(bootstrap, draws=5))
    found = {0: write(tmp_path, scenes)}
    rows = dict.fromkeys(("IR", "VI", "mean", "max", "laplacian", "EMMA"), found)
    cameras = [(row, camera) for row in ("mean", "max", "laplacian", "EMMA") for camera in ("IR", "VI")]
    naive = [(row, rule) for row in ("laplacian", "EMMA") for rule in ("mean", "max")]
    compared = compare(KEY, rows, ["IR", "VI"], CLASSES)
    assert [(each.row, each.against) for each in compared] == [*cameras, *naive]


def test_only_seeds_that_both_rows_have_are_compared(tmp_path, scenes):
    good, bad = write(tmp_path, scenes), write(tmp_path, worse(scenes, 6))
    rows = {"IR": {0: bad, 1: good}, "VI": {3: bad}, "EMMA": {1: good, 2: bad}}
    (only,) = compare(KEY, rows, ["IR", "VI"], CLASSES)
    assert (only.against, only.difference, only.low, only.high) == ("IR", 0, 0, 0)  # of seed 1, where they are equal


def test_several_seeds_are_averaged(tmp_path, scenes):
    seeds = [write(tmp_path, worse(scenes, drop)) for drop in (0, 4)]
    every = np.arange(12)
    np.testing.assert_allclose(ap50(seeds, every), np.mean([ap50([seed], every) for seed in seeds], axis=0))


def test_conditions(tmp_path, scenes):
    keys = ["test/00001D", "test/00002N", "test/00003D", "test/x"]
    groups = group_by_condition(keys, {"x": "fog"}, DATASETS["MSRS"].conditions)
    assert {name: chosen.tolist() for name, chosen in groups.items()} == {"day": [0, 2], "fog": [3], "night": [1]}
    assert group_by_condition(keys, {}, ()) == {}
    found = write(tmp_path, scenes)
    day = {"day": np.arange(6)}
    write_conditions(tmp_path, found, CLASSES, day)
    content = json.loads((tmp_path / "conditions.json").read_text())
    part = write(tmp_path, scenes[:6])
    assert content["day"]["images"] == 6
    assert content["day"]["AP@0.5"]["Car"] == pytest.approx(100 * part.ap50[0], abs=1e-3)
    assert content["day"]["AP@0.5"]["Bus"] is None
    figures = values(found, CLASSES, day)
    assert list(figures) == [column.name for column in columns(CLASSES, day)]
    assert figures["mAP@0.5 day"] == pytest.approx(values(part, CLASSES)["mAP@0.5"])
    for text in ("[]", "{", ""):
        (tmp_path / "light.json").write_text(text)
        with pytest.raises(DataError, match="no JSON object of conditions by id"):
            read_conditions(tmp_path / "light.json")


def bench_of(kinds, dataset="MSRS"):
    """A bench of test pairs by id, each with one object of a class."""
    pairs = tuple(Pair("test", identifier, "a.png", "b.png") for identifier in kinds)
    box = np.array([[1.0, 1, 5, 5]])
    images = {f"test/{identifier}": ImageBoxes(9, 9, box, np.array([kind])) for identifier, kind in kinds.items()}
    found = PairSet(dataset, Path(), "test", pairs, DATASETS[dataset])
    annotations = Annotations(CLASSES, images, (), 0, 0, Path())
    return Bench(found, annotations, DetectionSplit("test", (), (), tuple(images)))


def test_ids_of_msrs_tell_day_from_night_and_classes_of_one_light_are_named():
    bench = bench_of({"1D": 0, "2N": 0, "3D": 1, "4N": 1})
    assert {name: chosen.tolist() for name, chosen in bench.conditions.items()} == {"day": [0, 2], "night": [1, 3]}
    assert not any("fewer classes" in note for note in bench.notes)
    notes = bench_of({"1D": 0, "2N": 0, "3D": 1}).notes
    assert "mAP@0.5 night is over fewer classes: no People in these images." in notes
    assert bench_of({"1D": 0, "2N": 0}, "RoadScene").conditions == {}


WHOLE = {"image_id": 0, "category_id": 0, "bbox": [1, 2, 3, 4], "score": 0.5}
NO_PREDICTIONS = [
    *({**WHOLE, "bbox": box} for box in ([1, 2, 3], [1, 2, -3, 4], [1, math.nan, 3, 4], ["1", 2, 3, 4], 7)),
    *({**WHOLE, "score": score} for score in (math.nan, 5000, -0.1, "0.5", None)),
    *({**WHOLE, field: number} for field in ("image_id", "category_id") for number in ([0], "0")),
]


@pytest.mark.parametrize(
    "content", ["{", "[1]", '[{"image_id": 0}]', "", *(json.dumps([row]) for row in NO_PREDICTIONS)]
)
def test_damaged_predictions(tmp_path, scenes, content):
    write(tmp_path, scenes)
    (tmp_path / "predictions.json").write_text(content)
    with pytest.raises(ResultError, match=r"predictions\.json: no COCO results"):
        coco.evaluate(tmp_path / "truth.json", tmp_path / "predictions.json")


@pytest.mark.parametrize(("field", "value"), [("category_id", 7), ("category_id", -1), ("image_id", 12)])
def test_predictions_of_other_images_or_classes(tmp_path, scenes, field, value):
    write(tmp_path, scenes)
    rows = json.loads((tmp_path / "predictions.json").read_text())
    (tmp_path / "predictions.json").write_text(json.dumps([*rows, {**rows[0], field: value}]))
    with pytest.raises(ResultError, match=rf"predictions\.json: no COCO results of these images \({field} {value}\)"):
        coco.evaluate(tmp_path / "truth.json", tmp_path / "predictions.json")


def test_damaged_truth(tmp_path, scenes):
    write(tmp_path, scenes)
    (tmp_path / "truth.json").write_text("{}")
    with pytest.raises(ResultError, match=r"truth\.json: cannot be evaluated"):
        coco.evaluate(tmp_path / "truth.json", tmp_path / "predictions.json")


def test_predictions_come_back_by_image(tmp_path, scenes):
    write(tmp_path, scenes)
    again = coco.found_by_image(coco.read_predictions(tmp_path / "predictions.json"), 12)
    for (_, (boxes, scores, kinds)), read in zip(scenes, again, strict=True):
        np.testing.assert_allclose(read[0], boxes, atol=0.011)
        np.testing.assert_allclose(read[1], scores)
        assert read[2].tolist() == kinds.tolist()

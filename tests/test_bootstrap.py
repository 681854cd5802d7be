"""Intervals against an independent implementation and by what they promise; what is said of them; their files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from emma_core.comparisons import COMPARISONS, Comparison, in_short, read_comparisons, write_comparisons
from emma_core.errors import ResultError
from emma_core.metrics.bootstrap import LEAST_IMAGES, bootstrap
from emma_core.pictures import INDEX, TaskPicture, read_index, write_index, write_picture

KEY = ("detect", "MSRS", "abc", "def")


def test_intervals_agree_with_scipy():
    values = np.random.default_rng(1).normal(2, 3, 80)
    ours = bootstrap(lambda chosen: values[chosen].mean(), 80, draws=4000)[0]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.06)


def test_an_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        one, other = rng.normal(1, 1, 60), rng.normal(0, 1, 60)
        found = bootstrap(lambda chosen, difference=one - other: difference[chosen].mean(), 60, draws=300)[0]
        hits += found.low <= 1 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_figures_that_some_draws_leave_undefined():
    rare = np.array([1.0, *[math.nan] * 11])
    some, never = bootstrap(lambda chosen: (np.nanmean([*rare[chosen], 1.0]), math.nan), 12, draws=50)
    assert (some.value, some.low, some.high) == (1, 1, 1)
    assert math.isnan(never.low)


@pytest.mark.parametrize("images", [1, 2, LEAST_IMAGES - 1, LEAST_IMAGES])
def test_of_few_images_no_interval_is_given(images):
    """Draws of one image all agree, and of two alike too: an interval would look certain."""
    (found,) = bootstrap(lambda chosen: -0.5 + 0 * chosen.mean(), images)
    assert found.value == -0.5
    assert math.isnan(found.low) == math.isnan(found.high) == (images < LEAST_IMAGES)


@pytest.mark.parametrize("bad", [{"images": 0}, {"images": 3, "level": 1.0}])
def test_nothing_to_draw_from(bad):
    with pytest.raises(ValueError, match="bootstrap"):
        bootstrap(lambda chosen: chosen.sum(), **bad)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (8.0, 16.3, "EMMA finds more than VI: mAP@0.5 +12.1 AP (95 % interval +8.0 to +16.3, 80 images)."),
        (-1.0, 16.3, "EMMA and VI cannot be told apart: mAP@0.5 +12.1 AP (95 % interval -1.0 to +16.3, 80 images)."),
        (math.nan, 1.0, "EMMA and VI: mAP@0.5 cannot be compared on these images."),
    ],
)
def test_sentences(low, high, text):
    more = {"better": "finds more", "worse": "finds less", "unit": "AP"}
    assert Comparison(KEY, "EMMA", "VI", "mAP@0.5", 12.1, low, high, 80, **more).sentence() == text


def test_which_figures_differ_is_said_in_a_line_for_every_two_rows():
    def compare(against, column, low, high):
        return Comparison(KEY, "EMMA", against, column, (low + high) / 2, low, high, 80)

    found = [
        compare("VI", "SSIM", 0.001, 0.002),
        compare("VI", "EN", 0.1, 0.3),
        compare("VI", "SD", -2, -1),
        compare("VI", "AG", -1, 1),
    ]
    found += [compare("VI", "MI", 1, 2), compare("IR", "EN", math.nan, math.nan), compare("max", "EN", -1, 1)]
    assert in_short(found) == [
        (
            "EMMA against VI (95 % intervals, 80 images): higher in EN, MI; lower in SD; "
            "the same to the digits shown in SSIM; not to be told apart in AG."
        ),
        "EMMA against IR (80 images): not to be compared in EN.",
        "EMMA against max (95 % intervals, 80 images): not to be told apart in EN.",
    ]
    assert in_short([]) == []
    one = Comparison(KEY, "EMMA", "VI", "EN", 1.0, math.nan, math.nan, 1)
    assert in_short([one]) == ["1 image: too few to tell rows from each other; 10 at least are needed."]
    assert in_short([one, found[1]]) == [
        "EMMA against VI (95 % intervals, 80 images): higher in EN; too few images to tell in EN."
    ]
    assert one.sentence() == "EMMA and VI: EN cannot be compared on these images, too few to tell."


def test_comparisons_on_disk(tmp_path):
    known = [Comparison(KEY, "EMMA", "IR", "mIoU", -1.5, -2.0, -1.0, 7), Comparison(KEY, "a", "b", "c", 1, 0, 2, 3)]
    undefined = Comparison(KEY, "EMMA", "VI", "mIoU", math.nan, math.nan, math.nan, 7)
    path = write_comparisons(tmp_path, [*known, undefined])
    found = read_comparisons(path)
    assert found[:2] == known
    assert math.isnan(found[2].low)
    for text in ("{", "[]", json.dumps({"schema": 9}), path.read_text().replace("-1.5", '"x"')):
        (tmp_path / COMPARISONS).write_text(text)
        with pytest.raises(ResultError):
            read_comparisons(path)


def test_pictures_on_disk(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2])
    image = write_picture(tmp_path, TaskPicture("a.png", "An image"), np.zeros((4, 5), np.float32))
    plot = write_picture(tmp_path, TaskPicture("b.png", "A plot", "Plots", wide=True), figure)
    path = write_index(tmp_path, [image, plot])
    assert read_index(path) == [image, plot]
    write_index(tmp_path, [plot])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.png", INDEX]
    for text in ("{", json.dumps({"schema": 1, "pictures": [{"file": "../a.png", "caption": ""}]})):
        path.write_text(text)
        with pytest.raises(ResultError):
            read_index(path)

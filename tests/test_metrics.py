"""Fusion metrics: golden values, independent evaluations, degenerate images, properties."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import gaussian_filter

from emma_core.errors import UsageError
from emma_core.images import read_image, write_image
from emma_core.metrics import _strips, _vif
from emma_core.metrics.fusion import METRICS, fusion_metrics, grey_levels, prepare

NAMES = ["EN", "SD", "SF", "AG", "MI", "VIF", "Qabf", "SCD", "CC", "SSIM"]
WINDOWED = {"VIF": 41, "SSIM": 7}


pytestmark = pytest.mark.usefixtures("one_thread")

_spec = importlib.util.spec_from_file_location("plain_metrics", REPOSITORY / "scripts" / "plain_metrics.py")
plain = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(plain)


def noise(seed, shape=(61, 83), sigma=0.0):
    """Whole grey levels over the full range, (H, W), float64."""
    image = gaussian_filter(np.random.default_rng(seed).random(shape), sigma)
    return np.round(255 * (image - image.min()) / np.ptp(image))


def batch(*images):
    return [torch.as_tensor(np.asarray(image, np.float32))[None] for image in images]


def score(infrared, visible, fused, names=None):
    scores = fusion_metrics(*batch(infrared, visible, fused), names)
    return {name: value.item() for name, value in scores.items()}


# Golden values on real images


def stored_grey(path):
    """Luma of a file, 0..255, rounded as the reference evaluator rounds it: from whole colours, not from [0, 1]."""
    image = np.round(read_image(path) * 255)
    return np.round(image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def real_pair(data, dataset, name):
    harvard = dataset.startswith("MRI-")
    root = data / "Harvard" / dataset if harvard else data / dataset
    folders = (dataset.removeprefix("MRI-"), "MRI") if harvard else ("ir", "vi")
    return [stored_grey(next((root / folder).glob(f"{name}.*"))) for folder in folders]


@pytest.mark.data
@pytest.mark.parametrize("dataset", ["TNO", "RoadScene", "MRI-CT", "MRI-PET", "MRI-SPECT"])
def test_golden(data, reference, dataset):
    rows = [row for row in json.loads((reference / "metrics.json").read_text()) if row["dataset"] == dataset]
    assert rows
    for row in rows:
        infrared, visible = real_pair(data, dataset, row["id"])
        rule = {"max": np.maximum(infrared, visible), "mean": np.round((infrared + visible) / 2)}
        expected = {name: row[name] for name in NAMES if name in row}
        assert score(infrared, visible, rule[row["rule"]], expected) == pytest.approx(expected, abs=1e-4)


# Independent evaluations


def triples():
    first, second = noise(1, sigma=2), noise(2, sigma=1)
    return {
        "noise": (noise(3), noise(4), noise(5)),
        "maximum": (first, second, np.maximum(first, second)),
        "mean": (first, second, np.round((first + second) / 2)),
        "infrared": (first, second, first),
        "visible": (first, second, second),
        "negative": (first, second, 255 - first),
        "two levels": (255 * (first > 99), 255 * (second > 140), 255 * (first > second)),
        "few levels": (first // 64, second // 64, np.maximum(first, second) // 64),
        "half black": (first * (first > 128), second * (first > 128), second * (second > 128)),
        "smallest": tuple(noise(seed, (41, 41), 1) for seed in (6, 7, 8)),
        "one row of windows": tuple(noise(seed, (41, 130), 1) for seed in (6, 7, 8)),
        "tall": tuple(noise(seed, (150, 47), 1) for seed in (6, 7, 8)),
    }


@pytest.mark.parametrize("kind", triples())
def test_plain_formulas(kind):
    images = triples()[kind]
    assert score(*images) == pytest.approx(plain.plain_metrics(*images), abs=2e-6)


@pytest.mark.parametrize("kind", ["noise", "maximum", "mean", "infrared", "half black"])
def test_ssim_of_scikit_image(kind):
    from skimage.metrics import structural_similarity

    infrared, visible, fused = triples()[kind]
    expected = sum(structural_similarity(source, fused, data_range=255) for source in (infrared, visible))
    assert score(infrared, visible, fused)["SSIM"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["noise", "maximum", "mean", "infrared", "tall"])
def test_vif_of_sewar(kind):
    from sewar.full_ref import vifp

    infrared, visible, fused = (image.astype(np.uint8) for image in triples()[kind])
    expected = vifp(infrared, fused) + vifp(visible, fused)
    assert score(infrared, visible, fused)["VIF"] == pytest.approx(expected, abs=1e-6)


def test_mutual_information_by_counting():
    infrared, visible, fused = (np.random.default_rng(seed).integers(0, 5, (6, 7)) for seed in (1, 2, 3))

    def share(*images):
        cells = list(zip(*(image.ravel().tolist() for image in images), strict=True))
        return {cell: cells.count(cell) / len(cells) for cell in cells}

    expected = 0.0
    for source in (infrared, visible):
        alone, target = share(source), share(fused)
        for (level, other), together in share(source, fused).items():
            expected += together * math.log(together / (alone[(level,)] * target[(other,)]))
    assert score(infrared, visible, fused)["MI"] == pytest.approx(expected, abs=1e-12)


def test_by_hand():
    image = np.array([[0, 3], [4, 0]])
    other = np.array([[0, 1], [1, 0]])
    values = score(image, other, image)
    assert values["EN"] == pytest.approx(1.5)
    assert values["SD"] == pytest.approx(math.sqrt((9 + 16) / 4 - (7 / 4) ** 2))
    assert values["SF"] == pytest.approx(math.sqrt((9 + 16) / 2 + (16 + 9) / 2))
    slopes = [(3, 4), (3, -3), (-4, 4), (-4, -3)]  # across and down at each pixel
    assert values["AG"] == pytest.approx(np.mean([math.hypot(*pair) / math.sqrt(2) for pair in slopes]))
    assert values["MI"] == pytest.approx(1.5 * math.log(2) + math.log(2))
    assert values["CC"] == pytest.approx((1 + np.corrcoef(image.ravel(), other.ravel())[0, 1]) / 2)


# Degenerate images


def expected_of_constant(level, shape):
    zero = dict.fromkeys(NAMES, 0.0)
    # Nothing but the black surroundings is an edge; strengths are equal, so the sigmoid of strength saturates.
    edge = 0.9994 * 0.9879 / (1 + math.exp(-22 * 0.2)) if level and max(shape) > 1 else 0.0
    windowed = {name: 2.0 if min(shape) >= side else math.nan for name, side in WINDOWED.items()}
    return zero | windowed | {"Qabf": edge}


@pytest.mark.parametrize("level", [0, 1, 77, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (7, 7), (40, 41), (41, 41), (64, 50)])
def test_constant(level, shape):
    image = np.full(shape, level)
    assert score(image, image, image) == pytest.approx(expected_of_constant(level, shape), abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 2), (2, 1), (1, 60), (60, 1), (3, 5), (6, 50), (7, 8), (40, 99), (41, 42)]
)
def test_small_images(shape):
    images = [np.random.default_rng(seed).integers(0, 256, shape) for seed in range(3)]
    for name, value in score(*images).items():
        assert math.isnan(value) == (min(shape) < WINDOWED.get(name, 1)), name


def test_constant_fused_or_source():
    image, flat = noise(1, sigma=2), np.full((61, 83), 200)
    values = score(image, 255 - image, flat)
    assert values["EN"] == values["SD"] == values["CC"] == values["MI"] == 0
    assert values["VIF"] == pytest.approx(0, abs=1e-9)
    assert values["SCD"] == pytest.approx(2)  # flat minus one source is the other, shifted
    # A constant source: no correlation with it, and VIF counts it as fully kept.
    values = score(flat, image, image)
    assert values["CC"] == pytest.approx(0.5)
    assert values["VIF"] == pytest.approx(2)


def test_difference_without_variance():
    image = noise(1, sigma=2) // 2
    assert score(image, image, image + 40)["SCD"] == 0
    assert score(noise(2) // 2, image, image + 40)["SCD"] == pytest.approx(
        plain.correlation(image, image + 40 - noise(2) // 2)
    )


def test_negative_keeps_no_information():
    image = noise(1, sigma=1)
    values = score(image, image, 255 - image)
    assert values["VIF"] == 0
    assert values["CC"] == pytest.approx(-1)


# What the library promises beyond the numbers


def test_table():
    assert list(METRICS) == NAMES
    units = {"EN": "bits", "MI": "nats"} | dict.fromkeys(["SD", "SF", "AG"], "grey levels")
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.unit == units.get(name, "")
        assert metric.higher_is_better
        assert metric.digits == 2
        assert metric.description.count("\n") == 0
        assert metric.description.endswith(")"), "names its source"


def test_one_metric_alone():
    images = batch(*triples()["maximum"])
    together = fusion_metrics(*images)
    for name, metric in METRICS.items():
        assert torch.equal(metric(*images), together[name])
        assert together[name].shape == (1,)
        assert together[name].dtype == torch.float64


def test_names_in_the_order_asked():
    images = batch(*triples()["maximum"])
    assert list(fusion_metrics(*images, ["SSIM", "EN"])) == ["SSIM", "EN"]
    assert fusion_metrics(*images, []) == {}


def test_batch_is_its_images():
    kinds = ["noise", "maximum", "infrared", "two levels", "half black"]
    stacked = [torch.cat(images) for images in zip(*(batch(*triples()[kind]) for kind in kinds), strict=True)]
    together = fusion_metrics(*stacked)
    for index, kind in enumerate(kinds):
        for name, value in score(*triples()[kind]).items():
            assert together[name][index].item() == pytest.approx(value, abs=1e-6), (kind, name)


def test_sources_are_decomposed_once(monkeypatch):
    infrared, visible, fused = batch(*triples()["maximum"])
    expected = [fusion_metrics(infrared, visible, image) for image in (infrared, visible, fused)]
    decomposed = []
    decompose = _vif.pyramid
    monkeypatch.setattr(_vif, "pyramid", lambda levels: decomposed.append(levels) or decompose(levels))
    pair = prepare(infrared, visible)
    assert [pair.evaluate(image) for image in (infrared, visible, fused)] == expected
    assert len(decomposed) == 3


@pytest.mark.parametrize("kind", ["noise", "maximum", "half black", "one row of windows", "tall"])
def test_strips_add_up(kind, monkeypatch):
    whole = score(*triples()[kind])
    monkeypatch.setattr(_strips, "_PIXELS", 1)  # so every strip has the fewest rows
    monkeypatch.setattr(_vif, "_BLOCK", 7)
    _vif._band.cache_clear()
    assert score(*triples()[kind]) == pytest.approx(whole, abs=1e-6)
    _vif._band.cache_clear()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float64])
def test_any_dtype(dtype):
    images = batch(*triples()["mean"])
    assert fusion_metrics(*(image.to(dtype) for image in images)) == fusion_metrics(*images)


def test_inputs_stay_as_they_are():
    images = batch(*triples()["mean"])
    copies = [image.clone() for image in images]
    fusion_metrics(*images)
    assert all(map(torch.equal, images, copies))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_cpu():
    images = batch(*triples()["maximum"])
    expected = fusion_metrics(*images)
    for name, value in fusion_metrics(*(image.cuda() for image in images)).items():
        assert value.is_cuda
        assert value.item() == pytest.approx(expected[name].item(), abs=1e-6), name


@pytest.mark.parametrize(
    ("infrared", "visible", "fused", "message"),
    [
        ((1, 8, 9), (1, 8, 9), (1, 9, 8), r"fused is \(1, 9, 8\) on cpu; expected \(1, 8, 9\)"),
        ((1, 8, 9), (2, 8, 9), (1, 8, 9), r"visible \(2, 8, 9\) on cpu; expected the same shape"),
        ((8, 9), (8, 9), (8, 9), r"infrared is \(8, 9\); expected \(B, H, W\)"),
        ((1, 1, 8, 9), (1, 8, 9), (1, 8, 9), r"infrared is \(1, 1, 8, 9\); expected \(B, H, W\)"),
        ((1, 0, 9), (1, 0, 9), (1, 0, 9), "at least one pixel"),
        ((0, 8, 9), (0, 8, 9), (0, 8, 9), "at least one pixel"),
    ],
)
def test_wrong_shapes(infrared, visible, fused, message):
    with pytest.raises(UsageError, match=message) as caught:
        fusion_metrics(torch.zeros(infrared), torch.zeros(visible), torch.zeros(fused))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0.5, -1, 256, 300, 1e10, math.nan, math.inf])
def test_only_whole_grey_levels(value):
    image = torch.zeros(1, 8, 8)
    wrong = image.clone()
    wrong[0, 3, 3] = value
    with pytest.raises(UsageError, match=r"visible holds values in .*; expected whole grey levels 0\.\.255"):
        prepare(image, wrong)


def test_unknown_name():
    images = batch(*triples()["mean"])
    with pytest.raises(UsageError, match="unknown metric 'PSNR'; expected some of EN, SD"):
        fusion_metrics(*images, ["EN", "PSNR"])


def test_grey_levels():
    image = torch.tensor([0.0, 1.0, 0.5, 0.1, 1.5 / 255, -0.1, 1.2])
    assert grey_levels(image).tolist() == [0, 255, 128, 26, 2, 0, 255]
    assert image[0] == 0
    assert image[-1] > 1
    assert grey_levels(torch.tensor([0.5, 1.5, 2.5]) / 255).tolist() == [0, 2, 2]


def test_benchmark_script(tmp_path):
    for seed, name in enumerate(("ir", "vi")):
        write_image(tmp_path / f"{name}.png", (noise(seed, (64, 72), 1) / 255).astype(np.float32))
    script = REPOSITORY / "scripts" / "benchmark_metrics.py"
    pair = [str(tmp_path / f"{name}.png") for name in ("ir", "vi")]
    done = subprocess.run(
        [sys.executable, script, "--runs", "1", "--pair", *pair],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in [*NAMES, "medians", "torch", " x"])


# Properties


SIDE = st.integers(1, 12)
SMALL = arrays.arrays(np.uint8, st.tuples(st.just(3), SIDE, SIDE))  # infrared, visible, fused
SMALL_BATCH = arrays.arrays(np.uint8, st.tuples(st.just(3), st.integers(1, 3), SIDE, SIDE))


@settings(deadline=None)
@given(SMALL)
def test_ranges(images):
    values = score(*images)
    assert 0 <= values["EN"] <= 8
    assert 0 <= values["SD"] <= 127.5
    assert 0 <= values["SF"] <= 255 * math.sqrt(2)
    assert 0 <= values["AG"] <= 255
    assert 0 <= values["MI"] <= 2 * values["EN"] * math.log(2) + 1e-12
    assert 0 <= values["Qabf"] <= 1
    assert -2 - 1e-9 <= values["SCD"] <= 2 + 1e-9
    assert -1 - 1e-9 <= values["CC"] <= 1 + 1e-9
    assert math.isnan(values["SSIM"]) or -2 <= values["SSIM"] <= 2 + 1e-6


@settings(deadline=None)
@given(SMALL)
def test_sources_exchange(images):
    infrared, visible, fused = images
    assert score(visible, infrared, fused) == pytest.approx(score(infrared, visible, fused), abs=1e-6, nan_ok=True)


@settings(deadline=None)
@given(SMALL)
def test_copy_of_both_sources(images):
    values = score(images[0], images[0], images[0])
    assert values["MI"] == pytest.approx(2 * values["EN"] * math.log(2))
    assert values["CC"] == pytest.approx(1 if np.ptp(images[0]) else 0)
    assert math.isnan(values["SSIM"]) or values["SSIM"] == pytest.approx(2)


@settings(deadline=None)
@given(SMALL_BATCH)
def test_batch_of_small_images(images):
    together = fusion_metrics(*map(torch.from_numpy, images))
    for index in range(images.shape[1]):
        for name, value in score(*images[:, index]).items():
            assert together[name][index].item() == pytest.approx(value, abs=1e-6, nan_ok=True), name

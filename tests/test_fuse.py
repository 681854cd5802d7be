"""Fusing one pair: rules, sizes, colour, tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_image
from hypothesis import given, settings
from hypothesis import strategies as st

from emma_core import fuse as fuse_module
from emma_core.classical import guided_filter
from emma_core.errors import DataError, UsageError
from emma_core.fuse import OVERLAP, fuse_pair
from emma_core.fusers import METHODS, Fuser, fusion_method, load_fuser
from emma_core.images import luma, read_image

RULES = [name for name, method in METHODS.items() if method.rule]
sides = st.integers(1, 40)


def blur(infrared: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """A network stand-in with a receptive field: 5 x 5 mean of both images."""
    assert infrared.shape[-1] % 8 == infrared.shape[-2] % 8 == 0
    assert min(infrared.shape[-2:]) >= 16
    padded = torch.nn.functional.pad((infrared + visible) / 2, (2, 2, 2, 2), mode="reflect")
    return torch.nn.functional.avg_pool2d(padded, 5, stride=1)


BLUR = Fuser("blur", blur, {"method": "blur"}, stride=8, min_size=16, tiles=True)


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=25, deadline=None)
@given(height=sides, width=sides)
def test_rules_keep_size_and_range(name, height, width):
    infrared, visible = random_image(1, (height, width)), random_image(2, (height, width))
    fused = fuse_pair(infrared, visible, load_fuser(name))
    assert fused.shape == (height, width)
    assert fused.dtype == np.float32
    assert np.isfinite(fused).all()
    assert fused.min() >= 0
    assert fused.max() <= 1


@pytest.mark.parametrize("name", RULES)
def test_rules_return_an_image_fused_with_itself(name):
    image = random_image(3, (48, 64))
    np.testing.assert_allclose(fuse_pair(image, image, load_fuser(name)), image, atol=2e-3)


@pytest.mark.parametrize("name", ["laplacian", "ratio", "wavelet", "guided", "two-scale"])
def test_rules_keep_the_detail_of_both_sources(name):
    """Stripes in the left half of one image and in the right half of the other: both must survive."""
    stripes = np.tile(np.float32([0.3, 0.7]), (64, 64))
    infrared, visible = (np.full((64, 128), 0.5, np.float32) for _ in range(2))
    infrared[:, :64], visible[:, 64:] = stripes[:, :64], stripes[:, :64]
    fused = fuse_pair(infrared, visible, load_fuser(name))
    assert fused[:, 8:56].std() > 0.1
    assert fused[:, 72:120].std() > 0.1


def test_mean_and_max_are_what_they_say():
    infrared, visible = random_image(1, (9, 7)), random_image(2, (9, 7))
    np.testing.assert_allclose(fuse_pair(infrared, visible, load_fuser("mean")), (infrared + visible) / 2)
    np.testing.assert_array_equal(fuse_pair(infrared, visible, load_fuser("MAX")), np.maximum(infrared, visible))


def test_guided_filter_keeps_an_edge_and_smooths_noise():
    edge = np.repeat(np.float32([[0.2] * 32 + [0.8] * 32]), 64, axis=0)
    noisy = edge + 0.02 * np.random.default_rng(0).standard_normal(edge.shape).astype(np.float32)
    smooth = guided_filter(edge, noisy, 5, 1e-3)
    assert np.abs(smooth - edge).mean() < 0.3 * np.abs(noisy - edge).mean()


@settings(max_examples=40, deadline=None)
@given(height=sides, width=sides, colour=st.booleans())
def test_any_size_comes_back_as_it_was(height, width, colour):
    visible = random_image(2, (height, width, 3) if colour else (height, width))
    fused = fuse_pair(random_image(1, (height, width)), visible, BLUR)
    assert fused.shape == visible.shape


def test_colour_comes_from_the_side_that_carries_it():
    grey, colour = random_image(1, (24, 24)), random_image(2, (24, 24, 3)) * 0.4 + 0.3
    maximum = load_fuser("max")
    for images, side in (((grey, colour), "visible"), ((colour, grey), "infrared")):
        fused = fuse_pair(*images, maximum, colour_from=side)
        wanted = np.maximum(grey, luma(colour))
        assert fused.shape == colour.shape
        np.testing.assert_allclose(luma(fused)[fused.max(-1) < 1], wanted[fused.max(-1) < 1], atol=2e-3)
        np.testing.assert_array_equal(fuse_pair(*images, maximum, colour_from="none"), wanted)
    assert fuse_pair(grey, colour, maximum, colour_from="infrared").ndim == 2


def test_sizes_must_agree():
    with pytest.raises(DataError, match="7 x 9 and 9 x 7"):
        fuse_pair(random_image(1, (9, 7)), random_image(2, (7, 9)), BLUR)


@settings(max_examples=15, deadline=None)
@given(height=st.integers(200, 700), width=st.integers(200, 700), tile=st.sampled_from([2 * OVERLAP, 320, 512]))
def test_tiles_have_no_seams_where_the_network_is_local(height, width, tile):
    infrared, visible = random_image(1, (height, width)), random_image(2, (height, width))
    whole = fuse_pair(infrared, visible, BLUR, tile=0)
    tiled = fuse_pair(infrared, visible, BLUR, tile=tile)
    # A tile's reflected border reaches two pixels into it, and those weigh at most 2 / OVERLAP. The border of the
    # image itself is left out: there the padding to a multiple of eight differs.
    assert np.abs(whole - tiled)[4:-4, 4:-4].max() < 0.01


def test_large_images_are_tiled_on_their_own_and_small_tiles_refused(monkeypatch):
    shapes = []

    def spy(infrared, visible):
        shapes.append(tuple(infrared.shape[-2:]))
        return blur(infrared, visible)

    fuser = Fuser("spy", spy, {}, stride=8, min_size=16, tiles=True)
    monkeypatch.setattr(fuse_module, "TILE_ABOVE", 400 * 400)
    monkeypatch.setattr(fuse_module, "TILE", 256)
    images = random_image(1, (400, 400)), random_image(2, (400, 400))
    fuse_pair(*images, fuser)
    assert shapes == [(400, 400)]
    shapes.clear()
    fuse_pair(random_image(1, (408, 400)), random_image(2, (408, 400)), fuser)
    assert set(shapes) == {(256, 256)}
    with pytest.raises(UsageError, match="at least 256"):
        fuse_pair(*images, fuser, tile=100)


def test_stretch_fills_the_range_and_leaves_constants():
    fuser = Fuser("blur", blur, {}, stride=8, min_size=16, stretch=True)
    fused = fuse_pair(random_image(1, (20, 20)), random_image(2, (20, 20)), fuser)
    assert (fused.min(), fused.max()) == (0, 1)
    flat = np.full((20, 20), 0.5, np.float32)
    np.testing.assert_array_equal(fuse_pair(flat, flat, fuser), flat)


@pytest.mark.parametrize(("native", "used"), [(True, "bf16"), (False, "fp32")])
def test_precision_auto_is_what_the_processor_computes_in(native, used, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    assert load_fuser(device="cpu", precision="auto").settings["precision"] == used
    assert load_fuser(device="cpu").settings["precision"] == "fp32"


def test_unknown_precision_is_refused():
    with pytest.raises(UsageError, match="'fp16'; expected auto, fp32 or bf16"):
        load_fuser(precision="fp16")


@pytest.mark.data
@pytest.mark.parametrize("name", ["00551D.png", "00004N.png"])
def test_bfloat16_is_within_50_db_of_float32_on_real_images(data, name):
    images = [read_image(data / "MSRS" / "test" / side / name) for side in ("ir", "vi")]
    exact, coarse = (
        fuse_pair(*images, load_fuser(device="cpu", precision=precision), colour_from="none")
        for precision in ("fp32", "bf16")
    )
    assert -10 * np.log10(np.mean((exact - coarse) ** 2)) > 50


def test_methods_are_found_by_name_and_say_what_they_need():
    assert fusion_method("Two-Scale").name == "two-scale"
    with pytest.raises(UsageError, match="known: EMMA, mean, max"):
        load_fuser("magic")
    with pytest.raises(UsageError, match="max has none"):
        load_fuser("max", weights="w.pth")

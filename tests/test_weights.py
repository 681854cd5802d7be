"""The shipped weights: small, what their card says they are, and as good as it says."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_image

from emma_core.checkpoint import load_ufuser
from emma_core.datasets import dataset_spec
from emma_core.evaluate import evaluate_dataset
from emma_core.fuse import fuse_pair
from emma_core.fuse_dataset import fuse_dataset, fused_folder
from emma_core.fusers import SHIPPED_WEIGHTS, load_fuser
from emma_core.pairs import find_pairs
from emma_core.rows import fused_rows

CARD = (SHIPPED_WEIGHTS.parent / "README.md").read_text("utf-8")


def test_they_are_small_and_the_card_is_of_them():
    network, info = load_ufuser(SHIPPED_WEIGHTS)
    assert SHIPPED_WEIGHTS.stat().st_size <= 8 * 2**20
    assert info.sha256 in CARD
    assert f"{sum(weight.numel() for weight in network.parameters()):,} parameters" in CARD


def test_emma_fuses_with_them_by_default():
    infrared, visible = random_image(1, (40, 56)), random_image(2, (40, 56, 3))
    fuser = load_fuser()
    assert fuser.settings["checkpoint_sha256"] in CARD
    fused = fuse_pair(infrared, visible, fuser)
    assert fused.shape == visible.shape
    # What is bright in either image is bright in the fused one: trained weights, and not any.
    brighter = np.maximum(infrared, visible @ np.float32([0.299, 0.587, 0.114]))
    assert np.corrcoef(fused.mean(axis=-1).ravel(), brighter.ravel())[0, 1] > 0.8


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_figures_of_the_card_on_msrs(data, tmp_path):
    pairs = find_pairs(dataset_spec("MSRS"), data / "MSRS", split_file=data / "MSRS" / "test_list.txt")
    for output_range in ("sigmoid", "stretch"):
        fuser = load_fuser(output_range=output_range)
        fuse_dataset(pairs, fuser, fused_folder(tmp_path, pairs.dataset, output_range))
    results = evaluate_dataset(pairs, fused_rows(pairs, tmp_path), tmp_path).results
    for result in results:
        if result.row in {"sigmoid", "stretch"}:
            figures = " | ".join(f"{result.values[name]:.2f}" for name in ("EN", "SD", "AG", "MI", "VIF", "Qabf"))
            assert f"| {result.row} | {figures} |" in CARD

"""What a run is given arrives where it should: seeds, weights to begin with, and what its weights say of themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_trainings import FUSER, SENSING, SHORT, TINY, data_of, run_fuser, run_sensing

from emma_core.chance import seeded
from emma_core.checkpoint import load_sensing, load_ufuser, save_checkpoint
from emma_core.engine import Engine
from emma_core.models.ufuser import UFuser
from emma_core.train_runs import RunOptions, train_fuser, train_sensing
from emma_core.training import LAST
from emma_core.training_log import LOG, read_log

pytestmark = pytest.mark.usefixtures("one_thread")

STANDING = replace(SHORT, steps=1, learning_rate=1e-12)
"""Weights stay where they began."""


def test_the_seed_decides_the_weights_of_a_sensing_network(trainable, tmp_path):
    data, training = data_of(trainable), replace(SENSING, schedule=replace(SHORT, steps=1))
    for seed in (0, 1):
        options = RunOptions("test", tmp_path / str(seed), seed=seed, quiet=True)
        train_sensing(Engine("cpu"), training, "visible", data, options)
    one, other = (load_sensing(tmp_path / str(seed) / LAST)[0].head.weight for seed in (0, 1))
    assert (one - other).abs().max() > 0.01


@pytest.mark.parametrize("warm_start", [False, True])
def test_the_fuser_begins_with_the_weights_it_is_given(warm_start, trainable, tmp_path):
    with seeded(9, "test"):
        begin = UFuser(TINY)
    save_checkpoint(tmp_path / "begin.safetensors", begin, recipe="test", provenance={})
    training = replace(FUSER, warm_start=warm_start, schedule=STANDING, warm_start_schedule=STANDING)
    options = RunOptions("test", tmp_path / "run", quiet=True)
    sensing = (trainable / "Ai.safetensors", trainable / "Av.safetensors")
    initial = tmp_path / "begin.safetensors"
    train_fuser(Engine("cpu"), training, data_of(trainable), options, sensing=sensing, initial=initial)
    for left, right in zip(load_ufuser(tmp_path / "run" / LAST)[0].parameters(), begin.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-9)


def test_stage_one_may_be_a_run_of_its_own(trainable, tmp_path):
    """Beside stage II, say, as it needs no sensing network; the end is that of one run with a warm start."""
    whole = replace(FUSER, warm_start=True, schedule=replace(SHORT, steps=2), warm_start_schedule=SHORT)
    stage_one, stage_three = whole.warm(teacher=False), replace(whole, warm_start=False)
    run_fuser(trainable, tmp_path / "whole", whole)
    run_fuser(trainable, tmp_path / "one", stage_one)
    run_fuser(trainable, tmp_path / "three", stage_three, initial=tmp_path / "one" / LAST)
    once, twice = (load_ufuser(tmp_path / run / LAST)[0].state_dict() for run in ("whole", "three"))
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_a_checkpoint_says_what_it_reached(trainable, tmp_path):
    run_sensing(trainable, tmp_path)
    last = [line["validation"] for line in read_log(tmp_path / LOG) if "validation" in line][-1]
    provenance = load_sensing(tmp_path / LAST)[1].provenance
    assert provenance["stage"] == "infrared sensing"
    for name in ("l1", "constant", "copy", "score"):
        assert float(provenance[name]) == pytest.approx(last[name], rel=1e-5), name

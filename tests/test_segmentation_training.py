"""Training a segmenter: recipes, samples by number, a backbone that is frozen, and a killed run that ends with
the bytes of one that was not.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from emma_core.chance import seeded
from emma_core.config import from_dict, to_dict
from emma_core.engine import Engine
from emma_core.errors import UsageError
from emma_core.rows import source_rows
from emma_core.samples import write_samples
from emma_core.training import LAST, STATE, SavePolicy, TrainingError
from emma_core.training_log import LOG, read_log
from segmentation.data import RowImages, Samples, find_data, read_levels
from segmentation.labels import SEGMENTATIONS, UNLABELLED
from segmentation.network import Segmenter, load_segmenter, weights_hash
from segmentation.recipes import (
    RECIPES,
    AugmentConfig,
    NetworkConfig,
    ScheduleConfig,
    SegmentationTraining,
    changed,
    recipe_named,
)
from segmentation.run import Request, plan, run_rows
from segmentation.scored import MATRICES, PREDICTIONS
from segmentation.stage import class_weights, pixel_loss, rate_at, segmentation_stage

SCRATCH = NetworkConfig(encoder_weights="none", decoder_channels=16)
STILL = AugmentConfig(scale=(1.0, 1.0), flip=0, blur=0, rotate=0, brightness=0, saturation=0, hue=0)
SHORT = ScheduleConfig(
    epochs=6, frozen_epochs=2, batch=2, warm_up_epochs=1, final_epochs=1, learning_rate=0.05, monitor_epochs=2
)
TINY = SegmentationTraining(SCRATCH, size=(64, 96), schedule=SHORT)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Rendered MSRS scenes, 4 for training and 2 for testing."""
    return write_samples(tmp_path_factory.mktemp("samples"), ["MSRS"], 6, size=(64, 96))[0]


def request_of(root: Path, runs: Path, training: SegmentationTraining = TINY, rows: int = 1) -> Request:
    data = find_data(SEGMENTATIONS["MSRS"], root)
    policy = SavePolicy(steps=2, log_steps=1)
    return Request(data, source_rows(data.pairs)[:rows], training, "test", runs, policy=policy, quiet=True)


def images_of(root: Path) -> RowImages:
    data = find_data(SEGMENTATIONS["MSRS"], root)
    return RowImages(source_rows(data.pairs)[1], data, data.train)


def test_rows_trained_by_several_processes_are_no_rows_of_a_table_by_one(root, tmp_path):
    """Each takes a batch: fewer steps of more images, at the same rate."""
    request, engine = request_of(root, tmp_path), Engine("cpu")
    run_rows(request, engine)
    assert ["is done" in line for line in plan(request, engine)] == [True]
    engine.world = 2
    assert ["is done" in line for line in plan(request, engine)] == [False]
    assert run_rows(request, engine) == []  # trained already, by one
    engine.world = 1
    assert ["is done" in line for line in plan(request, engine)] == [True]
    assert [each.result.recipe.get("processes", 1) for each in run_rows(request, engine)] == [1]


# Recipes


def test_the_paper_recipe_is_the_papers():
    """Every value, as docs/segmentation.md gives it: what the paper says, and what is inferred."""
    assert to_dict(recipe_named("Paper")) == {
        "network": {
            "encoder": "mobilenet_v2",
            "encoder_weights": "imagenet",
            "output_stride": 16,
            "atrous_rates": [6, 12, 18],
            "decoder_channels": 256,
        },
        "size": [512, 512],
        "crop": None,
        "augment": {
            "scale": [0.25, 2.0],
            "flip": 0.5,
            "blur": 0.25,
            "rotate": 0.25,
            "degrees": 10.0,
            "brightness": 0.3,
            "saturation": 0.7,
            "hue": 0.05,
        },
        "schedule": {
            "epochs": 340,
            "frozen_epochs": 100,
            "batch": 8,
            "optimizer": "sgd",
            "learning_rate": 7e-3,
            "reference_batch": 16,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "warm_up_epochs": 3,
            "final_epochs": 15,
            "final_rate": 0.01,
            "encoder_rate": 1.0,
            "precision": "fp32",
            "monitor_epochs": 20,
        },
        "balance": 0.0,
    }


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_are_written_and_read(name):
    assert from_dict(SegmentationTraining, to_dict(RECIPES[name])) == RECIPES[name]


def test_values_are_changed_one_by_one():
    training = changed(RECIPES["paper"], {"schedule": {"epochs": 500}, "size": [256, 320]})
    assert (training.schedule.epochs, training.schedule.batch, training.size) == (500, 8, (256, 320))
    for change, match in [
        ({"schedule": {"epoch": 5}}, "unknown key 'schedule.epoch'"),
        ({"schedule": {"batch": 1}}, "batch normalisation needs at least 2"),
        ({"schedule": {"epochs": 18}}, "18 epochs leave none"),
        ({"size": [250, 320]}, "250 pixels, expected a multiple of 16"),
        ({"augment": {"scale": [2.0, 1.0]}}, "expected 0 < low <= high"),
        ({"network": {"output_stride": 32}}, "expected 8 or 16"),
    ]:
        with pytest.raises(UsageError, match=match):
            changed(RECIPES["paper"], change)
    with pytest.raises(UsageError, match="known: paper, quick, demo"):
        recipe_named("fast")


def test_a_shorter_run_keeps_its_course():
    whole, short = ScheduleConfig(), ScheduleConfig().shortened(34)
    assert (short.frozen_epochs, short.warm_up_epochs, short.final_epochs) == pytest.approx((10, 0.3, 1.5))
    for progress in (0, 0.005, 0.3, 0.7, 0.99):
        assert rate_at(progress, short) == pytest.approx(rate_at(progress, whole))


def test_the_rate_rises_falls_and_stays():
    schedule = ScheduleConfig()
    highest = 7e-3 * 8 / 16
    assert rate_at(0, schedule) == pytest.approx(0.1 * highest)
    assert rate_at(3 / 340, schedule) == pytest.approx(highest)
    assert rate_at((3 + (340 - 18) / 2) / 340, schedule) == pytest.approx(highest * (0.01 + 0.99 / 2))
    for epoch in (325, 330, 340):
        assert rate_at(epoch / 340, schedule) == pytest.approx(0.01 * highest)
    flat = ScheduleConfig(warm_up_epochs=0, final_epochs=0)
    assert rate_at(0, flat) == pytest.approx(highest)


# Images by number


def test_samples_come_by_number(root):
    images = images_of(root)
    samples = Samples(images, replace(TINY, augment=STILL), seed=3)
    epoch = [samples[number] for number in range(len(samples))]
    assert epoch[0]["image"].shape == (3, 64, 96)
    assert 0 <= epoch[0]["image"].min() <= epoch[0]["image"].max() <= 1
    assert len({sample["mask"].numpy().tobytes() for sample in epoch}) == len(images) == 4
    later = Samples(images, replace(TINY, augment=STILL), seed=3)[6]
    assert torch.equal(samples[6]["image"], later["image"])


# The loss


def test_the_loss_counts_labelled_pixels_alone():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator)
    mask = torch.randint(4, (2, 5, 6), generator=generator)
    even = torch.ones(4)
    torch.testing.assert_close(pixel_loss(logits, mask, even), cross_entropy(logits, mask))
    mask[0] = UNLABELLED
    torch.testing.assert_close(pixel_loss(logits, mask, even), cross_entropy(logits[1:], mask[1:]))
    mask[:] = UNLABELLED
    assert pixel_loss(logits, mask, even) == 0


def test_rare_classes_weigh_more_and_the_average_pixel_weighs_one(root):
    images = images_of(root)
    assert class_weights(images, 9, 0).tolist() == [1] * 9
    counts = np.bincount(np.concatenate([images[index][1].ravel() for index in range(4)]), minlength=9)
    assert counts.min() > 0
    weights = class_weights(images, 9, 0.5).double().numpy()
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1, rel=1e-6)
    assert weights[8] / weights[0] == pytest.approx(math.sqrt(counts[0] / counts[8]), rel=1e-5)


# The loop


def stage_of(root: Path, training: SegmentationTraining):
    images = images_of(root)
    with seeded(0, "test"):
        segmenter = Segmenter(training.network, 9)
    samples = Samples(images, training, 0)
    return segmentation_stage("test", Engine("cpu"), segmenter, training, samples, images, config=SHORT, seed=0)


def test_weights_are_moved_by_nesterov_momentum_and_decay(root):
    stage = stage_of(root, replace(TINY, schedule=replace(SHORT, encoder_rate=0.5)))
    assert isinstance(stage.optimizer, torch.optim.SGD)
    groups = stage.optimizer.param_groups
    for group in groups:
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, True)
    assert [group["rate_factor"] for group in groups] == [0.5, 1.0]
    counts = [sum(parameter.numel() for parameter in group["params"]) for group in groups]
    total = sum(parameter.numel() for parameter in stage.module.parameters())
    assert counts[0] == sum(parameter.numel() for parameter in stage.module.encoder.parameters())
    assert sum(counts) == total
    adamw = stage_of(root, replace(TINY, schedule=replace(SHORT, optimizer="adamw", weight_decay=0.02)))
    assert isinstance(adamw.optimizer, torch.optim.AdamW)
    assert {group["weight_decay"] for group in adamw.optimizer.param_groups} == {0.02}


def test_the_backbone_and_its_statistics_are_frozen_at_first(root):
    stage = stage_of(root, TINY)
    assert stage.steps == 12  # 6 epochs of 4 images, 2 a step; frozen in the first 2 epochs
    encoder = stage.module.encoder
    for turn, frozen in ((3, True), (4, False)):
        before = {name: tensor.clone() for name, tensor in stage.module.state_dict().items()}
        stage.module.train()
        stage.optimizer.zero_grad()
        stage.step(next(stage.batches(turn)), turn)
        assert all((parameter.grad is None) == frozen for parameter in encoder.parameters())
        stage.optimizer.step()
        moved = {name for name, tensor in stage.module.state_dict().items() if not torch.equal(tensor, before[name])}
        assert any(name.startswith("net.encoder") for name in moved) != frozen
        assert any(name.endswith("running_mean") and name.startswith("net.encoder") for name in moved) != frozen
        assert any(name.startswith("net.decoder") for name in moved)
        assert not {"mean", "deviation"} & moved


def test_a_few_steps_learn_that_most_is_background(root, tmp_path):
    fast = replace(SHORT, epochs=10, frozen_epochs=0, optimizer="adamw", learning_rate=0.04, monitor_epochs=5)
    training = replace(TINY, augment=STILL, schedule=fast)
    request = replace(request_of(root, tmp_path, training), policy=SavePolicy(log_steps=1))
    run_rows(request, Engine("cpu"))
    lines = read_log(tmp_path / "segment" / "MSRS-sample" / "test" / "IR" / "seed0" / LOG)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-4:]) < 0.85 * np.mean(losses[:4])
    looks = [line["validation"]["training mIoU"] for line in lines if "validation" in line]
    assert len(looks) == 2
    assert 0 < looks[-1] <= 100


def test_both_rows_start_alike_and_see_the_same_places(root, tmp_path):
    brief = replace(TINY, schedule=replace(SHORT, epochs=2, frozen_epochs=0, warm_up_epochs=0, final_epochs=0))
    request = request_of(root, tmp_path, brief, rows=2)
    copy = replace(request.rows[0], name="copy", baseline=False)  # a fused row that only the infrared image is in
    request = replace(request, rows=(*request.rows, copy))
    infrared, visible, fused = (RowImages(row, request.data, request.data.train) for row in request.rows)
    assert np.array_equal(fused[2][0], infrared[2][0])
    assert np.array_equal(infrared[2][0], read_levels(request.rows[0].files[request.data.train.pairs[2].key]))
    for number in (0, 5):
        one, other = (Samples(images, brief, 0)[number] for images in (infrared, visible))
        assert torch.equal(one["mask"], other["mask"])
        assert not torch.equal(one["image"], other["image"])
    scored = run_rows(request, Engine("cpu"))
    starts = [(each.folder / "config.toml").read_text() for each in scored]
    hashes = {line for text in starts for line in text.splitlines() if line.startswith("encoder_sha256")}
    assert len(hashes) == 1
    learnt = {each.input: weights_hash(load_segmenter(each.folder / LAST)) for each in scored}
    assert learnt["copy"] == learnt["IR"] != learnt["VI"]
    found = {each.input: each.matrices for each in scored}
    assert np.array_equal(found["copy"], found["IR"])


def test_labels_of_another_folder_are_said_and_not_held_against_the_paper(root, tmp_path):
    brief = replace(TINY, schedule=replace(SHORT, epochs=1, frozen_epochs=0, warm_up_epochs=0, final_epochs=0))
    request = request_of(root, tmp_path, brief)
    labels = root / "{split}" / "Segmentation_labels"
    (foreign,) = run_rows(replace(request, data=find_data(SEGMENTATIONS["MSRS"], root, labels=labels)), Engine("cpu"))
    (own,) = run_rows(request, Engine("cpu"))
    assert [each.result.comparable for each in (foreign, own)] == [False, True]
    assert [any("not the data set's own" in note for note in each.result.notes) for each in (foreign, own)] == [
        True,
        False,
    ]


def test_a_class_that_is_added_asks_for_another_folder(root, tmp_path):
    brief = replace(TINY, schedule=replace(SHORT, epochs=1, frozen_epochs=0, warm_up_epochs=0, final_epochs=0))
    request = request_of(root, tmp_path, brief)
    run_rows(request, Engine("cpu"))
    spec = SEGMENTATIONS["MSRS"]
    more = replace(spec, classes=(*spec.classes, "Dog"), palette=(*spec.palette, (1, 2, 3)))
    with pytest.raises(TrainingError, match=r"another configuration \(classes: 9, now 10\); choose another folder"):
        run_rows(replace(request, data=find_data(more, root)), Engine("cpu"))


# Killed and resumed


def _child(root: Path, runs: Path) -> None:
    torch.set_num_threads(1)
    run_rows(request_of(root, runs), Engine("cpu"))


@pytest.fixture(scope="module")
def processes():
    """Real processes that start quickly, because their common parent has imported everything."""
    context = multiprocessing.get_context("forkserver")
    preload = ["segmentation.run", "segmentation_models_pytorch", "accelerate", "torch.utils.tensorboard"]
    context.set_forkserver_preload(preload)
    return context


def everything(folder: Path) -> dict[str, object]:
    """What a run leaves, but for the time it took."""
    files = {name: (folder / name).read_bytes() for name in ("config.toml", STATE, LAST, MATRICES)}
    masks = {file.name: file.read_bytes() for file in (folder / PREDICTIONS).rglob("*.png")}
    log = [{key: value for key, value in line.items() if key != "seconds"} for line in read_log(folder / LOG)]
    return {**files, **masks, "log": log}


def test_killed_and_resumed_equals_never_stopped(root, tmp_path, processes):
    places = [tmp_path / name / "segment" / "MSRS-sample" / "test" / "IR" / "seed0" for name in ("whole", "killed")]
    whole, killed = places
    _child(root, tmp_path / "whole")
    goals = sorted(np.random.default_rng(os.getpid()).choice(9, 2, replace=False) + 1)  # frozen or not
    for goal in goals:
        process = processes.Process(target=_child, args=(root, tmp_path / "killed"))
        process.start()
        deadline = time.monotonic() + 120
        while process.is_alive() and time.monotonic() < deadline:
            if sum("loss" in line for line in read_log(killed / LOG)) >= goal:
                break
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert not (killed / MATRICES).exists()
    _child(root, tmp_path / "killed")
    assert everything(killed) == everything(whole)

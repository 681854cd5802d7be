"""What a detector is trained on, begins with and is fed: each of it decides figures, and none shows in a table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_image
from detection_bench import detect, make_bench
from torch import nn

from detection import offline, run
from detection.annotations import ImageBoxes
from detection.interface import LabelledImage, TrainingTask
from detection.recipes import DetectorRecipe, detector_recipe
from detection.weights import DetectorInfo, read_weights, save_detector
from emma_core.errors import EmmaError
from emma_core.images import read_image, to_8bit, write_image

CPU = torch.device("cpu")
TINY = DetectorRecipe(model="yolov5n", width=0.0625, size=64, batch=4, nominal_batch=4, epochs=3)
CLASSES = ("Car", "People")


@pytest.fixture(scope="module")
def yolo(tmp_path_factory):
    offline.keep_to(tmp_path_factory.mktemp("settings"))
    from detection import yolo

    return yolo


class EnoughError(EmmaError):
    """Training is not what is tested."""


def test_each_row_is_trained_on_its_own_images_of_the_split_and_from_the_given_weights(yolo, tmp_path, monkeypatch):
    bench = make_bench(tmp_path)
    weights = tmp_path / "start.safetensors"
    begun = yolo.build_network(TINY, 6, 5)
    save_detector(weights, begun.state_dict(), DetectorInfo(tuple("abcdef"), begun.yaml, 64))
    tasks: list[TrainingTask] = []

    def catch(task):
        tasks.append(task)
        raise EnoughError("caught")

    monkeypatch.setattr(run, "train_detector", catch)
    for row in ("--ir", "--vis"):
        outcome = detect(bench, "--split", "thirds", row, "--seeds", "3", "--pretrained", weights)
        assert outcome.stderr.splitlines()[-1] == "Error: caught"
    folders = [bench / "data" / "M3FD" / name for name in ("Ir", "Vis")]
    for task, folder in zip(tasks, folders, strict=True):
        assert [image.file for image in task.train] == [folder / f"{n:05d}.png" for n in (0, 1, 3, 4, 7, 9, 10)]
        assert [image.file for image in task.val] == [folder / "00006.png"]
        assert (task.seed, task.recipe.epochs, task.recipe.size, len(task.classes)) == (3, 2, 64, 6)
        floats = {name: tensor for name, tensor in begun.state_dict().items() if tensor.ndim}
        assert task.start.keys() == floats.keys()
        assert all(torch.equal(tensor, floats[name]) for name, tensor in task.start.items())
    for one, other in zip(*(task.train for task in tasks), strict=True):
        assert np.array_equal(one.truth.boxes, other.truth.boxes)
        assert len(one.truth.boxes)


def labelled(folder, count):
    """Noise with a bright box, and that box."""
    made = []
    for number in range(count):
        path, image = folder / f"{number}.png", random_image(number, (48, 64)) * 0.4
        left, top = 5 + 3 * number, 8 + number
        image[top : top + 16, left : left + 14] = 1
        write_image(path, image)
        made.append(
            LabelledImage(path, ImageBoxes(64, 48, np.array([[left, top, left + 14.0, top + 16]]), np.ones(1, int)))
        )
    return made


def a_task(tmp_path, **changes):
    made = labelled(tmp_path / "data", 8)
    task = TrainingTask("IR", TINY, 0, CLASSES, made[:6], made[6:], {}, tmp_path / "run", CPU)
    return replace(task, **changes)


def test_the_paper_recipe_as_ultralytics_is_told(yolo, tmp_path):
    told = yolo._arguments(a_task(tmp_path, recipe=detector_recipe("paper"), seed=7))
    assert told == {
        "task": "detect",
        "model": "yolov5n.yaml",  # a stand-in: get_model builds the network
        "data": "in memory",
        "save_dir": str(tmp_path / "run" / "ultralytics"),
        "epochs": 400,
        "patience": 0,
        "batch": 8,
        "nbs": 64,
        "imgsz": 640,
        "optimizer": "SGD",
        "lr0": 0.01,
        "lrf": 0.01,
        "momentum": 0.937,
        "weight_decay": 0.0005,
        "warmup_epochs": 3.0,
        "mosaic": 1.0,
        "close_mosaic": 0,
        "scale": 0.5,
        "translate": 0.1,
        "fliplr": 0.5,
        "hsv_h": 0.015,
        "hsv_s": 0.7,
        "hsv_v": 0.4,
        "val": True,
        "seed": 7,
        "device": "cpu",
        "amp": False,
        "augmentations": [],
        "plots": False,
        "verbose": False,
    }


@pytest.mark.parametrize(
    ("device", "capability", "amp"), [("cuda", (8, 0), "bf16"), ("cuda", (7, 5), False), ("cpu", (8, 0), False)]
)
def test_a_gpu_that_has_bfloat16_trains_in_it(yolo, tmp_path, monkeypatch, device, capability, amp):
    """Older ones emulate it, slowly."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert yolo._arguments(a_task(tmp_path, device=torch.device(device)))["amp"] == amp


def test_other_recipes_are_told_too(yolo, tmp_path):
    """Each value of a recipe reaches ultralytics: none is fixed."""
    recipe = detector_recipe("paper")
    task = a_task(tmp_path, recipe=recipe)
    told = yolo._arguments(task)
    changes = {
        name: {bool: not value, int: 96, float: 0.25, str: "AdamW"}[type(value)]
        for name, value in vars(recipe).items()
        if name not in {"model", "width"}  # of these the network is built
    }
    for name, value in changes.items():
        other = yolo._arguments(replace(task, recipe=replace(recipe, **{name: value})))
        assert [other[key] for key in told if told[key] != other[key]] == [value], name


def test_the_network_begins_with_what_it_is_given_and_draws_the_rest_by_the_seed(yolo, tmp_path):
    drawn = yolo.build_network(TINY, 2, 7).state_dict()
    name = next(name for name in drawn if name.endswith("conv.weight"))
    task = a_task(tmp_path, seed=7, start={name: torch.full_like(drawn[name], 0.5)})
    state = yolo._Trainer(task, None, None).get_model().state_dict()
    assert (state[name] == 0.5).all()
    assert all(torch.equal(state[other], drawn[other]) for other in drawn if other != name)


class Recorder(nn.Module):
    """A network that remembers what it was fed and finds nothing."""

    def fuse(self, **_):
        return self

    def forward(self, batch):
        self.fed = batch
        return torch.zeros(len(batch), 4 + len(CLASSES), 84)


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 3)], ids=["infrared", "visible"])
def test_training_and_testing_see_the_same_three_channels(yolo, tmp_path, shape):
    """Infrared as three equal ones, visible as red, green, blue."""
    path = tmp_path / "data" / "image.png"
    write_image(path, random_image(3, shape))
    levels = to_8bit(read_image(path))
    wanted = np.broadcast_to(levels.reshape(64, 64, -1), (64, 64, 3)).transpose(2, 0, 1)
    network = Recorder()
    yolo.Detector(network, CLASSES, 64, CPU)(read_image(path))
    np.testing.assert_allclose(network.fed[0].numpy(), wanted / 255, atol=1e-6)
    image = LabelledImage(path, ImageBoxes(64, 64, np.array([[8.0, 8, 24, 24]]), np.ones(1, int)))
    plain = replace(TINY, mosaic=0, scale=0, translate=0, flip=0, hue=0, saturation=0, brightness=0)
    trainer = yolo._Trainer(a_task(tmp_path, recipe=plain, train=[image]), None, None)
    np.testing.assert_array_equal(trainer.build_dataset("train", batch=1)[0]["img"].numpy(), wanted)


@pytest.mark.parametrize(("fitness", "kept"), [([0.2, 0.9, 0.1], 1), ([0.2, 0.3, 0.9], 2), ([0.9, 0.2, 0.3], 0)])
def test_the_best_epoch_on_the_validation_images_is_kept(yolo, tmp_path, monkeypatch, fitness, kept):
    validate, weights, left = yolo._Trainer.validate, [], iter(fitness)

    def scripted(self):
        weights.append({name: tensor.clone() for name, tensor in self.ema.ema.state_dict().items()})
        self.validator = lambda _: {"fitness": next(left)}
        return validate(self)

    monkeypatch.setattr(yolo._Trainer, "validate", scripted)
    monkeypatch.setattr(yolo, "SAVE_SECONDS", 0.0)
    task = a_task(tmp_path)
    yolo.train_detector(task)
    found = read_weights(task.folder / "weights.safetensors").tensors
    same = [all(torch.equal(found[name], epoch[name]) for name in found) for epoch in weights]
    assert same == [number == kept for number in range(3)]

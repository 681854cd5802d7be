"""Ultralytics behind our front: weights in and out, the anchor-based head, offline, training that goes on."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import random_image
from PIL import Image
from torch import nn

from detection import offline
from detection.anchors import STRIDES, AnchorHead
from detection.annotations import ImageBoxes
from detection.interface import LabelledImage, TrainingTask
from detection.recipes import RECIPES, DetectorRecipe, changed, detector_recipe
from detection.weights import DetectorInfo, read_weights, save_detector
from emma_core.errors import CheckpointError, DataError, EmmaError, UsageError
from emma_core.images import read_image, write_image

CPU = torch.device("cpu")
TINY = DetectorRecipe(model="yolov5n", width=0.0625, size=64, batch=4, nominal_batch=4, epochs=3)


@pytest.fixture(scope="module")
def yolo(tmp_path_factory):
    offline.keep_to(tmp_path_factory.mktemp("settings"))
    from detection import yolo

    return yolo


def test_recipes():
    paper = detector_recipe("Paper")
    assert (paper.optimizer, paper.epochs, paper.batch, paper.learning_rate, paper.size) == ("SGD", 400, 8, 1e-2, 640)
    assert changed(paper, {"epochs": 3}, size=320, model=None) == DetectorRecipe(epochs=3, size=320)
    for bad in ({"epochs": 0}, {"size": 100}, {"epoch": 3}, {"optimizer": "Lion"}, {"learning_rate": 0.0}):
        with pytest.raises(UsageError):
            changed(paper, bad)
    with pytest.raises(UsageError, match="known: paper, quick, demo"):
        detector_recipe("fast")
    assert all(recipe.size % 32 == 0 for recipe in RECIPES.values())


def test_the_anchor_head_against_plain_loops():
    torch.manual_seed(0)  # noqa: TID251 - initial weights take no generator
    head = AnchorHead(classes=2, channels=(4, 6, 8))
    head.anchors.copy_(torch.rand(3, 3, 2) * 5)
    features = [torch.randn(2, channels, 32 // stride, 64 // stride) for channels, stride in ((4, 8), (6, 16), (8, 32))]
    found = head(features).detach()

    def sigmoid(value):
        return 1 / (1 + math.exp(-value))

    place = 0
    for conv, x, anchors, stride in zip(head.m, features, head.anchors.tolist(), STRIDES, strict=True):
        raw = conv(x).detach()[1]
        for (wide, tall), channels in zip(anchors, raw.split(7), strict=True):
            for row, column in np.ndindex(*x.shape[2:]):
                tx, ty, tw, th, objectness, *classes = map(sigmoid, channels[:, row, column].tolist())
                centre = [(2 * tx - 0.5 + column) * stride, (2 * ty - 0.5 + row) * stride]
                size = [(2 * tw) ** 2 * wide * stride, (2 * th) ** 2 * tall * stride]
                wanted = [*centre, *size, *(objectness * each for each in classes)]
                np.testing.assert_allclose(found[1, :, place], wanted, rtol=1e-4)
                place += 1
    assert place == found.shape[2]


def test_one_seed_one_start(yolo):
    one, same, other = (yolo.build_network(TINY, 3, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("model", ["yolov5q", "resnet", "no/such.yaml", "yolov8n-cls"])
def test_models_that_are_none(yolo, model):
    with pytest.raises(UsageError, match=f"--model {model}: "):
        yolo.build_network(changed(TINY, {"model": model}), 3, 0)


def test_own_weights_come_back(yolo, tmp_path):
    network = yolo.build_network(TINY, 2, 0)
    info = DetectorInfo(("Car", "People"), network.yaml, 64)
    path = tmp_path / "w.safetensors"
    save_detector(path, network.state_dict(), info)
    weights = read_weights(path)
    assert weights.info == info
    detector = yolo.load_detector(weights, None, CPU)
    assert (detector.classes, detector.size) == (("Car", "People"), 64)
    found = detector(random_image(1, (50, 70)))
    assert found.boxes.shape == (len(found.scores), 4)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [70, 50, 70, 50]).all()
    grey = random_image(2, (50, 70))
    colour = np.repeat(grey[..., None], 3, axis=2)
    assert all(np.array_equal(a, b) for a, b in zip(detector(grey), detector(colour), strict=True))


def own_yaml(folder, name="my.yaml", **changes):
    """A copy of the YAML of YOLOv5, whose name tells no scale, with other values."""
    import ultralytics
    import yaml

    published = Path(ultralytics.__file__).parent / "cfg" / "models" / "v5" / "yolov5.yaml"
    path = folder / name
    path.write_text(yaml.safe_dump({**yaml.safe_load(published.read_text()), **changes}, sort_keys=False))
    return path


@pytest.mark.parametrize(
    ("changes", "width", "scale"),
    [
        ({}, None, [0.33, 0.25, 1024]),  # the first of the published ones, by the alphabet the last but one
        ({}, 0.0625, [0.33, 0.0625, 1024]),
        ({"scales": {1: [0.33, 0.125, 512], 0: [1.0, 0.25, 512]}}, None, [0.33, 0.125, 512]),
        ({"scales": None, "depth_multiple": 0.33, "width_multiple": 0.125}, None, None),
        ({"scales": None, "depth_multiple": 0.33, "width_multiple": 0.125}, 0.0625, [0.33, 0.0625, 1024]),
    ],
)
def test_weights_of_a_model_of_ones_own_come_back(yolo, tmp_path, changes, width, scale):
    recipe = DetectorRecipe(model=str(own_yaml(tmp_path, **changes)), width=width, size=64)
    network = yolo.build_network(recipe, 2, 0)
    assert list((network.yaml["scales"] or {}).values()) == ([scale] if scale else [])
    path = tmp_path / "w.safetensors"
    save_detector(path, network.state_dict(), DetectorInfo(("Car", "People"), network.yaml, 64))
    assert yolo.load_detector(read_weights(path), None, CPU).classes == ("Car", "People")


def test_the_first_scale_of_a_yaml_is_that_of_the_published_model(yolo, tmp_path):
    own = yolo.build_network(DetectorRecipe(model=str(own_yaml(tmp_path))), 2, 0).state_dict()
    published = yolo.build_network(DetectorRecipe(model="yolov5n"), 2, 0).state_dict()
    assert all(torch.equal(own[name], published[name]) for name in published)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("my.yaml", {"scales": 5}), ("yolov5x.yaml", {"scales": {"n": [1, 1, 64]}}), ("my.yaml", {"scales": {"n": 1}})],
)
def test_scales_that_are_none(yolo, tmp_path, name, changes):
    with pytest.raises(UsageError, match=f"{name}: cannot be built"):
        yolo.build_network(DetectorRecipe(model=str(own_yaml(tmp_path, name, **changes))), 2, 0)


class Evil:
    def __reduce__(self):
        return (os.system, ("true",))


def test_foreign_and_damaged_weights(yolo, tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"model": Evil()}, path)
    with pytest.raises(CheckpointError, match="could execute code"):
        read_weights(path)
    torch.save({"state_dict": {"a": 1}}, path)
    with pytest.raises(CheckpointError, match="expected a dictionary of tensors"):
        read_weights(path)
    torch.save({"state_dict": {"a": torch.ones(2)}}, path)
    with pytest.raises(CheckpointError, match="neither weights of this tool nor a state dict of YOLOv5"):
        yolo.load_detector(read_weights(path), None, CPU)
    with pytest.raises(CheckpointError, match="none of its tensors fits"):
        yolo.matching_tensors(yolo.build_network(TINY, 2, 0), read_weights(path))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_weights(tmp_path / "nowhere.pt")
    whole = safetensors.torch.save({"a": torch.ones(3)})
    path.write_bytes(whole[:-5])
    with pytest.raises(CheckpointError, match="damaged weights"):
        read_weights(path)
    network = yolo.build_network(TINY, 2, 0)
    save_detector(path, {"a": torch.ones(2)}, DetectorInfo(("Car",), network.yaml, 64))
    with pytest.raises(CheckpointError, match="makes no detector"):
        yolo.load_detector(read_weights(path), None, CPU)


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "__import__('pathlib').Path('proof').touch()"},
        {"backbone": [[-1, 1, "load_checkpoint", ["proof"]]]},
        {"head": [[-1, 1, "nn.functional.relu", []]]},
        {"head": [[-1, 1, "nn.init", []]]},
    ],
)
def test_nothing_in_a_description_of_a_network_is_executed(yolo, tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    network = yolo.build_network(TINY, 2, 0)
    path = tmp_path / "w.safetensors"
    save_detector(path, network.state_dict(), DetectorInfo(("Car", "People"), {**network.yaml, **change}, 64))
    with pytest.raises(CheckpointError, match=r"makes no detector .*is no layer"):
        yolo.load_detector(read_weights(path), None, CPU)
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


def test_matching_layers_are_counted(yolo, tmp_path):
    network = yolo.build_network(TINY, 3, 0)
    other = yolo.build_network(TINY, 5, 1).state_dict()
    path = tmp_path / "w.pt"
    torch.save(other, path)
    start, said = yolo.matching_tensors(network, read_weights(path))
    layers = {name.rpartition(".")[0] for name in network.state_dict()}
    ours = network.state_dict()
    odd = {name.rpartition(".")[0] for name in ours if ours[name].shape != other[name].shape}
    assert odd
    assert f"{len(layers - odd)} of {len(layers)} layers matched" in said
    assert all(torch.equal(start[name], other[name]) for name in start)


def images(folder, count):
    made = []
    for number in range(count):
        path = folder / f"{number}.png"
        image = random_image(number, (48, 64)) * 0.4
        left, top = 5 + 3 * number, 8 + number
        image[top : top + 16, left : left + 14] = 1
        write_image(path, image)
        truth = ImageBoxes(64, 48, np.array([[left, top, left + 14.0, top + 16]]), np.array([1]))
        made.append(LabelledImage(path, truth))
    return made


def task(yolo, folder, made, recipe=TINY):
    return TrainingTask("IR, seed 0", recipe, 0, ("Car", "People"), made[:6], made[6:], {}, folder, CPU)


def steps(folder):
    """The epochs that a log tells of."""
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_leaves_our_weights_and_touches_nothing_else(yolo, tmp_path):
    made = images(tmp_path / "data", 8)
    np.save(tmp_path / "data" / "0.npy", np.zeros((3, 3, 3), np.uint8))  # must not stand in for 0.png
    before = {path: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    threads = torch.get_num_threads()
    yolo.train_detector(task(yolo, tmp_path / "run", made))
    assert {path: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before
    assert torch.get_num_threads() == threads
    weights = read_weights(tmp_path / "run" / "weights.safetensors")
    assert weights.info.classes == ("Car", "People")
    assert steps(tmp_path / "run") == [1, 2, 3]
    yolo.train_detector(task(yolo, tmp_path / "run", made))  # finished: nothing happens
    assert read_weights(tmp_path / "run" / "weights.safetensors").sha256 == weights.sha256


def test_classes_that_nobody_asks_for_take_no_room(yolo):
    network = yolo.build_network(TINY, 80, 0)
    for scores in network.model[-1].cv3:  # anything but shy
        scores[-1].bias.data = torch.linspace(-3, 0, 80)
    detector = yolo.Detector(network, tuple(map(str, range(80))), 64, CPU)
    image = random_image(0, (48, 64, 3))
    everything, some = detector(image), detector(image, [3, 7])
    assert len(everything.classes) == 300
    assert set(some.classes) == {3, 7}
    assert len(some.classes) > np.isin(everything.classes, [3, 7]).sum()


def test_images_are_seen_alike_in_training_and_scoring(yolo, tmp_path):
    levels = np.random.default_rng(0).integers(256, size=(48, 64, 4)).astype(np.uint8)
    made = images(tmp_path / "data", 1)
    for suffix, kept in ((".tif", 4), (".png", 3)):
        file = made[0].file.with_suffix(suffix)
        Image.fromarray(levels[..., :kept]).save(file)
        (trained,) = yolo._Images(
            img_path=[LabelledImage(file, made[0].truth)], imgsz=64, augment=False, data={"channels": 3}
        )
        assert np.array_equal(trained["img"].numpy().transpose(1, 2, 0)[8:56], levels[..., :3])


def test_a_network_is_known_by_what_is_built_of_its_description(yolo, monkeypatch):
    network = yolo.build_network(TINY, 1, 0)
    (pooling,) = [module for module in network.modules() if isinstance(module, yolo.modules.SPPF)]
    assert isinstance(pooling.cv1.act, nn.SiLU)  # as in YOLOv5's release; versions of ultralytics had none
    known = yolo.architecture_hash(TINY)
    pooling.cv1.act = nn.Identity()
    monkeypatch.setattr(yolo, "build_network", lambda *_: network)
    assert yolo.architecture_hash(TINY) != known


def test_a_smaller_batch_than_that_of_the_recipe_is_refused(yolo, tmp_path, monkeypatch):
    prepare = yolo._Trainer.preprocess_batch

    def full(self, batch):
        monkeypatch.setattr(yolo._Trainer, "preprocess_batch", prepare)
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(yolo._Trainer, "preprocess_batch", full)
    with pytest.raises(EmmaError, match=r"IR, seed 0: the memory of cpu does not suffice for 4 images at a time"):
        yolo.train_detector(task(yolo, tmp_path / "run", images(tmp_path / "data", 8)))


def test_little_memory_changes_no_training(yolo, tmp_path, monkeypatch):
    made = images(tmp_path / "data", 8)
    for name, memory in (("much", 2**40), ("little", 2**10)):
        available = SimpleNamespace(available=memory, total=2**40)
        with monkeypatch.context() as patch:
            patch.setattr("psutil.virtual_memory", lambda available=available: available)
            yolo.train_detector(task(yolo, tmp_path / name, made))
    much, little = (read_weights(tmp_path / name / "weights.safetensors").tensors for name in ("much", "little"))
    assert all(torch.equal(much[name], little[name]) for name in much)


def test_a_run_that_stopped_goes_on(yolo, tmp_path, monkeypatch):
    made = images(tmp_path / "data", 8)
    monkeypatch.setattr(yolo, "SAVE_SECONDS", 0.0)
    note = yolo._Trainer._note

    def stop(self):
        note(self)
        if self.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(yolo._Trainer, "_note", stop)
        with pytest.raises(KeyboardInterrupt):
            yolo.train_detector(task(yolo, tmp_path / "run", made))
    before = (tmp_path / "run" / "log.jsonl").read_text()
    last = tmp_path / "run" / "ultralytics" / "weights" / "last.pt"
    last.with_suffix(".part").write_bytes(b"half")  # a kill in the middle of a save
    yolo.train_detector(task(yolo, tmp_path / "run", made))
    assert steps(tmp_path / "run") == [1, 2, 3]
    assert (tmp_path / "run" / "log.jsonl").read_text().startswith(before)  # two epochs were not repeated
    job = task(yolo, tmp_path / "whole", made)
    yolo.train_detector(job)
    ended, whole = (read_weights(tmp_path / name / "weights.safetensors").tensors for name in ("run", "whole"))
    start = yolo.build_network(job.recipe, len(job.classes), job.seed).state_dict()
    assert distance(ended, whole) < 0.1 * distance(start, whole)  # near what an undisturbed run ends with


def distance(one, other):
    """Root of the summed squares of what all weights of a network differ in."""
    squares = [(one[name].double() - other[name].double()).square().sum() for name in one]
    return float(sum(squares).sqrt())


def test_a_missing_image_is_named(yolo, tmp_path):
    made = images(tmp_path / "data", 8)
    made[2].file.unlink()
    with pytest.raises(DataError, match=r"IR, seed 0: .*2\.png"):
        yolo.train_detector(task(yolo, tmp_path / "run", made))


def test_ultralytics_stays_at_home(tmp_path):
    """In a process of its own: no settings in the user's home, offline, silent."""
    code = f"""
from pathlib import Path
from detection.offline import keep_to
keep_to(Path({str(tmp_path / "runs")!r}))
import detection.yolo
from ultralytics.utils import ONLINE, SETTINGS
from ultralytics.utils.events import events
print(ONLINE, SETTINGS["sync"], events.enabled)
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False", "False"]
    assert not [path for path in home.rglob("*") if "ltralytics" in path.name]
    assert (tmp_path / "runs" / "detect" / ".ultralytics").is_dir()


@pytest.mark.data
def test_public_coco_weights_find_what_is_there(yolo, data):
    weights = read_weights(data.parent / "weights" / "yolov5n_coco_state_dict.pt")
    detector = yolo.load_detector(weights, None, CPU)
    assert len(detector.classes) == 80
    found = detector(read_image(data / "MSRS" / "test" / "vi" / "01559D.png"))
    assert {"car", "person"} & {detector.classes[number] for number in found.classes[:3]}
    network = yolo.build_network(changed(TINY, {"model": "yolov5n"}), 3, 0)
    with pytest.raises(CheckpointError, match="none of its tensors fits"):
        yolo.matching_tensors(network, weights)
    whole = yolo.build_network(DetectorRecipe(model="yolov5n"), 3, 0)
    assert "114 of 145 layers matched" in yolo.matching_tensors(whole, weights)[1]

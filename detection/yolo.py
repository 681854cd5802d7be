"""The only module that imports ultralytics: builds, trains and runs its detectors.

Images and boxes are handed over in memory: nothing is copied or linked, and no cache is written beside the user's
files. Trained weights leave as safetensors; ultralytics' own checkpoint serves to go on after a kill, and nothing else.
Call :func:`detection.offline.keep_to` before the first import.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import nn
from ultralytics.data import base
from ultralytics.data.augment import LetterBox
from ultralytics.data.dataset import YOLODataset
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn import modules
from ultralytics.nn.tasks import DetectionModel, load_checkpoint, yaml_model_load
from ultralytics.utils import LOGGER, SETTINGS, patches
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import scale_boxes

from detection.anchors import AnchorHead
from detection.interface import Detections
from detection.weights import DetectorInfo, read_weights, save_detector
from emma_core.chance import seeded
from emma_core.errors import CheckpointError, DataError, EmmaError, UsageError
from emma_core.images import read_image, to_8bit
from emma_core.manifest import sha256
from emma_core.runtime import resolve_precision
from emma_core.training_log import TrainingLog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from detection.interface import LabelledImage, TrainingTask
    from detection.recipes import DetectorRecipe
    from detection.weights import WeightsFile
    from emma_core.images import FloatImage

WEIGHTS, WORK = "weights.safetensors", "ultralytics"

SAVE_SECONDS = 10.0
"""Least time between two saves; a run that was killed goes on from the last."""

_LEAST, _OVERLAP, _MOST = 0.001, 0.7, 300  # confidence, IoU of suppression, boxes an image: ultralytics' for validation

# ultralytics replaces Pillow's function by one that wants a package for HEIF; whoever reads images keeps the original.
Image.open = patches._image_open  # noqa: TID251 - as it was
base.imread = lambda file, **_: np.ascontiguousarray(_levels(read_image(Path(file)))[..., ::-1])  # BGR, as it was
LOGGER.setLevel(logging.ERROR)
SETTINGS.update({name: False for name, value in SETTINGS.items() if value is True})  # telemetry, loggers, adverts


class Detector:
    """A trained network that finds boxes in images.

    Attributes:
        classes: names of what it finds.
        size: longer side to which images are brought [pixels].
    """

    def __init__(self, network: nn.Module, classes: tuple[str, ...], size: int, device: torch.device) -> None:
        self.classes, self.size = classes, size
        self._device = device
        self._network = network.fuse(verbose=False).eval().to(device)  # type: ignore[operator]
        self._fit = LetterBox((size, size), auto=True, stride=32)

    def __call__(self, image: FloatImage, classes: Sequence[int] | None = None) -> Detections:
        """Find boxes in an image, (H, W) or (H, W, 3) in [0, 1]; grey becomes three equal channels.

        Args:
            image: the image.
            classes: numbers of those that are looked for, by default all; others take no room among the boxes.
        """
        fitted = self._fit(image=_levels(image))
        batch = torch.from_numpy(np.ascontiguousarray(fitted.transpose(2, 0, 1)))[None].to(self._device).float() / 255
        with torch.inference_mode():
            raw = self._network(batch)
            kinds, end2end = len(self.classes), getattr(self._network, "end2end", False)
            (found,) = non_max_suppression(
                raw, _LEAST, _OVERLAP, classes=classes, multi_label=True, max_det=_MOST, nc=kinds, end2end=end2end
            )
        boxes = scale_boxes(fitted.shape[:2], found[:, :4].clone(), image.shape[:2]).double().cpu().numpy()
        return Detections(boxes, found[:, 4].double().cpu().numpy(), found[:, 5].long().cpu().numpy())


def _levels(image: FloatImage) -> NDArray[np.uint8]:
    """Return an image as detectors see it, in training and in scoring: (H, W, 3) uint8, red first."""
    levels = to_8bit(image)
    return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)


def build_network(recipe: DetectorRecipe, classes: int, seed: int) -> DetectionModel:
    """Build the network of a recipe; one seed gives the same initial weights to every row.

    Raises:
        UsageError: there is no such model.
    """
    try:
        # Built from what a file of weights will hold, so that what was trained can be loaded.
        architecture = json.loads(json.dumps(_architecture(recipe)))
        with seeded(seed, "detector"):
            network = DetectionModel(_harmless(architecture), ch=3, nc=classes, verbose=False)
    except (CheckpointError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(f"--model {recipe.model}: cannot be built ({type(error).__name__}: {error})") from None
    if not isinstance(network.model[-1], modules.Detect):
        raise UsageError(f"--model {recipe.model}: is no detector of the YOLO family, e.g. yolov5s")
    return network


def architecture_hash(recipe: DetectorRecipe) -> str:
    """Return the SHA-256 of the description of a network, wherever it is from, and of what is built from it.

    Raises:
        UsageError: there is no such model.
    """
    # From one description versions of ultralytics have built networks that differ in an activation.
    built = [(name, type(module).__name__) for name, module in build_network(recipe, 1, 0).named_modules()]
    return sha256(json.dumps([_architecture(recipe), built], sort_keys=True).encode())


def _architecture(recipe: DetectorRecipe) -> dict[str, Any]:
    name = recipe.model if recipe.model.endswith((".yaml", ".yml")) else f"{recipe.model}.yaml"
    try:
        content: dict[str, Any] = yaml_model_load(name)
    except (FileNotFoundError, OSError):
        raise UsageError(f"--model {recipe.model}: no such model; expected e.g. yolov5s, or a YAML file") from None
    except Exception as error:  # whatever a file that is no YAML provokes in its parser
        raise UsageError(f"--model {recipe.model}: not a model ({type(error).__name__})") from None
    return _of_one_scale(content, recipe.width)


def _of_one_scale(content: dict[str, Any], width: float | None) -> dict[str, Any]:
    """Keep the scale that is meant: the first one, where no letter in the name of the file says which.

    Args:
        content: of a YAML file.
        width: factor on the channels, instead of that of the scale.
    """
    scales = content.get("scales") or {}
    if not scales and width is None:
        return content
    scale = content.get("scale") or next(iter(scales), "own")
    depth, wide, most = scales[scale] if scales else (content.get("depth_multiple", 1.0), 1.0, 1024)
    chosen = [depth, wide if width is None else width, most]
    return content | {"scale": str(scale), "scales": {str(scale): chosen}}


def _harmless(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description of a network, if it names nothing but layers: ultralytics evaluates what stands there.

    Raises:
        CheckpointError: it names anything else.
    """
    layers = [str(layer[2]) for part in ("backbone", "head") for layer in architecture[part]]
    activation = architecture.get("activation")
    for name in [*layers, *([] if activation is None else [str(activation).removeprefix("torch.").removesuffix("()")])]:
        home, _, plain = name.rpartition(".")
        found = getattr({"nn": nn, "": modules}.get(home), plain, None)
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise CheckpointError(f"{name[:60]!r} is no layer of a network")
    return dict(architecture)


def matching_tensors(network: nn.Module, weights: WeightsFile) -> tuple[dict[str, torch.Tensor], str]:
    """Choose the tensors of a file that fit a network, by name and shape.

    Returns:
        The tensors, and a sentence that says how many layers matched.

    Raises:
        CheckpointError: none does.
    """
    wanted = network.state_dict()
    fitting = {
        name: tensor
        for name, tensor in weights.tensors.items()
        if name in wanted and tensor.ndim and tensor.shape == wanted[name].shape
    }
    layers, matched = ({name.rpartition(".")[0] for name in names} for names in (wanted, fitting))
    if not fitting:
        raise CheckpointError(
            f"{weights.path}: none of its tensors fits this model; expected weights of the same --model, e.g. yolov5n"
        )
    return fitting, f"{weights.path.name}: {len(matched)} of {len(layers)} layers matched; the rest starts from scratch"


def load_detector(weights: WeightsFile, size: int | None, device: torch.device) -> Detector:
    """Make a detector of our weights, or of a state dict of the anchor-based YOLOv5.

    Args:
        weights: the content of the file.
        size: longer side of the images [pixels]; by default that of its training, or 640.
        device: where to compute.

    Raises:
        CheckpointError: the tensors do not make a detector.
    """
    try:
        if weights.info is not None:
            network, classes = _trained(weights.info), weights.info.classes
        else:
            network, classes = _anchor_based(weights)
        network.load_state_dict(weights.tensors)
    except Exception as error:  # whatever a description of a network that is none provokes
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{weights.path}: makes no detector ({reason})") from None
    return Detector(network, classes, size or (weights.info.size if weights.info else 640), device)


def _trained(info: DetectorInfo) -> DetectionModel:
    return DetectionModel(_harmless(info.architecture), ch=3, nc=len(info.classes), verbose=False)


def _anchor_based(weights: WeightsFile) -> tuple[DetectionModel, tuple[str, ...]]:
    """Build ultralytics' YOLOv5 around the widths that the file describes, and put the anchor-based head on it."""
    described, names = weights.architecture, weights.names
    heads = sorted(name for name in weights.tensors if name.endswith(".m.2.weight") and name.count(".") == 4)
    if described is None or not names or not heads:
        raise CheckpointError("neither weights of this tool nor a state dict of YOLOv5 with 'yaml' and 'names'")
    scale = [float(described["depth_multiple"]), float(described["width_multiple"]), 1024]
    architecture = yaml_model_load("yolov5n.yaml") | {"scale": "n", "scales": {"n": scale}}
    network = DetectionModel(architecture, ch=3, nc=len(names), verbose=False)
    last = network.model[-1]
    stem = heads[0].removesuffix("2.weight")
    channels = [weights.tensors[f"{stem}{index}.weight"].shape[1] for index in range(3)]
    head = AnchorHead(len(names), channels)
    head.f, head.i, head.type = last.f, last.i, "AnchorHead"  # type: ignore[assignment]
    network.model[-1] = head
    return network, names


def train_detector(task: TrainingTask) -> None:
    """Train in ``task.folder``, or go on there, and leave ``weights.safetensors``.

    Raises:
        EmmaError: training cannot go on.
    """
    last = task.folder / WORK / "weights" / "last.pt"
    done = load_checkpoint(last)[1]["epoch"] + 1 if last.exists() else 0
    if done >= task.recipe.epochs:
        return
    threads = torch.get_num_threads()
    with TrainingLog(task.folder, done, task.recipe.epochs, task.title, unit="epoch") as log:
        trainer = _Trainer(task, log, resume=last if done else None)
        torch.set_num_threads(threads)  # ultralytics leaves a core idle
        try:
            trainer.train()
        except DataError as error:
            raise DataError(f"{task.title}: {error}") from None
        except OSError as error:
            raise EmmaError(
                f"{error.filename or task.folder}: cannot be written ({error.strerror}); what is done is kept, the "
                "same command continues"
            ) from None
        except RuntimeError as error:
            raise EmmaError(f"{task.title}: training stopped ({' '.join(str(error).split())[:200]})") from None


class _Images(YOLODataset):  # type: ignore[misc]
    """Images and boxes that are handed over, instead of found by the names of folders."""

    def get_img_files(self, img_path: Sequence[LabelledImage]) -> list[str]:
        return [str(image.file) for image in img_path]

    def get_labels(self) -> list[dict[str, Any]]:
        self._sizes = {str(image.file): (image.truth.height, image.truth.width) for image in self.img_path}
        return [_label(image) for image in self.img_path]

    def cache_images(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it draws a bar, whatever it is told
            super().cache_images()

    def check_cache_ram(self, *arguments: Any, **options: Any) -> bool:  # noqa: ANN401 - as its base class
        """Tell whether images stay in memory; mosaics are made of all images either way, not of the last few."""
        enough: bool = super().check_cache_ram(*arguments, **options)
        self.cache = "ram"
        return enough

    def load_image(self, i: int, **options: Any) -> Any:  # noqa: ANN401 - as its base class
        self.npy_files[i] = self.npy_files[i].with_suffix(".none")  # a .npy beside an image would be read instead
        loaded = super().load_image(i, **options)
        (height, width), labelled = loaded[1], self._sizes[self.im_files[i]]
        if (height, width) != labelled:
            raise DataError(f"{self.im_files[i]} is {width} x {height}, its boxes are of {labelled[1]} x {labelled[0]}")
        return loaded


def _label(image: LabelledImage) -> dict[str, Any]:
    """Describe an image in ultralytics' terms: centre and size as fractions of width and height."""
    truth = image.truth
    low, high = truth.boxes[:, :2], truth.boxes[:, 2:]
    boxes = np.hstack([(low + high) / 2, high - low]) / ([truth.width, truth.height] * 2)
    return {
        "im_file": str(image.file),
        "shape": (truth.height, truth.width),
        "cls": truth.classes[:, None].astype(np.float32),
        "bboxes": boxes.astype(np.float32),
        "segments": [],
        "keypoints": None,
        "normalized": True,
        "bbox_format": "xywh",
    }


class _Trainer(DetectionTrainer):  # type: ignore[misc]
    """Ultralytics' loop around our network, images and log."""

    last: Path
    _best: Mapping[str, torch.Tensor]

    def __init__(self, task: TrainingTask, log: TrainingLog, resume: Path | None) -> None:
        self._task, self._log = task, log
        self._best = read_weights(task.folder / WEIGHTS).tensors if resume else {}
        self._saved, self._batches = -math.inf, 0
        super().__init__(overrides=_arguments(task) | ({"resume": str(resume)} if resume else {}))
        self.add_callback("on_train_batch_end", lambda _: self._advance())
        self.add_callback("on_fit_epoch_end", lambda _: self._note())

    def get_dataset(self) -> dict[str, Any]:
        names = dict(enumerate(self._task.classes))
        return {"train": "train", "val": "val", "nc": len(names), "names": names, "channels": 3}

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> _Images:
        training = mode == "train"
        return _Images(
            img_path=getattr(self._task, img_path),
            imgsz=self.args.imgsz,
            batch_size=batch,
            augment=training,
            hyp=self.args,
            rect=not training,
            cache="ram",
            stride=32,
            pad=0.0 if training else 0.5,
            data=self.data,
        )

    def get_model(self, cfg: object = None, weights: nn.Module | None = None, verbose: bool = True) -> DetectionModel:  # noqa: ARG002
        network = build_network(self._task.recipe, len(self._task.classes), self._task.seed)
        network.load_state_dict({**network.state_dict(), **self._task.start})
        if weights is not None:
            network.load(weights, verbose=False)
        return network

    def save_model(self) -> bool:
        """Save now and then: the best weights as our own, then ultralytics' checkpoint, each whole or not at all."""
        if self.fitness == self.best_fitness:
            self._best = {name: tensor.clone() for name, tensor in self.ema.ema.state_dict().items()}
        now, final = time.perf_counter(), self.epoch + 1 >= self.epochs
        if now - self._saved < SAVE_SECONDS and not final:
            return False
        info = DetectorInfo(self._task.classes, self.ema.ema.yaml, self._task.recipe.size)
        save_detector(self._task.folder / WEIGHTS, self._best, info)
        last, self.last = self.last, self.last.with_suffix(".part")
        self.best = self.last  # ultralytics' copy of the best is not needed
        super().save_model()
        self.last.replace(last)
        self.last, self._saved = last, now
        return True

    def final_eval(self) -> None:
        """Leave the evaluation to us."""

    def _advance(self) -> None:
        wanted = self._task.recipe.batch
        if self.batch_size != wanted:
            raise EmmaError(
                f"{self._task.title}: the memory of {self.device} does not suffice for {wanted} images at a time, and "
                "all rows need as many; choose fewer (--config, batch = ...) or another --device"
            )
        self._batches += 1
        part = min(self._batches / len(self.train_loader), 1)
        self._log.tick(self.epoch + part, sum(map(float, (self.tloss or {}).values())))

    def _note(self) -> None:
        self._batches = 0
        losses = {name: float(value) for name, value in self.tloss.items()}
        self._log.tick(self.epoch + 1, sum(losses.values()))
        chosen = {"mAP@0.5:0.95 of the validation images": float(self.fitness)} if self.fitness is not None else {}
        self._log.step(self.epoch + 1, {**losses, **chosen, "rate": self.optimizer.param_groups[0]["lr"]})


def training_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """Say in which number format a detector is trained: bfloat16 on a GPU that has it."""
    return "bf16" if device.type == "cuda" and resolve_precision("auto", device) == "bf16" else "fp32"


def _arguments(task: TrainingTask) -> dict[str, Any]:
    recipe = task.recipe
    cuda = task.device.type == "cuda"
    return {
        "task": "detect",
        "model": "yolov5n.yaml",  # get_model builds the one that is asked for
        "data": "in memory",
        "save_dir": str(task.folder / WORK),
        "epochs": recipe.epochs,
        "patience": 0,
        "batch": recipe.batch,
        "nbs": recipe.nominal_batch,
        "imgsz": recipe.size,
        "optimizer": recipe.optimizer,
        "lr0": recipe.learning_rate,
        "lrf": recipe.final_rate,
        "momentum": recipe.momentum,
        "weight_decay": recipe.weight_decay,
        "warmup_epochs": recipe.warmup_epochs,
        "mosaic": recipe.mosaic,
        "close_mosaic": recipe.plain_epochs,
        "scale": recipe.scale,
        "translate": recipe.translate,
        "fliplr": recipe.flip,
        "hsv_h": recipe.hue,
        "hsv_s": recipe.saturation,
        "hsv_v": recipe.brightness,
        "val": recipe.validate,
        "seed": task.seed,
        "device": str(task.device.index or 0) if cuda else task.device.type,
        "amp": "bf16" if training_precision(task.device) == "bf16" else False,
        "augmentations": [],
        "plots": False,
        "verbose": False,
    }

"""How a detector is trained: what the paper says, and small ones. Nothing here needs torch.

The paper (arXiv:2305.11443, 4.3) names YOLOv5, SGD, 400 epochs, batch 8, initial rate 1e-2. Whatever it does not name
is the default of YOLOv5's own training, marked "YOLOv5"; "ours" is our own choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from emma_core.config import from_dict, to_dict
from emma_core.errors import UsageError
from emma_core.text import same_name

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class DetectorRecipe:
    """One way to train a detector; the same for every row.

    Attributes:
        model: name of an ultralytics model, or a YAML file that describes one.
        width: factor on the channels of its layers, instead of the model's own.
        epochs: passes over the training images.
        batch: images in one forward pass.
        nominal_batch: images in one step of the optimiser; gradients of several passes add up to it.
        size: longer side of the images [pixels].
        optimizer: SGD with Nesterov momentum, or AdamW.
        learning_rate: after the warm-up.
        final_rate: of the last epoch, as a fraction; it falls linearly.
        momentum: of SGD, or beta1 of AdamW.
        weight_decay: of the weights of convolutions.
        warmup_epochs: in which the rate rises.
        mosaic: probability of pasting four images together.
        plain_epochs: the last so many epochs are without mosaic.
        scale: images are enlarged or shrunk by up to this fraction.
        translate: and moved by up to this fraction of their size.
        flip: probability of mirroring left and right.
        hue: jitter, as a fraction.
        saturation: likewise.
        brightness: likewise.
        validate: whether the best epoch on the validation images is kept, or the last one.
    """

    model: str = "yolov5s"  # ours; the paper does not name the size
    width: float | None = None
    epochs: int = 400  # paper
    batch: int = 8  # paper
    nominal_batch: int = 64  # YOLOv5
    size: int = 640  # YOLOv5
    optimizer: Literal["SGD", "AdamW"] = "SGD"  # paper
    learning_rate: float = 1e-2  # paper
    final_rate: float = 0.01  # YOLOv5
    momentum: float = 0.937  # YOLOv5
    weight_decay: float = 5e-4  # YOLOv5
    warmup_epochs: float = 3.0  # YOLOv5
    mosaic: float = 1.0  # YOLOv5
    plain_epochs: int = 0  # YOLOv5
    scale: float = 0.5  # YOLOv5
    translate: float = 0.1  # YOLOv5
    flip: float = 0.5  # YOLOv5
    hue: float = 0.015  # YOLOv5
    saturation: float = 0.7  # YOLOv5
    brightness: float = 0.4  # YOLOv5
    validate: bool = True  # YOLOv5

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        whole = min(self.epochs, self.batch, self.nominal_batch)
        if whole < 1 or self.size < 32 or self.plain_epochs < 0:
            raise UsageError(f"Detector: epochs, batch and nominal_batch from 1, size from 32; found {self}")
        if self.size % 32:
            raise UsageError(f"Detector: size {self.size}; expected a multiple of 32 pixels")
        if self.learning_rate <= 0 or (self.width is not None and self.width <= 0):
            raise UsageError("Detector: learning_rate and width must be positive")


RECIPES: dict[str, DetectorRecipe] = {
    "paper": DetectorRecipe(),
    # Ours: two cores, some minutes a row; meant for pretrained weights.
    "quick": DetectorRecipe(
        model="yolov5n", epochs=30, nominal_batch=16, size=416, warmup_epochs=2.0, plain_epochs=5, mosaic=0.5
    ),
    # Ours: half a minute a row on two cores, on some thirty rendered scenes, from what make_demo_detector.py made.
    "demo": DetectorRecipe(
        model="yolov5n",
        width=0.125,
        epochs=20,
        batch=4,
        nominal_batch=4,
        size=256,
        optimizer="AdamW",
        learning_rate=1e-3,
        momentum=0.9,
        warmup_epochs=1.0,
        mosaic=0.0,
        scale=0.2,
        validate=False,
    ),
}
"""The recipes by name."""

SECONDS_AN_IMAGE = {"paper": 0.95 * RECIPES["paper"].epochs, "quick": 0.17 * RECIPES["quick"].epochs}
"""By recipe: what each training image takes of one core in all epochs together [s] (docs/detection.md)."""


def detector_recipe(name: str) -> DetectorRecipe:
    """Look a recipe up by name, without regard to case.

    Raises:
        UsageError: no such recipe; the message lists those that are known.
    """
    if known := same_name(name, RECIPES):
        return RECIPES[known]
    raise UsageError(f"Unknown recipe {name!r}; known: {', '.join(RECIPES)}")


def changed(recipe: DetectorRecipe, changes: Mapping[str, Any], **options: Any) -> DetectorRecipe:  # noqa: ANN401
    """Change some values of a recipe: those of a file, then those of options that are not None.

    Raises:
        UsageError: an unknown key, a value of the wrong type, or one that cannot be trained with.
    """
    merged = from_dict(DetectorRecipe, {**to_dict(recipe), **changes})
    return replace(merged, **{name: value for name, value in options.items() if value is not None})

"""The recipes: DeepLabV3+ as the paper trained it, and smaller ones for two cores.

Defaults are the paper's (arXiv:2305.11443, 4.3), the source stands beside each. "Inferred" is what the paper does
not say, taken from the segmentation code that its authors name for their later work; "ours" is our own choice.
Nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from emma_core.errors import UsageError
from emma_core.text import same_name
from emma_core.training_config import override

if TYPE_CHECKING:
    from collections.abc import Mapping

Weights = Literal["imagenet", "none"]

STRIDE = 16
"""Both sides of what the network sees are multiples of this [pixels]."""


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise UsageError(text)


@dataclass(frozen=True)
class NetworkConfig:
    """DeepLabV3+ (Chen et al., ECCV 2018).

    Attributes:
        encoder: its backbone: a name of segmentation-models-pytorch, or ``efficientnet-lite0``.
        encoder_weights: what the backbone begins with.
        output_stride: of the backbone, 8 or 16.
        atrous_rates: of the pyramid pooling.
        decoder_channels: width of pyramid and decoder.
    """

    encoder: str = "mobilenet_v2"  # inferred
    encoder_weights: Weights = "imagenet"  # inferred
    output_stride: int = 16  # inferred
    atrous_rates: tuple[int, int, int] = (6, 12, 18)  # inferred
    decoder_channels: int = 256  # DeepLabV3+

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        _require(self.output_stride in {8, 16}, f"Network: output_stride {self.output_stride}, expected 8 or 16")
        positive = min(*self.atrous_rates, self.decoder_channels) >= 1
        _require(positive, f"Network: atrous_rates and decoder_channels must be positive: {self}")


@dataclass(frozen=True)
class AugmentConfig:
    """How training images vary.

    Attributes:
        scale: smallest and largest factor on the size.
        flip: probability of a mirrored image.
        blur: probability of a Gaussian blur.
        rotate: probability of a rotation.
        degrees: by up to so many.
        brightness: by up to this share, up or down.
        saturation: likewise; changes nothing in an image without colour.
        hue: by up to this part of the circle; likewise.
    """

    scale: tuple[float, float] = (0.25, 2.0)  # inferred
    flip: float = 0.5  # inferred
    blur: float = 0.25  # inferred
    rotate: float = 0.25  # inferred
    degrees: float = 10.0  # inferred
    brightness: float = 0.3  # inferred
    saturation: float = 0.7  # inferred
    hue: float = 0.05  # inferred

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        _require(0 < self.scale[0] <= self.scale[1], f"Augmentation: scale {self.scale}, expected 0 < low <= high")
        shares = (self.flip, self.blur, self.rotate, self.brightness, self.saturation)
        _require(min(shares) >= 0 and max(shares) <= 1, f"Augmentation: not between 0 and 1: {self}")
        _require(0 <= self.hue <= 0.5 and self.degrees >= 0, f"Augmentation: hue or degrees out of range: {self}")


@dataclass(frozen=True)
class ScheduleConfig:
    """How long and how fast: the rate rises, follows half a cosine, and stays low at the end.

    Attributes:
        epochs: passes over the data.
        frozen_epochs: in the first so many, the backbone and its batch-norm statistics stay as they are.
        batch: images in one step, on each process.
        optimizer: stochastic gradient descent with Nesterov momentum, or AdamW.
        learning_rate: of a batch of ``reference_batch``; smaller batches take proportionally less.
        reference_batch: images.
        momentum: of the gradient.
        weight_decay: pull of all weights to zero.
        warm_up_epochs: in the first so many, the rate rises from a tenth.
        final_epochs: in the last so many, it is ``final_rate`` of the highest.
        final_rate: where the cosine ends.
        encoder_rate: factor on the rate of the backbone.
        precision: of the forward pass; weights and their updates are always float32.
        monitor_epochs: epochs between two looks at the training images.
    """

    epochs: int = 340  # paper, 4.3
    frozen_epochs: float = 100  # paper, 4.3
    batch: int = 8  # paper, 4.3
    optimizer: Literal["sgd", "adamw"] = "sgd"  # paper, 4.3
    learning_rate: float = 7e-3  # paper, 4.3
    reference_batch: int = 16  # inferred
    momentum: float = 0.9  # inferred
    weight_decay: float = 1e-4  # inferred
    warm_up_epochs: float = 3  # inferred
    final_epochs: float = 15  # inferred
    final_rate: float = 0.01  # inferred
    encoder_rate: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    monitor_epochs: float = 20  # ours

    def __post_init__(self) -> None:
        """Refuse schedules that train nothing."""
        _require(self.epochs >= 1 and self.monitor_epochs > 0, f"Schedule: not positive: {self}")
        _require(self.batch >= 2, f"Schedule: batch is {self.batch}; batch normalisation needs at least 2 images")
        rates = (self.learning_rate, self.reference_batch, self.final_rate, self.encoder_rate)
        _require(min(rates) > 0, f"Schedule: not positive: {self}")
        spans = (self.frozen_epochs, self.warm_up_epochs, self.final_epochs, self.weight_decay, self.momentum)
        _require(min(spans) >= 0, f"Schedule: negative: {self}")
        _require(
            self.warm_up_epochs + self.final_epochs < self.epochs > self.frozen_epochs,
            f"Schedule: {self.epochs} epochs leave none between warm-up and end, or none with a free backbone: {self}",
        )

    def shortened(self, epochs: int) -> ScheduleConfig:
        """Return the same course over another number of epochs: all its parts keep their share."""
        share = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            frozen_epochs=self.frozen_epochs * share,
            warm_up_epochs=self.warm_up_epochs * share,
            final_epochs=self.final_epochs * share,
            monitor_epochs=self.monitor_epochs * share,
        )


@dataclass(frozen=True)
class SegmentationTraining:
    """Everything that decides how a segmenter is trained, and nothing of what it is trained on.

    Attributes:
        network: its parts.
        size: height and width that whole images are fitted into without distortion [pixels].
        crop: height and width that are cut from the varied image for training; None: ``size``.
        augment: how training images vary.
        schedule: how long and how fast.
        balance: classes weigh as their frequency to the power of minus this in the loss; 0: all pixels alike.
    """

    network: NetworkConfig = NetworkConfig()
    size: tuple[int, int] = (512, 512)  # inferred
    crop: tuple[int, int] | None = None  # inferred
    augment: AugmentConfig = AugmentConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    balance: float = 0.0  # paper: cross-entropy

    def __post_init__(self) -> None:
        """Refuse sizes that the network cannot see."""
        for side in (*self.size, *self.window):
            _require(side >= 4 * STRIDE and side % STRIDE == 0, f"Size: {side} pixels, expected a multiple of {STRIDE}")
        _require(0 <= self.balance <= 1, f"balance is {self.balance}, expected 0 to 1")

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of a training image [pixels]."""
        return self.crop or self.size


# Everything below is ours: small images and few, fast steps for two cores.
_CPU_AUGMENT = AugmentConfig(scale=(0.75, 1.5), brightness=0.2, saturation=0.3, hue=0.02)
RECIPES: dict[str, SegmentationTraining] = {
    "paper": SegmentationTraining(),
    "quick": SegmentationTraining(
        NetworkConfig(decoder_channels=64),
        size=(240, 320),
        crop=(160, 208),
        augment=_CPU_AUGMENT,
        schedule=ScheduleConfig(
            epochs=20,
            frozen_epochs=0,
            batch=4,
            optimizer="adamw",
            learning_rate=2e-3,
            reference_batch=4,
            weight_decay=1e-2,
            warm_up_epochs=1,
            final_epochs=2,
            encoder_rate=0.2,
            monitor_epochs=5,
        ),
        balance=0.5,
    ),
    "demo": SegmentationTraining(
        NetworkConfig(encoder="efficientnet-lite0", decoder_channels=64),
        size=(128, 160),
        augment=replace(_CPU_AUGMENT, scale=(1.0, 1.5)),
        schedule=ScheduleConfig(
            epochs=32,
            frozen_epochs=0,
            batch=4,
            optimizer="adamw",
            learning_rate=4e-3,
            reference_batch=4,
            weight_decay=1e-2,
            warm_up_epochs=1,
            final_epochs=2,
            encoder_rate=0.5,
            monitor_epochs=8,
        ),
        balance=0.5,
    ),
}
"""The recipes by name."""

SECONDS_AN_IMAGE = {name: seconds * RECIPES[name].schedule.epochs for name, seconds in (("paper", 1.0), ("quick", 0.1))}
"""By recipe: what each training image takes of one core in all epochs together [s] (docs/segmentation.md)."""


def recipe_named(name: str) -> SegmentationTraining:
    """Look a recipe up by name, without regard to case.

    Raises:
        UsageError: no such recipe; the message lists those that are known.
    """
    if known := same_name(name, RECIPES):
        return RECIPES[known]
    raise UsageError(f"Unknown recipe {name!r}; known: {', '.join(RECIPES)}")


def recipe_label(name: str, training: SegmentationTraining) -> str:
    """Return the name of a recipe; where values are not the recipe's, with a word that says so.

    Args:
        name: of the recipe that was begun with.
        training: what it has become.
    """
    return name if RECIPES.get(name) == training else f"{name}, changed"


def changed(training: SegmentationTraining, changes: Mapping[str, Any]) -> SegmentationTraining:
    """Change some values of a recipe; inner tables change only the keys that they name.

    Raises:
        UsageError: an unknown key, or a value of the wrong type.
    """
    return cast("SegmentationTraining", cast("Any", override)(training, changes))

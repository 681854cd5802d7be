"""The training recipes: what the paper says, what its authors released, the ablations of Table 2, and small ones.

Defaults are the paper's (arXiv:2305.11443), the source stands beside each. "Authors" means the code and checkpoints
that they released with the CVPR 2024 version; "ours" is our own choice where neither says anything. Nothing here
needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from emma_core.config import SensingConfig, UFuserConfig, from_dict, network_recipe, to_dict
from emma_core.errors import UsageError
from emma_core.text import same_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance

Precision = Literal["auto", "fp32", "bf16"]
Distance = Literal["l1", "mse", "l1+gradient"]
Training = TypeVar("Training", bound="DataclassInstance")


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise UsageError(text)


@dataclass(frozen=True)
class TransformConfig:
    """The set of transforms T_g; each kind is drawn anew in every step, without repetition where it is finite.

    Attributes:
        identity: whether the untransformed image is a copy of its own.
        shifts: number of cyclic shifts, random, not zero along either axis.
        rotations: number of rotations.
        angles: they are drawn from these [degrees]; empty: from all angles.
        reflections: number of reflections, out of horizontal, vertical, both.
    """

    # The paper names the three kinds and takes the expectation over g (Eq. 4), but neither numbers nor angles. Our
    # inference: one of each kind a step, drawn at random.
    identity: bool = False
    shifts: int = 1
    rotations: int = 1
    angles: tuple[float, ...] = ()
    reflections: int = 1

    def __post_init__(self) -> None:
        """Refuse sets that cannot be drawn."""
        _require(min(self.shifts, self.rotations, self.reflections) >= 0, "Transforms: a number is negative")
        _require(self.reflections <= 3, f"Transforms: there are 3 reflections, found {self.reflections}")
        enough = not self.angles or self.rotations <= len(self.angles)
        _require(enough, f"Transforms: {self.rotations} rotations out of {len(self.angles)} angles")

    @property
    def copies(self) -> int:
        """Number of transformed copies of a fused image."""
        return self.identity + self.shifts + self.rotations + self.reflections


@dataclass(frozen=True)
class CropConfig:
    """How training crops are cut.

    Attributes:
        size: side of a crop [pixels].
        placing: one random crop of every pair an epoch, or all crops of a regular grid.
        stride: of the grid [pixels].
        min_contrast: crops in which (p90 - p10) / p90 of either image is below this are dropped.
        flips: whether crops are mirrored at random.
        exposure: brightness of each image is changed by up to so many stops.
        gamma: each image is raised to a power between 2^-gamma and 2^gamma.
    """

    size: int = 128  # paper, 4.1
    placing: Literal["random", "grid"] = "random"  # paper, 4.1; the authors' code: grid
    stride: int = 200  # authors
    min_contrast: float = 0.1  # authors; the paper does not say
    flips: bool = False  # neither paper nor authors
    exposure: float = 0.0  # neither paper nor authors
    gamma: float = 0.0  # neither paper nor authors

    def __post_init__(self) -> None:
        """Refuse crops that cannot be cut."""
        _require(self.size >= 16 and self.stride >= 1, f"Crops: {self.size} pixels at stride {self.stride}")
        _require(0 <= self.min_contrast < 1, f"Crops: min_contrast is {self.min_contrast}, expected 0 to 1")
        _require(min(self.exposure, self.gamma) >= 0, "Crops: exposure and gamma cannot be negative")


def _require_multiple(crops: CropConfig, stride: int, network: str) -> None:
    _require(crops.size % stride == 0, f"Crops: {crops.size} pixels; {network} needs a multiple of {stride}")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: Adam, whose rate falls by a factor every so many epochs.

    Attributes:
        epochs: passes over the data.
        steps: instead of epochs, if given.
        batch: pairs in one backward pass, on each process.
        accumulate: backward passes in one step of the optimiser.
        learning_rate: at the start.
        decay_epochs: the rate is multiplied by ``decay`` every so many epochs.
        decay: the factor.
        clip: largest norm of the gradient; None: any.
        precision: of the forward pass, ``auto`` being bf16 where the device computes in it natively: elsewhere it is
            ten times slower than fp32. Weights and their updates are always float32.
        validate_epochs: epochs between two validations.
    """

    epochs: int = 100  # paper, 4.1
    steps: int | None = None
    batch: int = 8  # paper, 4.1
    accumulate: int = 1
    learning_rate: float = 1e-4  # paper, 4.1
    decay_epochs: int = 20  # paper, 4.1
    decay: float = 0.5  # paper, 4.1
    clip: float | None = None
    precision: Precision = "fp32"
    validate_epochs: int = 5  # ours

    def __post_init__(self) -> None:
        """Refuse schedules without a step."""
        numbers = (self.epochs, self.batch, self.accumulate, self.decay_epochs, self.validate_epochs)
        _require(min(numbers) >= 1 and (self.steps is None or self.steps >= 1), f"Schedule: not positive: {self}")
        _require(self.learning_rate > 0 and self.decay > 0, f"Schedule: not positive: {self}")


@dataclass(frozen=True)
class FusionLoss:
    """The weights of the terms that the fuser is trained by; terms of weight 0 are not computed.

    Attributes:
        distance: L of Eq. 4.
        infrared: L(A_i(f), i), half of the sensing term.
        visible: L(A_v(f), v), the other half; alpha_1 of Eq. 4.
        equivariance: L(f_t, F(A_i(f_t), A_v(f_t))); alpha_2 of Eq. 4.
        sources: L(f, i) + L(f, v), the traditional loss of Exp. II and III.
        maximum: the larger intensity of both sources; with slopes a plain loss of the field.
        slopes: the steeper slope of both sources.
        gain: times which the slopes are wanted; above 1 for more contrast than the sources have.
        teacher: L(f, teacher); a warm start with them.
        detach_target: whether f_t is a mere target for the re-fused image. In Eq. 4 it is not.
    """

    distance: Distance = "l1"  # paper, 3.3.5
    infrared: float = 1.0  # paper, Eq. 4
    visible: float = 1.0  # paper, 4.1
    equivariance: float = 10.0  # paper, 4.1
    sources: float = 0.0
    maximum: float = 0.0
    slopes: float = 0.0
    gain: float = 1.0
    teacher: float = 0.0
    detach_target: bool = False  # paper, Eq. 4

    @property
    def senses(self) -> bool:
        """Whether a term needs the sensing networks."""
        return max(self.infrared, self.visible, self.equivariance) > 0


NOTHING = FusionLoss(infrared=0.0, visible=0.0, equivariance=0.0)
"""No term at all: what the ablations and the warm start begin with."""

PLAIN = replace(NOTHING, maximum=1.0, slopes=1.0)
"""What a warm start without teachers learns (ours; the paper names a stage I, but no loss for it)."""


@dataclass(frozen=True)
class SensingTraining:
    """Stage II: a network that turns fused images into those of one sensor.

    Attributes:
        network: its widths.
        distance: between what it answers and what the sensor saw.
        classical: fusion rules that are teachers, beside fused images on file; applied to the crop.
        crops: how the data is cut.
        schedule: how long and how fast.
    """

    network: SensingConfig = field(default_factory=SensingConfig)
    distance: Distance = "l1"  # paper, 3.3.5
    classical: tuple[str, ...] = ("laplacian", "guided", "two-scale")  # ours, for whoever lacks fused images
    crops: CropConfig = field(default_factory=CropConfig)
    # The paper says nothing of this stage's schedule: the authors'.
    schedule: Schedule = Schedule(epochs=40, batch=64, decay_epochs=10)

    def __post_init__(self) -> None:
        """Refuse crops that the network cannot take."""
        size, stride = self.crops.size, self.network.stride
        _require_multiple(self.crops, stride, f"a sensing network of {len(self.network.channels)} levels")
        # Batch normalisation in training needs two values at the coarsest level.
        _require(size > stride or self.schedule.batch > 1, f"Sensing: batch 1 needs crops above {stride} pixels")


@dataclass(frozen=True)
class FuserTraining:
    """Stages I and III: the fuser.

    Attributes:
        network: its widths.
        loss: what it is trained by.
        transforms: the set T_g.
        copies_at_once: transformed copies that are in memory together; changes memory and speed, not the gradient.
        crops: how the data is cut.
        schedule: how long and how fast.
        warm_start: whether stage I comes first.
        warm_start_loss: of stage I without teachers.
        warm_start_schedule: of stage I; its number format is that of ``schedule``.
    """

    network: UFuserConfig = field(default_factory=UFuserConfig)
    loss: FusionLoss = FusionLoss()
    transforms: TransformConfig = TransformConfig()
    copies_at_once: int = 2
    crops: CropConfig = CropConfig()
    schedule: Schedule = Schedule()
    warm_start: bool = False  # the paper's 3.3.2 names a stage I, but no loss for it
    warm_start_loss: FusionLoss = PLAIN  # ours
    warm_start_schedule: Schedule = Schedule(epochs=20)  # ours

    def __post_init__(self) -> None:
        """Refuse what would train nothing."""
        weights = [value for name, value in to_dict(self.loss).items() if type(value) is float and name != "gain"]
        _require(min(weights) >= 0 and max(weights) > 0, "Fuser: the loss needs one positive weight, and no negative")
        _require(self.loss.equivariance == 0 or self.transforms.copies > 0, "Fuser: the equivariance has no transform")
        _require_multiple(self.crops, self.network.stride, "the fuser")
        _require(self.copies_at_once >= 1, f"Fuser: copies_at_once is {self.copies_at_once}, expected at least 1")

    def warm(self, *, teacher: bool) -> FuserTraining:
        """Return stage I: towards a teacher's images, or by ``warm_start_loss``."""
        loss = replace(NOTHING, distance="l1+gradient", teacher=1.0) if teacher else self.warm_start_loss
        schedule = replace(self.warm_start_schedule, precision=self.schedule.precision)  # one run has one number format
        return replace(self, loss=loss, schedule=schedule, warm_start=False)


@dataclass(frozen=True)
class TrainingRecipe:
    """One way to train EMMA.

    Attributes:
        title: in a few words.
        sensing: stage II.
        fuser: stage III, and I where it has one.
    """

    title: str
    sensing: SensingTraining = field(default_factory=SensingTraining)
    fuser: FuserTraining = field(default_factory=FuserTraining)


def _ablation(title: str, **changes: Any) -> TrainingRecipe:  # noqa: ANN401 - fields of FuserTraining
    return TrainingRecipe(f"Table 2, {title}", fuser=replace(FuserTraining(), **changes))


_RELEASED_CROPS = CropConfig(placing="grid", stride=200)
_RELEASED = TrainingRecipe(
    "the authors' code of the CVPR 2024 version",
    SensingTraining(
        network_recipe("released").sensing,
        distance="mse",
        crops=_RELEASED_CROPS,
        schedule=Schedule(epochs=40, batch=64, decay_epochs=10),
    ),
    FuserTraining(
        network_recipe("released").ufuser,
        FusionLoss("l1+gradient", infrared=1.0, visible=1.0, equivariance=0.1),
        TransformConfig(identity=True, shifts=3, rotations=3, angles=(10.0, 130.0, 250.0), reflections=3),
        crops=_RELEASED_CROPS,
        schedule=Schedule(epochs=120, batch=4),
    ),
)

# Everything below is ours. Narrow sensing networks and few copies make a step some 50 times cheaper; the augmentation
# stands in for the night that small data sets lack, the warm start for the epochs that a CPU cannot afford. Its terms
# stay in the loss of stage III: such small sensing networks blur, and alone they pull the fuser after them.
_CPU_CROPS = CropConfig(size=96, flips=True, exposure=0.5, gamma=0.5)
_CPU = TrainingRecipe(
    "two cores, some hours",
    SensingTraining(
        SensingConfig((16, 32, 64, 128)),
        crops=_CPU_CROPS,
        schedule=Schedule(epochs=100, batch=16, learning_rate=1e-3, decay_epochs=25, precision="auto"),
    ),
    FuserTraining(
        network_recipe("released").ufuser,
        FusionLoss("l1+gradient", infrared=0.5, visible=0.5, equivariance=0.5, maximum=4.0, slopes=4.0),
        TransformConfig(angles=(10.0, 130.0, 250.0)),
        crops=_CPU_CROPS,
        schedule=Schedule(
            epochs=3, batch=4, learning_rate=1e-4, decay_epochs=1, clip=1.0, precision="auto", validate_epochs=1
        ),
        warm_start=True,
        warm_start_loss=replace(PLAIN, slopes=5.0),
        warm_start_schedule=Schedule(
            epochs=90, batch=4, learning_rate=5e-4, decay_epochs=30, clip=1.0, precision="auto"
        ),
    ),
)
_QUICK_CROPS = CropConfig(size=64, flips=True)
_QUICK = TrainingRecipe(
    "a look at both stages in minutes; its weights are good for nothing",
    SensingTraining(
        SensingConfig((8, 16, 32)),
        crops=_QUICK_CROPS,
        schedule=Schedule(steps=200, batch=8, learning_rate=1e-3, validate_epochs=50),
    ),
    FuserTraining(
        UFuserConfig((8, 8, 16, 16)),
        FusionLoss("l1+gradient", infrared=1.0, visible=1.0, equivariance=1.0),
        crops=_QUICK_CROPS,
        schedule=Schedule(steps=150, batch=2, clip=1.0, validate_epochs=50),
        warm_start=True,
        warm_start_schedule=Schedule(steps=150, batch=2, learning_rate=1e-3, clip=1.0, validate_epochs=50),
    ),
)

_TRADITIONAL = replace(NOTHING, sources=1.0)
RECIPES: dict[str, TrainingRecipe] = {
    "paper": TrainingRecipe("arXiv:2305.11443 version 1"),
    "released": _RELEASED,
    "cpu": _CPU,
    "quick": _QUICK,
    "ablation-I": _ablation("Exp. I: no equivariance term", loss=FusionLoss(equivariance=0.0)),
    "ablation-II": _ablation(
        "Exp. II: l1(f, i) + l1(f, v) instead of the sensing term", loss=replace(_TRADITIONAL, equivariance=10.0)
    ),
    "ablation-III": _ablation("Exp. III: l1(f, i) + l1(f, v) alone", loss=_TRADITIONAL),
    "ablation-IV": _ablation("Exp. IV: no Restormer blocks", network=UFuserConfig(global_branch=False)),
    "ablation-V": _ablation("Exp. V: no residual blocks", network=UFuserConfig(local_branch=False)),
}
"""The recipes by name; sensing networks of an ablation are those of ``paper``."""


def training_recipe(name: str) -> TrainingRecipe:
    """Look a recipe up by name, without regard to case.

    Raises:
        UsageError: no such recipe; the message lists those that are known.
    """
    if known := same_name(name, RECIPES):
        return RECIPES[known]
    raise UsageError(f"Unknown recipe {name!r}; known: {', '.join(RECIPES)}")


def override(training: Training, changes: Mapping[str, Any]) -> Training:
    """Change some values of a recipe.

    Args:
        training: of the recipe.
        changes: by the names of its fields; inner tables change only the keys that they name. Epochs count from then
            on, unless steps are named too.

    Returns:
        The changed training.

    Raises:
        UsageError: an unknown key, or a value of the wrong type.
    """
    return from_dict(type(training), _merged(to_dict(training), changes))


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    if "epochs" in changes and "steps" in merged:
        merged["steps"] = None
    for key, change in changes.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, change) if isinstance(inner, dict) and isinstance(change, dict) else change
    return merged

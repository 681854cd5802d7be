"""What the stages of EMMA put into the training loop: II, the sensing networks, and I and III, the fuser.

Stage III works through frozen sensing networks, ten times over for ten transforms. Three things make that cheap, and
none changes the gradient: the networks are frozen with their normalisation folded into the convolutions, so nothing
is computed or kept for weights that do not learn; the fused image is a leaf of the graph, at which the gradients of
all terms add up before they go on into the fuser; and so the copies can come one after the other, each giving its
memory back. An untransformed copy shares what the sensing term computed. Measured by scripts/benchmark_training.py.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from emma_core import losses
from emma_core.chance import seeded, torch_stream
from emma_core.checkpoint import save_checkpoint
from emma_core.equivariance import Identity, apply_all, draw
from emma_core.models.ufuser import UFuser
from emma_core.models.unet import DoubleConv, SensingUNet
from emma_core.patches import Crops, Numbers, crop_batches
from emma_core.training import Stage
from emma_core.validation import FuserValidation, SensingValidation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from _typeshed import DataclassInstance

    from emma_core.datasets import Side
    from emma_core.engine import Engine
    from emma_core.equivariance import Transform
    from emma_core.patches import Batch
    from emma_core.scenes import Scene, SceneReader
    from emma_core.training import Validation
    from emma_core.training_config import FuserTraining, Schedule, SensingTraining

    Values = dict[str, torch.Tensor]


VALIDATIONS = 20
"""Of a run, about: each takes longer than a step, so where epochs are short it waits for several."""


@dataclass(frozen=True)
class StageData:
    """What a stage is trained and validated on, and what its results say of it.

    Attributes:
        training: scenes to cut crops from.
        validation: scenes held out.
        reader: of both.
        config: of the whole run, see :class:`emma_core.training.Stage`.
        recipe: its name.
        seed: of the run.
        provenance: for the checkpoints.
        workers: processes that cut crops; 0: none but this.
    """

    training: Sequence[Scene]
    validation: Sequence[Scene]
    reader: SceneReader
    config: DataclassInstance
    recipe: str
    seed: int
    provenance: Mapping[str, str] = field(default_factory=dict)
    workers: int = 0


@dataclass(frozen=True)
class Sensing:
    """Both sensing networks, frozen; see :func:`freeze`."""

    infrared: SensingUNet
    visible: SensingUNet

    @property
    def stride(self) -> int:
        """Both sides of an image must be multiples of this [pixels]."""
        return int(max(self.infrared.stride, self.visible.stride))

    def __call__(self, fused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute what both sensors would have seen: (B, 1, H, W) to twice the same."""
        return self.infrared(fused), self.visible(fused)


def sensing_stage(engine: Engine, training: SensingTraining, side: Side, data: StageData) -> Stage:
    """Make stage II: from the fused images of teachers to those of one sensor (arXiv:2305.11443, 3.3.3).

    Args:
        engine: where to compute.
        training: how.
        side: the sensor.
        data: what on.

    Returns:
        The stage.

    Raises:
        DataError: no crop has contrast, or a scene has no teacher.
    """
    cut = partial(Crops, reader=data.reader, seed=data.seed, teachers=True, classical=training.classical)
    crops = cut(data.training, config=training.crops)
    with seeded(data.seed, f"{side} sensing network"):
        network = SensingUNet(training.network).to(engine.device)
    distance = losses.DISTANCES[training.distance]

    def step(batch: Batch, _: int) -> Values:
        with engine.autocast():
            loss = distance(network(batch["teacher"]), batch[side])
        engine.backward(loss)
        return {"loss": loss}

    validate = SensingValidation(network, side, engine, data.validation, training.crops, cut)
    return _stage(sensing_title(side), network, crops, training.schedule, engine, data, step, validate)


def sensing_title(side: Side) -> str:
    """Name the stage of one sensor, for whoever watches and in the provenance of its checkpoints."""
    return f"{side} sensing"


def fuser_stage(
    engine: Engine,
    training: FuserTraining,
    data: StageData,
    *,
    sensing: tuple[SensingUNet, SensingUNet] | None = None,
    initial: UFuser | None = None,
    title: str = "fuser",
) -> Stage:
    """Make stage III (arXiv:2305.11443, 3.3.4 and 3.3.5), or I, which differs in the weights of the loss.

    Args:
        engine: where to compute.
        training: how.
        data: what on.
        sensing: trained networks, infrared and visible; None where no term of the loss needs them.
        initial: fuser to begin with; by default one with random weights.
        title: for whoever watches.

    Returns:
        The stage.

    Raises:
        DataError: no crop has contrast, or a teacher's images are lacking.
    """
    teacher = training.loss.teacher > 0
    crops = Crops(data.training, data.reader, training.crops, data.seed, teachers=teacher)
    with seeded(data.seed, "fuser"):
        fuser = (copy.deepcopy(initial) if initial else UFuser(training.network)).to(engine.device)
    frozen = None
    if sensing:
        frozen = Sensing(*(freeze(network, engine.dtype).to(engine.device) for network in sensing))
    step = FuserStep(fuser, frozen, training, engine, data.seed)
    validate = FuserValidation(fuser, frozen, engine, data.validation, data.reader)
    return _stage(title, fuser, crops, training.schedule, engine, data, step, validate)


class FuserStep:
    """One batch of stage III: the losses, and their gradients."""

    def __init__(
        self, fuser: nn.Module, sensing: Sensing | None, training: FuserTraining, engine: Engine, seed: int
    ) -> None:
        self._fuser, self._sensing, self._training, self._engine, self._seed = fuser, sensing, training, engine, seed
        self._loss = training.loss
        self._distance = losses.DISTANCES[training.loss.distance]

    def __call__(self, batch: Batch, turn: int) -> Values:
        """Compute the losses of a batch and add their gradients to those of the fuser.

        Args:
            batch: ``infrared`` and ``visible``, (B, 1, S, S) in [0, 1], and ``teacher`` if the loss has such a term.
            turn: number of the batch; decides the transforms.

        Returns:
            ``loss``, the weighted sum, and each term without its weight.
        """
        with self._engine.autocast():
            fused = self._fuser(batch["infrared"], batch["visible"])
        leaf = fused.detach().float().requires_grad_()
        transforms = self._draw(leaf, turn)
        shared = [transform for transform in transforms if isinstance(transform, Identity)]
        values = self._direct_terms(leaf, batch, len(shared) / max(1, len(transforms)))
        others = [transform for transform in transforms if transform not in shared]
        for start in range(0, len(others), self._training.copies_at_once):
            chunk = others[start : start + self._training.copies_at_once]
            term = self._equivariance_term(leaf, chunk) * (len(chunk) / len(transforms))
            self._engine.backward(self._loss.equivariance * term)
            values["equivariance"] = values.get("equivariance", 0) + term.detach()
        fused.backward(cast("torch.Tensor", leaf.grad).to(fused.dtype))
        return self._with_sum(values)

    def _draw(self, leaf: torch.Tensor, turn: int) -> list[Transform]:
        if self._loss.equivariance == 0:
            return []
        generator = torch_stream(self._seed, "transforms", turn)
        return draw(self._training.transforms, leaf.shape[-2], leaf.shape[-1], generator)

    def _direct_terms(self, fused: torch.Tensor, batch: Batch, share: float) -> Values:
        """Compute and propagate the terms of the fused image itself; an untransformed copy is such a ``share``."""
        weights, infrared, visible = self._loss, batch["infrared"], batch["visible"]
        values: Values = {}
        if weights.infrared or weights.visible or share:
            sensed = self._sense(fused)
            values["infrared"] = self._distance(sensed[0], infrared)
            values["visible"] = self._distance(sensed[1], visible)
            if share:
                values["equivariance"] = share * self._fuse_again(fused, sensed)
        if weights.sources:
            values["sources"] = losses.sources(self._distance, fused, infrared, visible)
        if weights.maximum:
            values["maximum"] = losses.maximum(fused, infrared, visible)
        if weights.slopes:
            values["slopes"] = losses.slopes(fused, infrared, visible, weights.gain)
        if weights.teacher:
            values["teacher"] = self._distance(fused, batch["teacher"])
        if values:
            self._engine.backward(self._with_sum(values)["loss"])
        return {name: value.detach() for name, value in values.items()}

    def _equivariance_term(self, fused: torch.Tensor, transforms: Sequence[Transform]) -> torch.Tensor:
        copies = apply_all(transforms, fused)
        return self._fuse_again(copies, self._sense(copies))

    def _sense(self, fused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with self._engine.autocast():
            return cast("Sensing", self._sensing)(fused)

    def _fuse_again(self, copies: torch.Tensor, sensed: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Fuse what the sensors would have seen of the copies, and compare with the copies."""
        with self._engine.autocast():
            again = self._fuser(*sensed)
        return self._distance(again, copies.detach() if self._loss.detach_target else copies)

    def _with_sum(self, values: Values) -> Values:
        weighted = [getattr(self._loss, name) * value for name, value in values.items()]
        return {"loss": torch.stack(weighted).sum(), **values}


def freeze(network: SensingUNet, dtype: torch.dtype = torch.float32) -> SensingUNet:
    """Copy a sensing network for use inside a loss: gradients flow through it, none to its weights.

    Batch normalisation is folded into the convolutions, so that training and evaluation mode are the same.

    Args:
        network: trained.
        dtype: of its weights; what enters is converted, what it answers is of this type.

    Returns:
        The frozen network; it does not share memory with the other.
    """
    frozen = copy.deepcopy(network).eval()
    for block in frozen.modules():
        if isinstance(block, DoubleConv):
            block.conv1, block.norm1 = fuse_conv_bn_eval(block.conv1, block.norm1), cast("Any", nn.Identity())
            block.conv2, block.norm2 = fuse_conv_bn_eval(block.conv2, block.norm2), cast("Any", nn.Identity())
    frozen.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))
    frozen.requires_grad_(requires_grad=False)
    return frozen.to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _stage(
    title: str,
    network: UFuser | SensingUNet,
    crops: Crops,
    schedule: Schedule,
    engine: Engine,
    data: StageData,
    step: Callable[[Batch, int], Values],
    validate: Callable[[], Validation],
) -> Stage:
    """Join what both stages have in common: Adam, and a rate that falls every so many epochs."""
    each = schedule.batch * schedule.accumulate * engine.world
    steps = schedule.steps or _steps(schedule.epochs, crops, each)

    def batches(start: int) -> Iterator[Batch]:
        numbers = Numbers(start, schedule.batch, schedule.accumulate, engine.rank, engine.world)
        return crop_batches(crops, numbers, workers=data.workers, pin=engine.device.type == "cuda")

    reached: dict[str, str] = {}  # in the last validation, after which the loop saves: how good these weights are

    def validated() -> Validation:
        found = validate()
        reached.update({name: f"{value:.6g}" for name, value in found.values.items()})
        return found

    def save(path: Path, about: Mapping[str, str]) -> None:
        provenance = {**data.provenance, "stage": title, **reached, **about}
        save_checkpoint(path, network, recipe=data.recipe, provenance=provenance)

    return Stage(
        title=title,
        config=data.config,
        seed=data.seed,
        module=network,
        optimizer=torch.optim.Adam(network.parameters(), schedule.learning_rate),
        steps=steps,
        rate=lambda done: _rate(schedule, done * each // len(crops)),
        batches=batches,
        step=step,
        validate=validated,
        validate_steps=max(_steps(schedule.validate_epochs, crops, each), steps // VALIDATIONS),
        save=save,
        accumulate=schedule.accumulate,
        clip=schedule.clip,
    )


def _steps(epochs: int, crops: Crops, each: int) -> int:
    return max(1, round(epochs * len(crops) / each))


def _rate(schedule: Schedule, epoch: int) -> float:
    return schedule.learning_rate * schedule.decay ** (epoch // schedule.decay_epochs)

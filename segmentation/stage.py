"""What training a segmenter puts into the loop of :mod:`emma_core.training`: loss, frozen backbone, rate, batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from emma_core.metrics.confusion import class_iou, confusion_matrix, mean_iou
from emma_core.patches import Numbers
from emma_core.training import Stage, Validation
from segmentation.evaluation import predict
from segmentation.labels import UNLABELLED
from segmentation.network import save_segmenter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from _typeshed import DataclassInstance

    from emma_core.engine import Engine
    from segmentation.data import RowImages, Sample, Samples
    from segmentation.network import Segmenter
    from segmentation.recipes import ScheduleConfig, SegmentationTraining

MONITORED = 16
"""Training images that are looked at now and then."""


def segmentation_stage(
    title: str,
    engine: Engine,
    segmenter: Segmenter,
    training: SegmentationTraining,
    samples: Samples,
    images: RowImages,
    *,
    config: DataclassInstance,
    seed: int,
    workers: int = 0,
) -> Stage:
    """Make the training of one row and seed.

    Args:
        title: for whoever watches.
        engine: where to compute.
        segmenter: what to train, on the device.
        training: how.
        samples: varied training images by number.
        images: the same images as they are.
        config: of the whole run, see :class:`emma_core.training.Stage`.
        seed: of all that is random.
        workers: processes that vary images; 0: none but this.

    Returns:
        The stage.
    """
    schedule = training.schedule
    steps = max(1, round(schedule.epochs * len(samples) / (schedule.batch * engine.world)))
    frozen_steps = round(schedule.frozen_epochs / schedule.epochs * steps)

    def save(path: Path, about: Mapping[str, str]) -> None:
        save_segmenter(path, segmenter, {**about, "title": title, "seed": str(seed)})

    return Stage(
        title=title,
        config=config,
        seed=seed,
        module=segmenter,
        optimizer=_optimizer(segmenter, schedule),
        steps=steps,
        rate=lambda done: rate_at(done / steps, schedule),
        batches=lambda start: _batches(samples, schedule.batch, engine, start, workers),
        step=_step(engine, segmenter, images, training, frozen_steps),
        validate=lambda: _look(segmenter, images, training, engine),
        validate_steps=max(1, round(schedule.monitor_epochs / schedule.epochs * steps)),
        save=save,
    )


def pixel_loss(logits: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted cross-entropy, averaged over labelled pixels; 0 where there is none.

    Args:
        logits: (B, C, H, W).
        mask: (B, H, W) int64, ids or :data:`~segmentation.labels.UNLABELLED`.
        weights: (C,) of the classes.
    """
    total = cross_entropy(logits, mask, weights, ignore_index=UNLABELLED, reduction="sum")
    return total / (mask != UNLABELLED).sum().clamp(min=1)


def class_weights(images: RowImages, classes: int, balance: float) -> torch.Tensor:
    """Return the weight of each class in the loss: frequency to the power of -balance, 1 on average over pixels."""
    if balance == 0:
        return torch.ones(classes)
    masks = (images[index][1] for index in range(len(images)))
    counts = np.sum([np.bincount(mask.ravel(), minlength=256)[:classes] for mask in masks], axis=0)
    shares = np.maximum(counts, 1) / max(counts.sum(), 1)
    weights = shares**-balance
    return torch.from_numpy(weights / (shares * weights).sum()).float()


def rate_at(progress: float, schedule: ScheduleConfig) -> float:
    """Return the learning rate when so much of a run is done.

    Args:
        progress: share of the run, from 0 to 1.
        schedule: how it rises and falls.

    Returns:
        The rate: rising in a straight line, then half a cosine, then level.
    """
    highest = schedule.learning_rate * schedule.batch / schedule.reference_batch
    epoch = progress * schedule.epochs
    if epoch < schedule.warm_up_epochs:
        return highest * (0.1 + 0.9 * epoch / schedule.warm_up_epochs)
    span = schedule.epochs - schedule.warm_up_epochs - schedule.final_epochs
    along = min(1.0, (epoch - schedule.warm_up_epochs) / span)
    falling = (1 + math.cos(math.pi * along)) / 2
    return highest * (schedule.final_rate + (1 - schedule.final_rate) * falling)


def _step(
    engine: Engine, segmenter: Segmenter, images: RowImages, training: SegmentationTraining, frozen_steps: int
) -> Callable[[Sample, int], dict[str, torch.Tensor]]:
    """Make the step of the loop: the loss of a batch and its gradient, the backbone frozen in the first steps."""
    weights = class_weights(images, segmenter.classes, training.balance).to(engine.device)

    def step(batch: Sample, turn: int) -> dict[str, torch.Tensor]:
        segmenter.freeze_encoder(frozen=turn // engine.world < frozen_steps)
        with engine.autocast():
            logits = segmenter(batch["image"])
        loss = pixel_loss(logits.float(), batch["mask"], weights)
        engine.backward(loss)
        return {"loss": loss}

    return step


def _batches(samples: Samples, batch: int, engine: Engine, start: int, workers: int) -> Iterator[Sample]:
    """Yield the batches of this process from one on, without end."""
    numbers = Numbers(start, batch, 1, engine.rank, engine.world)
    # The loader draws a seed for its workers; from a generator of its own, lest it disturb anyone's.
    yield from DataLoader(samples, batch_sampler=numbers, num_workers=workers, generator=torch.Generator())


def _optimizer(segmenter: Segmenter, schedule: ScheduleConfig) -> torch.optim.Optimizer:
    encoder = list(segmenter.encoder.parameters())
    inside = set(map(id, encoder))
    rest = [parameter for parameter in segmenter.parameters() if id(parameter) not in inside]
    groups = [{"params": encoder, "rate_factor": schedule.encoder_rate}, {"params": rest, "rate_factor": 1.0}]
    rate, decay = schedule.learning_rate, schedule.weight_decay
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(groups, rate, weight_decay=decay)
    nesterov = schedule.momentum > 0
    return torch.optim.SGD(groups, rate, momentum=schedule.momentum, weight_decay=decay, nesterov=nesterov)


def _look(segmenter: Segmenter, images: RowImages, training: SegmentationTraining, engine: Engine) -> Validation:
    """Score some of the training images as they are: the paper holds none out, and test images decide nothing."""
    chosen = range(0, len(images), -(-len(images) // MONITORED))
    matrices = []
    for image, mask in map(images.__getitem__, chosen):
        found = predict(segmenter, image, training.size, engine.device)
        matrices.append(confusion_matrix(mask, found, segmenter.classes, UNLABELLED))
    score = mean_iou(class_iou(np.sum(matrices, axis=0)), "skip")
    score = 0.0 if math.isnan(score) else score
    return Validation({"training mIoU": 100 * score}, score)

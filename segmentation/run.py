"""From what a person asks for to Table 4: train and score every row and seed, and compare the rows.

Each row and seed has a folder of its own, ``runs/segment/<dataset>/<split>/<row>/seed<k>/``. What is finished there is
skipped, what was stopped goes on. The last weights are scored, not the best: no test image decides anything.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emma_core.chance import seeded
from emma_core.comparisons import write_comparisons
from emma_core.config import to_dict
from emma_core.images import size_text, write_atomic
from emma_core.manifest import sha256
from emma_core.options import progress_bar
from emma_core.results import Result, blank_result, result_folder, table_folder, write_result
from emma_core.rows import narrow_note
from emma_core.runtime import environment
from emma_core.training import LAST, STATE, Progress, SavePolicy, train
from emma_core.training_log import LOG, logged_seconds
from segmentation.augment import VARIATION
from segmentation.data import RowImages, Samples, images_hash
from segmentation.evaluation import columns, evaluate_row
from segmentation.network import build_segmenter, load_segmenter, refuse_missing, weights_hash
from segmentation.recipes import recipe_label
from segmentation.scored import MATRICES, PREDICTIONS, Scored, collect, compare, is_finished, with_figures
from segmentation.stage import segmentation_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from emma_core.engine import Engine
    from emma_core.metrics.confusion import Absent
    from emma_core.rows import InputRow
    from segmentation.data import SegmentationData
    from segmentation.recipes import SegmentationTraining

TASK = "segment"

_SHORT = 12  # hexadecimal digits that tell one hash from another


@dataclass(frozen=True)
class Request:
    """What is to be run.

    Attributes:
        data: pairs and masks.
        rows: kinds of input.
        training: how to train.
        recipe: its name.
        runs: folder of all runs.
        seeds: of the trainings; each row is trained with each.
        absent: what an absent class counts.
        workers: processes that vary images; 0: none but this.
        policy: when the state of a training is saved.
        quiet: whether to show no progress.
    """

    data: SegmentationData
    rows: tuple[InputRow, ...]
    training: SegmentationTraining
    recipe: str
    runs: Path
    seeds: tuple[int, ...] = (0,)
    absent: Absent = "zero"
    workers: int = 0
    policy: SavePolicy = field(default_factory=SavePolicy)
    quiet: bool = False

    @property
    def folder(self) -> Path:
        """The folder of all rows on these test images."""
        return table_folder(self.runs, TASK, self.data.dataset, self.data.test.label)

    def row_folder(self, row: str, seed: int) -> Path:
        """The folder of one row and seed."""
        return result_folder(self.runs, TASK, self.data.dataset, self.data.test.label, row, seed)


@dataclass(frozen=True)
class SegmentationRun:
    """The configuration of one training: everything that decides its weights."""

    recipe: str
    row: str
    seed: int
    data: str
    split_sha256: str
    labels_sha256: str
    images_sha256: str
    encoder_sha256: str
    classes: int
    variation: int
    training: SegmentationTraining


@dataclass(frozen=True)
class _Job:
    """A row with a seed: its result but for the figures, where that belongs, and whether it is there."""

    row: InputRow
    seed: int
    expected: Result
    folder: Path
    is_done: bool


def run_rows(request: Request, engine: Engine) -> list[Scored]:
    """Train and score what is not done yet, and compare the rows.

    Args:
        request: what to run.
        engine: where to compute.

    Returns:
        All rows and seeds of this table that are on disk, whoever asked for them, scored by the rule asked for.

    Raises:
        EmmaError: an input has become unreadable, or a training cannot go on; what is done is kept.
    """
    common = _common(request, engine)
    for job in _jobs(request, common):
        if not job.is_done:
            _run_one(request, engine, job)
    scored = collect(request.folder, common, request.data, request.absent)
    write_comparisons(
        request.folder, compare(scored, request.data.test.spec, request.data.spec.classes, request.absent)
    )
    return scored


def plan(request: Request, engine: Engine) -> list[str]:
    """Say of each row and seed what would be done.

    Raises:
        UsageError: the backbone cannot be had.
        CheckpointError: likewise its weights, as far as that can be told without a network.
    """
    jobs = list(_jobs(request, _common(request, engine)))
    if not all(job.is_done for job in jobs):
        refuse_missing(request.training.network)
    return [f"{job.row.name}, seed {job.seed}: {_foretold(job)} in {job.folder}" for job in jobs]


def _foretold(job: _Job) -> str:
    """Say what would become of a row and seed; one that lost its masks is not trained again."""
    if job.is_done:
        return "is done"
    return "would go on" if (job.folder / STATE).exists() else "would be trained"


def _common(request: Request, engine: Engine) -> Result:
    """Return what the results of all rows share."""
    data = request.data
    return replace(
        blank_result(data.test, TASK, data.spec.title, columns(data.spec)),
        dataset=data.dataset,
        recipe=_recipe(request, engine.world),
        notes=_notes(request),
        environment=environment(engine.device, "segmentation-models-pytorch"),
        comparable=not (data.spec.pseudo or data.foreign_labels),
    )


def _recipe(request: Request, processes: int) -> dict[str, str | int]:
    """Return what must agree between rows that are compared."""
    training, data = request.training, request.data
    network = training.network
    start = {"imagenet": "ImageNet", "none": "random"}[network.encoder_weights]
    config = json.dumps([to_dict(training), VARIATION], sort_keys=True).encode()
    return {
        **({"processes": processes} if processes > 1 else {}),  # each takes a batch, at the rate of one
        "name": recipe_label(request.recipe, training),
        "model": f"DeepLabV3+ {network.encoder} ({start} weights)",
        "epochs": training.schedule.epochs,
        "size": size_text(training.size),
        "config": sha256(config)[:_SHORT],
        "trained on": f"{len(data.train.pairs)} pairs",
        "split": data.hash[:_SHORT],
        "training images": data.train.sources_hash()[:_SHORT],
        "labels": f"{'pseudo ' * data.spec.pseudo}{data.labels_hash()[:_SHORT]}",
        "absent class": request.absent,
    }


def _notes(request: Request) -> tuple[str, ...]:
    """Say what a reader has to know of all rows, whatever their figures are."""
    said = []
    if request.data.foreign_labels:
        said.append("The labels are not the data set's own: they are from a folder given with --labels.")
    if request.training.network.encoder_weights == "none":
        said.append("The backbone began with random weights, not with ImageNet's: expect low figures.")
    return (*said, *narrow_note(request.data.pairs))


def _jobs(request: Request, common: Result) -> Iterator[_Job]:
    """Yield what is asked for: a seed of every row, then the next."""
    data = request.data
    keys = [pair.key for pair in data.pairs.pairs]
    expected = {}
    for row in request.rows:
        source = {**row.source, "images_sha256": images_hash(row, keys)}
        expected[row.name] = replace(common, row=data.spec.row_label(row.name), source=source, baseline=row.baseline)
    for seed in request.seeds:
        for row in request.rows:
            folder, result = request.row_folder(row.name, seed), replace(expected[row.name], seed=seed)
            yield _Job(row, seed, result, folder, is_finished(folder, result, data))


def _run_one(request: Request, engine: Engine, job: _Job) -> None:
    """Train a row with a seed, score it, and write its result."""
    data, folder = request.data, job.folder
    processes = _train(request, engine, job).processes
    begun = time.perf_counter()
    segmenter = load_segmenter(folder / LAST).to(engine.device)
    with _advancing(request, f"Scoring {job.row.name}") as advance:
        matrices = evaluate_row(
            segmenter, job.row, data, request.training.size, engine.device, folder / PREDICTIONS, advance
        )
    counted = _npy(matrices)
    write_atomic(folder / MATRICES, counted)
    expected = replace(job.expected, recipe=_recipe(request, processes))  # of when it was trained
    result = with_figures(expected, matrices, data, request.absent)
    seconds = round(logged_seconds(folder / LOG) + time.perf_counter() - begun, 1)
    write_result(folder, replace(result, seconds=seconds, evidence=sha256(counted)))


def _train(request: Request, engine: Engine, job: _Job) -> Progress:
    """Train a row with a seed, or go on, or leave it alone if it is done."""
    data, training, row, seed = request.data, request.training, job.row, job.seed
    with seeded(seed, "segmenter"):  # the same start for all rows
        segmenter = build_segmenter(training.network, len(data.spec.classes)).to(engine.device)
    images = RowImages(row, data, data.train)
    run = SegmentationRun(
        recipe=request.recipe,
        row=row.name,
        seed=seed,
        data=data.dataset,
        split_sha256=data.hash,
        labels_sha256=data.labels_hash(),
        images_sha256=images_hash(row, (pair.key for pair in data.train.pairs)),
        encoder_sha256=weights_hash(segmenter.encoder),
        classes=len(data.spec.classes),
        variation=VARIATION,
        training=training,
    )
    stage = segmentation_stage(
        f"{row.name}, seed {seed}",
        engine,
        segmenter,
        training,
        Samples(images, training, seed),
        images,
        config=run,
        seed=seed,
        workers=request.workers,
    )
    return train(stage, job.folder, engine, policy=request.policy, quiet=request.quiet)


def _advancing(request: Request, title: str) -> contextlib.AbstractContextManager[Callable[[], None]]:
    if request.quiet:
        return contextlib.nullcontext(lambda: None)
    return progress_bar(title, len(request.data.test.pairs))


def _npy(matrices: NDArray[np.int64]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, matrices)
    return stream.getvalue()

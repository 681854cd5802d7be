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
from emma_core.images import write_atomic
from emma_core.manifest import sha256
from emma_core.options import progress_bar
from emma_core.results import Result, result_folder, write_result
from emma_core.runtime import environment
from emma_core.training import LAST, SavePolicy, train
from segmentation.data import RowImages, Samples, images_hash
from segmentation.evaluation import columns, evaluate_row
from segmentation.labels import size_text
from segmentation.network import build_segmenter, load_segmenter, weights_hash
from segmentation.recipes import recipe_label
from segmentation.scored import MATRICES, PREDICTIONS, Scored, collect, compare, is_finished, with_figures
from segmentation.stage import segmentation_stage

if TYPE_CHECKING:
    from collections.abc import Callable

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
        return self.runs / TASK / self.data.dataset / self.data.test.label

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
    training: SegmentationTraining


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
    for seed in request.seeds:
        for row in request.rows:
            expected = _expected(common, request, row, seed)
            if not is_finished(request.row_folder(row.name, seed), expected, len(request.data.spec.classes)):
                _run_one(request, engine, row, expected)
    scored = collect(request.folder, common, request.data, request.absent)
    write_comparisons(request.folder, compare(scored, request.data.test.spec, request.absent))
    return scored


def plan(request: Request, engine: Engine) -> list[str]:
    """Say of each row and seed what would be done."""
    common = _common(request, engine)
    lines = []
    for seed in request.seeds:
        for row in request.rows:
            folder = request.row_folder(row.name, seed)
            done = is_finished(folder, _expected(common, request, row, seed), len(request.data.spec.classes))
            lines.append(f"{row.name}, seed {seed}: {'is done' if done else 'would be trained'} in {folder}")
    return lines


def _common(request: Request, engine: Engine) -> Result:
    """Return what the results of all rows share."""
    data, test = request.data, request.data.test
    return Result(
        task=TASK,
        title=data.spec.title,
        dataset=data.dataset,
        split=test.label,
        split_hash=test.hash,
        sources_hash=test.sources_hash(),
        parts=test.parts,
        count=len(test.pairs),
        row="",
        columns=columns(data.spec),
        values={},
        recipe=_recipe(request),
        notes=_notes(request),
        environment=environment(engine.device),
        comparable=not (data.spec.pseudo or data.foreign_labels),
    )


def _recipe(request: Request) -> dict[str, str | int]:
    """Return what must agree between rows that are compared."""
    training, data = request.training, request.data
    network = training.network
    start = {"imagenet": "ImageNet", "none": "random"}[network.encoder_weights]
    config = json.dumps(to_dict(training), sort_keys=True).encode()
    return {
        "name": recipe_label(request.recipe, training),
        "model": f"DeepLabV3+ {network.encoder} ({start} weights)",
        "epochs": training.schedule.epochs,
        "size": size_text(training.size),
        "config": sha256(config)[:_SHORT],
        "trained on": f"{len(data.train.pairs)} pairs",
        "split": data.hash[:_SHORT],
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
    return tuple(said)


def _expected(common: Result, request: Request, row: InputRow, seed: int) -> Result:
    """Return what the result of a row will be, but for its figures."""
    images = images_hash(row, (pair.key for pair in request.data.pairs.pairs))
    source = {**row.source, "images_sha256": images}
    label = request.data.spec.row_label(row.name)
    return replace(common, row=label, seed=seed, source=source, baseline=row.baseline)


def _run_one(request: Request, engine: Engine, row: InputRow, expected: Result) -> None:
    """Train a row with a seed, score it, and write its result."""
    begun, data = time.perf_counter(), request.data
    seed = expected.seed or 0
    folder = request.row_folder(row.name, seed)
    _train(request, engine, row, seed, folder)
    segmenter = load_segmenter(folder / LAST).to(engine.device)
    with _advancing(request, f"Scoring {row.name}") as advance:
        matrices = evaluate_row(
            segmenter, row, data, request.training.size, engine.device, folder / PREDICTIONS, advance
        )
    write_atomic(folder / MATRICES, _npy(matrices))
    seconds = round(time.perf_counter() - begun, 1)
    write_result(folder, replace(with_figures(expected, matrices, data, request.absent), seconds=seconds))


def _train(request: Request, engine: Engine, row: InputRow, seed: int, folder: Path) -> None:
    """Train a row with a seed, or go on, or leave it alone if it is done."""
    data, training = request.data, request.training
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
    train(stage, folder, engine, policy=request.policy, quiet=request.quiet)


def _advancing(request: Request, title: str) -> contextlib.AbstractContextManager[Callable[[], None]]:
    if request.quiet:
        return contextlib.nullcontext(lambda: None)
    return progress_bar(title, len(request.data.test.pairs))


def _npy(matrices: NDArray[np.int64]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, matrices)
    return stream.getvalue()

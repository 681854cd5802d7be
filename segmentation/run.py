"""From what a person asks for to Table 4: train and score every row and seed, compare the rows, draw the pictures.

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
from emma_core.comparisons import Comparison, write_comparisons
from emma_core.config import to_dict
from emma_core.errors import ResultError
from emma_core.images import write_atomic
from emma_core.manifest import sha256
from emma_core.metrics.bootstrap import bootstrap
from emma_core.metrics.confusion import class_iou, mean_iou
from emma_core.options import progress_bar
from emma_core.results import RESULT, Result, find_results, read_result, result_folder, write_result
from emma_core.runtime import environment
from emma_core.training import LAST, SavePolicy, train
from segmentation.data import RowImages, Samples, images_hash
from segmentation.evaluation import MIOU, columns, evaluate_row, figures, notes
from segmentation.network import build_segmenter, load_segmenter, weights_hash
from segmentation.stage import segmentation_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from emma_core.engine import Engine
    from emma_core.metrics.confusion import Absent
    from emma_core.rows import InputRow
    from segmentation.data import SegmentationData
    from segmentation.recipes import SegmentationTraining

TASK = "segment"
MATRICES, PREDICTIONS = "confusion.npy", "predictions"

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


@dataclass(frozen=True)
class Scored:
    """A row and seed that is done.

    Attributes:
        result: as written.
        matrices: confusion of each test image, (images, classes, classes) [pixels].
        folder: of the run.
    """

    result: Result
    matrices: NDArray[np.int64]
    folder: Path


def run_rows(request: Request, engine: Engine) -> list[Scored]:
    """Train and score what is not done yet, and compare the rows.

    Args:
        request: what to run.
        engine: where to compute.

    Returns:
        All rows and seeds of this table that are on disk, whoever asked for them.

    Raises:
        EmmaError: an input has become unreadable, or a training cannot go on; what is done is kept.
    """
    common = _common(request, engine)
    for seed in request.seeds:
        for row in request.rows:
            expected = _expected(common, request, row, seed)
            if finished(request.row_folder(row.name, seed), expected) is None:
                _run_one(request, engine, row, expected)
    scored = collect(request.folder, common.table_key)
    write_comparisons(request.folder, compare(scored, request))
    return scored


def finished(folder: Path, expected: Result) -> Scored | None:
    """Return what a folder holds if it is what is expected, made from the same files by the same recipe."""
    try:
        found = read_result(folder / RESULT)
        matrices = np.load(folder / MATRICES)
    except (ResultError, OSError, ValueError):
        return None
    same = (found.table_key, found.row, found.seed, found.source) == (
        expected.table_key,
        expected.row,
        expected.seed,
        expected.source,
    )
    return Scored(found, matrices, folder) if same else None


def collect(folder: Path, table_key: tuple[str, str, str, str]) -> list[Scored]:
    """Read all rows and seeds of one table, sources and naive rules first."""
    found = []
    for path in find_results(folder):
        try:
            result = read_result(path)
        except ResultError:
            continue
        if result.table_key == table_key and (path.parent / MATRICES).exists():
            found.append(Scored(result, np.load(path.parent / MATRICES), path.parent))
    return found


def compare(scored: Sequence[Scored], request: Request) -> list[Comparison]:
    """Compare the mIoU of every fused row with that of each camera alone, by a paired bootstrap over images.

    Over several seeds it is the mean of their figures that is compared.
    """
    spec = request.data.test.spec
    sources = [spec.visible_label, spec.infrared_label]
    by_row: dict[str, list[Scored]] = {}
    for each in scored:
        by_row.setdefault(each.result.row, []).append(each)
    return [
        _difference(by_row[row], by_row[against], request.absent)
        for row in by_row
        if row not in sources
        for against in sources
        if against in by_row
    ]


def plan(request: Request, engine: Engine) -> list[str]:
    """Say of each row and seed what would be done."""
    common = _common(request, engine)
    lines = []
    for seed in request.seeds:
        for row in request.rows:
            folder = request.row_folder(row.name, seed)
            done = finished(folder, _expected(common, request, row, seed)) is not None
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
        environment=environment(engine.device),
    )


def _recipe(request: Request) -> dict[str, str | int]:
    """Return what must agree between rows that are compared."""
    network, data = request.training.network, request.data
    start = {"imagenet": "ImageNet", "none": "random"}[network.encoder_weights]
    config = json.dumps(to_dict(request.training), sort_keys=True).encode()
    return {
        "name": request.recipe,
        "model": f"DeepLabV3+ {network.encoder} ({start} weights)",
        "config": sha256(config)[:_SHORT],
        "trained on": f"{len(data.train.pairs)} pairs",
        "split": data.hash[:_SHORT],
        "labels": f"{'pseudo ' * data.spec.pseudo}{data.labels_hash()[:_SHORT]}",
        "absent class": request.absent,
    }


def _expected(common: Result, request: Request, row: InputRow, seed: int) -> Result:
    """Return what the result of a row will be, but for its figures."""
    images = images_hash(row, (pair.key for pair in request.data.pairs.pairs))
    source = {**row.source, "images_sha256": images}
    return replace(common, row=row.name, seed=seed, source=source, baseline=row.baseline)


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
    said = notes(matrices, data.spec, request.absent)
    if request.training.network.encoder_weights == "none":
        said = (*said, "The backbone began with random weights, not with ImageNet's: expect low figures.")
    values = figures(matrices, data.test.pairs, data.spec, request.absent)
    seconds = round(time.perf_counter() - begun, 1)
    write_result(folder, replace(expected, values=values, notes=said, seconds=seconds))


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


def _difference(ours: Sequence[Scored], theirs: Sequence[Scored], absent: Absent) -> Comparison:
    """Compare two rows in mIoU [percentage points]."""

    def figure(runs: Sequence[Scored], counts: NDArray[np.int64]) -> float:
        drawn = [np.tensordot(counts, run.matrices, axes=1) for run in runs]
        return float(np.mean([100 * mean_iou(class_iou(matrix), absent) for matrix in drawn]))

    def difference(chosen: NDArray[np.int64]) -> float:
        counts = np.bincount(chosen, minlength=images)
        return figure(ours, counts) - figure(theirs, counts)

    first, images = ours[0].result, len(ours[0].matrices)
    (interval,) = bootstrap(difference, images)
    return Comparison(
        table_key=first.table_key,
        row=first.row,
        against=theirs[0].result.row,
        column=MIOU,
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        images=images,
        unit="points",
        better="labels pixels better",
        worse="labels pixels worse",
    )


def _advancing(request: Request, title: str) -> contextlib.AbstractContextManager[Callable[[], None]]:
    if request.quiet:
        return contextlib.nullcontext(lambda: None)
    return progress_bar(title, len(request.data.test.pairs))


def _npy(matrices: NDArray[np.int64]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, matrices)
    return stream.getvalue()

"""The detection task: a detector for every row from the same start, or one detector on every row; then the table.

``runs/detect/<dataset>/<split>/<row>/seed<k>/`` holds what a run was (``config.toml``), its log, its weights, its
predictions and its result. A run that is finished is not repeated, one that was killed goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from detection import scoring
from detection.classes import class_number
from detection.coco import PREDICTIONS, TRUTH, evaluate, write_predictions, write_truth
from detection.interface import Detections, LabelledImage, TrainingTask
from detection.pictures import draw_pictures, drawn_row
from detection.recipes import DetectorRecipe
from detection.splits import write_split
from detection.weights import read_weights
from detection.yolo import (
    WEIGHTS,
    WORK,
    build_network,
    load_detector,
    matching_tensors,
    train_detector,
)
from emma_core.comparisons import write_comparisons
from emma_core.config import read_toml, to_dict, write_toml
from emma_core.errors import DataError, ResultError, UsageError
from emma_core.images import read_image
from emma_core.manifest import locked, sha256
from emma_core.options import progress_bar
from emma_core.report.tables import row_order
from emma_core.results import RESULT, Result, read_result, result_folder, write_result
from emma_core.rows import source_rows
from emma_core.runtime import environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from detection.bench import Bench
    from detection.weights import WeightsFile
    from detection.yolo import Detector
    from emma_core.comparisons import Comparison
    from emma_core.rows import InputRow

TASK, TITLE = "detect", "Object detection"
CONFIG = "config.toml"


@dataclass(frozen=True)
class TrainingSetup:
    """How the detectors of all rows are trained.

    Attributes:
        name: of the recipe.
        recipe: its values.
        seeds: one detector each.
        start: weights to begin with, or None.
        device: where to compute.
    """

    name: str
    recipe: DetectorRecipe
    seeds: tuple[int, ...]
    start: WeightsFile | None
    device: torch.device

    def identity(self, bench: Bench) -> dict[str, Any]:
        """Return what must agree between rows that are compared."""
        return {
            "recipe": self.name,
            "recipe_hash": sha256(repr(sorted(to_dict(self.recipe).items())).encode()),
            "model": self.recipe.model,
            "epochs": self.recipe.epochs,
            "size": self.recipe.size,
            "start": f"{self.start.path.name} {self.start.sha256}" if self.start else "from scratch",
            "split": bench.split.hash,
            "labels": bench.annotations.hash,
        }


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what one run ends with; a folder with another one is refused.

    Attributes:
        dataset: name of the data set.
        row: kind of input.
        seed: of everything random.
        images: SHA-256 over the content of the row's images.
        split: hash of what is trained and tested on.
        labels: hash of the boxes.
        start: SHA-256 of the weights to begin with, or empty.
        recipe: how to train.
    """

    dataset: str
    row: str
    seed: int
    images: str
    split: str
    labels: str
    start: str
    recipe: DetectorRecipe


@dataclass(frozen=True)
class Outcome:
    """What a run of the task leaves.

    Attributes:
        results: one a row and seed, those of earlier runs included.
        comparisons: of fused rows with each camera alone.
        folder: of all rows.
    """

    results: tuple[Result, ...]
    comparisons: tuple[Comparison, ...]
    folder: Path


def train_rows(bench: Bench, rows: Sequence[InputRow], setup: TrainingSetup, runs: Path) -> Outcome:
    """Train and test a detector for every row and seed; those that are finished are taken as they are.

    Args:
        bench: what to train and test on.
        rows: kinds of input, with an image for every pair of the bench.
        setup: how to train.
        runs: the folder of all runs.

    Raises:
        UsageError: a folder holds a run of other settings, or there is no such model.
        EmmaError: training cannot go on, or an image cannot be read.
    """
    digests = {row.name: _digest(row, bench) for row in rows}
    wanted = [(row, seed) for seed in setup.seeds for row in rows]
    places = [result_folder(runs, TASK, bench.pairs.dataset, bench.pairs.label, row.name, seed) for row, seed in wanted]
    for (row, seed), place in zip(wanted, places, strict=True):
        _claim(place, _config(bench, row, digests[row.name], setup, seed))
    folder = _begin(bench, runs)
    for (row, seed), place in zip(wanted, places, strict=True):
        with locked(place):
            if not (place / RESULT).exists():
                _train_row(bench, row, setup, seed, place)
    results = [read_result(place / RESULT) for place in places]
    return _summarise(bench, rows, results[0].table_key, folder)


def evaluate_rows(
    bench: Bench, rows: Sequence[InputRow], weights: WeightsFile, runs: Path, *, size: int | None, device: torch.device
) -> Outcome:
    """Score one detector on every row without training, the way a deployed one would meet fused images.

    Args:
        bench: what to test on.
        rows: kinds of input, with an image for every test pair.
        weights: of the detector; its classes go by name.
        runs: the folder of all runs.
        size: longer side of the images [pixels]; by default that of its training.
        device: where to compute.

    Raises:
        CheckpointError: the weights make no detector.
        UsageError: it knows none of the classes.
    """
    detector = load_detector(weights, size, device)
    folder = _begin(bench, runs)
    recipe = {
        "recipe": "evaluate-only",
        "weights": f"{weights.path.name} {weights.sha256}",
        "size": detector.size,
        "split": bench.test.hash,
        "labels": bench.annotations.hash,
    }
    results = []
    for row in rows:
        place = result_folder(runs, TASK, bench.pairs.dataset, bench.pairs.label, row.name)
        begun = time.perf_counter()
        with locked(place):
            _predict(bench, row, detector, place / PREDICTIONS)
            results.append(_score(bench, row, place, recipe, None, time.perf_counter() - begun, device))
    return _summarise(bench, rows, results[0].table_key, folder)


def numbers_by_name(found: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return for each class of a detector the number of that class in the data set, -1 where it has none.

    Raises:
        UsageError: they share no class.
    """
    numbers = [class_number(name, tuple(classes)) for name in found]
    if all(number is None for number in numbers):
        raise UsageError(f"The detector knows {', '.join(found[:8])}, ...; none of {', '.join(classes)}")
    return [-1 if number is None else number for number in numbers]


def _begin(bench: Bench, runs: Path) -> Path:
    """Write the split and the truth into the folder of all rows."""
    folder = result_folder(runs, TASK, bench.pairs.dataset, bench.pairs.label, "x").parent
    write_split(folder, bench.split, bench.pairs.dataset)
    truth = {pair.key: bench.annotations.images[pair.key] for pair in bench.test.pairs}
    write_truth(folder / TRUTH, truth, bench.classes)
    return folder


def _digest(row: InputRow, bench: Bench) -> str:
    """Return the SHA-256 over all images of a row."""
    digest = hashlib.sha256()
    with progress_bar(f"{row.name}: reading", len(bench.pairs.pairs)) as advance:
        for pair in bench.pairs.pairs:
            try:
                digest.update(hashlib.sha256(row.files[pair.key].read_bytes()).digest())
            except OSError as error:
                raise DataError(f"{row.name}: {row.files[pair.key]}: cannot be read ({error.strerror})") from None
            advance()
    return digest.hexdigest()


def _config(bench: Bench, row: InputRow, images: str, setup: TrainingSetup, seed: int) -> RunConfig:
    start = setup.start.sha256 if setup.start else ""
    return RunConfig(
        bench.pairs.dataset, row.name, seed, images, bench.split.hash, bench.annotations.hash, start, setup.recipe
    )


def _claim(folder: Path, wanted: RunConfig) -> None:
    """Write what a run is into its folder, or make sure that it is what is there."""
    path = folder / CONFIG
    if not path.exists():
        write_toml(path, wanted)
        return
    found = read_toml(path, RunConfig)
    pairs = [(entry.name, getattr(found, entry.name), getattr(wanted, entry.name)) for entry in fields(RunConfig)]
    pairs += [
        (entry.name, getattr(found.recipe, entry.name), getattr(wanted.recipe, entry.name))
        for entry in fields(DetectorRecipe)
    ]
    different = [(name, old, new) for name, old, new in pairs if old != new and name != "recipe"]
    if different:
        name, old, new = different[0]
        raise UsageError(
            f"{folder}: holds a run of other settings ({name}: {str(old)[:20]}, now {str(new)[:20]}); "
            "remove it, or choose another folder with --runs"
        )


def _train_row(bench: Bench, row: InputRow, setup: TrainingSetup, seed: int, folder: Path) -> None:
    """Train, predict and score one row with one seed."""
    begun = time.perf_counter()
    network = build_network(setup.recipe, len(bench.classes), seed)
    start: Mapping[str, torch.Tensor] = matching_tensors(network, setup.start)[0] if setup.start else {}
    train, val = (_labelled(bench, row, keys) for keys in (bench.split.train, bench.split.val))
    title = f"{row.name}, seed {seed}"
    train_detector(TrainingTask(title, setup.recipe, seed, bench.classes, train, val, start, folder, setup.device))
    detector = load_detector(read_weights(folder / WEIGHTS), None, setup.device)
    _predict(bench, row, detector, folder / PREDICTIONS)
    _score(bench, row, folder, setup.identity(bench), seed, time.perf_counter() - begun, setup.device)
    shutil.rmtree(folder / WORK, ignore_errors=True)  # served to go on, and holds pickles


def _labelled(bench: Bench, row: InputRow, keys: Sequence[str]) -> list[LabelledImage]:
    return [LabelledImage(row.files[key], bench.annotations.images[key]) for key in keys]


def _predict(bench: Bench, row: InputRow, detector: Detector, path: Path) -> None:
    """Run a detector over the test images of a row and write what it finds."""
    numbers = numbers_by_name(detector.classes, bench.classes)
    found = []
    with progress_bar(f"{row.name}: testing", len(bench.split.test)) as advance:
        for pair in bench.test.pairs:
            image, truth = read_image(row.files[pair.key]), bench.annotations.images[pair.key]
            if image.shape[:2] != (truth.height, truth.width):
                raise DataError(
                    f"{row.name}: {row.files[pair.key]} is {image.shape[1]} x {image.shape[0]}, "
                    f"its boxes are of {truth.width} x {truth.height}"
                )
            found.append(_renumbered(detector(image), numbers))
            advance()
    write_predictions(path, found)


def _renumbered(found: Detections, numbers: Sequence[int]) -> Detections:
    import numpy as np

    classes = np.array(numbers, np.int64)[found.classes]
    kept = classes >= 0
    return Detections(found.boxes[kept], found.scores[kept], classes[kept])


def _score(
    bench: Bench,
    row: InputRow,
    folder: Path,
    recipe: Mapping[str, Any],
    seed: int | None,
    seconds: float,
    device: torch.device,
) -> Result:
    """Evaluate the predictions of a row and write its result."""
    test = bench.test
    evaluation = evaluate(_truth(folder, seed), folder / PREDICTIONS)
    scoring.write_conditions(folder, evaluation, bench.classes, bench.conditions)
    result = Result(
        task=TASK,
        title=TITLE,
        dataset=test.dataset,
        split=test.label,
        split_hash=test.hash,
        sources_hash=test.sources_hash(),
        parts=test.parts,
        count=len(test.pairs),
        row=row.name,
        columns=scoring.columns(bench.classes),
        values=scoring.values(evaluation, bench.classes),
        recipe=dict(recipe),
        source=dict(row.source),
        seed=seed,
        baseline=row.baseline,
        notes=(*bench.notes, *(() if seed is None else (scoring.ANCHOR_FREE_NOTE,))),
        environment=environment(device),
        seconds=round(seconds, 1),
    )
    write_result(folder, result)
    return result


def _truth(folder: Path, seed: int | None) -> Path:
    """Return the truth beside the folders of the rows."""
    return (folder.parent if seed is None else folder.parent.parent) / TRUTH


def _summarise(bench: Bench, rows: Sequence[InputRow], key: tuple[str, str, str, str], folder: Path) -> Outcome:
    """Compare and draw everything of a table that is on disk, rows and seeds of earlier runs included."""
    found = _finished(folder, key)
    names = {result.row: row_order(result.row, result.dataset, baseline=result.baseline) for result in found.values()}
    places = {
        name: [path.parent / PREDICTIONS for path, result in found.items() if result.row == name]
        for name in sorted(names, key=lambda name: names[name])
    }
    scores = [
        scoring.RowScores(name, tuple(evaluate(folder / TRUTH, path) for path in paths))
        for name, paths in places.items()
    ]
    spec = bench.pairs.spec
    sources = (spec.infrared_label, spec.visible_label)
    with progress_bar("Comparing", None) as advance:
        comparisons = scoring.compare(key, scores, sources, bench.classes, advance)
    write_comparisons(folder, comparisons)
    files = {row.name: row.files for row in (*source_rows(bench.pairs), *rows)}
    drawn = [
        drawn_row(each.row, files.get(each.row, {}), each.seeds[0].matches, places[each.row][0]) for each in scores
    ]
    draw_pictures(bench, drawn, folder)
    return Outcome(tuple(found.values()), tuple(comparisons), folder)


def _finished(folder: Path, key: tuple[str, str, str, str]) -> dict[Path, Result]:
    """Find the results of a table, by seed; what cannot be read is not of it."""
    found: dict[Path, Result] = {}
    for path in (*folder.glob(f"*/{RESULT}"), *folder.glob(f"*/seed*/{RESULT}")):
        with contextlib.suppress(ResultError):
            result = read_result(path)
            if result.table_key == key:
                found[path] = result
    return dict(sorted(found.items(), key=lambda item: (item[1].row, item[1].seed or 0)))

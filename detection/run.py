"""The detection task: a detector for every row from the same start, or one detector on every row; then the table.

``runs/detect/<dataset>/<split>/<row>/seed<k>/`` holds what a run was (``config.toml``), its log, its weights, its
predictions and its result. A run that is finished is not repeated, one that was killed goes on.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from detection import scoring
from detection.claims import CONFIG, RunConfig, configs_in, refuse_difference, refuse_others
from detection.classes import class_number
from detection.coco import PREDICTIONS, write_predictions
from detection.inputs import check_images, images_sha256, read_fitting
from detection.interface import Detections, LabelledImage, TrainingTask
from detection.table import TASK, Outcome, Scored, Spent, TableFolder, open_table, summarise, unfinished
from detection.weights import read_weights
from detection.yolo import (
    WEIGHTS,
    WORK,
    architecture_hash,
    build_network,
    load_detector,
    matching_tensors,
    train_detector,
)
from emma_core.config import to_dict, write_toml
from emma_core.errors import UsageError
from emma_core.manifest import locked, sha256
from emma_core.options import progress_bar
from emma_core.results import read_results, result_folder, table_folder
from emma_core.runtime import environment
from emma_core.training_log import LOG, logged_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from detection.bench import Bench
    from detection.recipes import DetectorRecipe
    from detection.weights import WeightsFile
    from detection.yolo import Detector
    from emma_core.rows import InputRow


@dataclass(frozen=True)
class TrainingSetup:
    """How the detectors of all rows are trained.

    Attributes:
        name: of the recipe.
        recipe: its values.
        seeds: one detector each.
        start: weights to begin with, or None.
        device: where to compute.
        precision: in which the network computes while it is trained.
    """

    name: str
    recipe: DetectorRecipe
    seeds: tuple[int, ...]
    start: WeightsFile | None
    device: torch.device
    precision: Literal["fp32", "bf16"]

    def identity(self, bench: Bench) -> dict[str, Any]:
        """Return what must agree between rows that are compared."""
        found = {
            "recipe": self.name,
            "recipe_hash": sha256(repr(sorted(to_dict(self.recipe).items())).encode()),
            "model": self.recipe.model,
            "epochs": self.recipe.epochs,
            "size": self.recipe.size,
            "start": f"{self.start.path.name} {self.start.sha256}" if self.start else "from scratch",
            "split": bench.split.hash,
            "labels": bench.annotations.hash,
            "sources": bench.sources_hash,
            "architecture": self.architecture,
        }
        return found if self.precision == "fp32" else {**found, "precision": self.precision}

    @cached_property
    def architecture(self) -> str:
        """SHA-256 of the network's description."""
        return architecture_hash(self.recipe)

    def config(self, bench: Bench, row: str, images: str, seed: int) -> RunConfig:
        """Return what one run is."""
        return RunConfig(
            dataset=bench.pairs.dataset,
            row=row,
            seed=seed,
            images=images,
            split=bench.split.hash,
            labels=bench.annotations.hash,
            sources=bench.sources_hash,
            architecture=self.architecture,
            start=self.start.sha256 if self.start else "",
            recipe=self.recipe,
            precision=self.precision,
        )


@dataclass(frozen=True)
class _Run:
    """One training that is wanted."""

    row: InputRow
    config: RunConfig


def train_rows(bench: Bench, rows: Sequence[InputRow], setup: TrainingSetup, runs: Path) -> Outcome:
    """Train a detector for every row and seed that has none, and score all that are there.

    Args:
        bench: what to train and test on.
        rows: kinds of input, with an image for every pair of the bench.
        setup: how to train.
        runs: the folder of all runs.

    Raises:
        BusyError: another command begins at this moment, or trains the same row.
        UsageError: a folder holds a run of other settings, or there is no such model.
        EmmaError: training cannot go on, or an image cannot be used.
    """
    setup = _as_begun(setup, bench, rows, runs)
    table = open_table(bench, runs, setup.identity(bench), [scoring.ANCHOR_FREE_NOTE])
    wanted = _wanted(table, rows, setup, runs)
    configs = _claim(table, wanted)
    table.begin()
    scored = []
    for place, run in wanted.items():
        images, seed = run.config.images, run.config.seed
        with locked(place):
            spent = _train_row(bench, run.row, setup, seed, place) if unfinished(place) else _spent(place)
            scored.append(table.score(place, run.row, images, seed, spent))
            shutil.rmtree(place / WORK, ignore_errors=True)  # served to go on, and holds pickles
    configs = refuse_others(table.path, configs)  # again: another command may have trained other rows meanwhile
    for path, earlier in read_results(table.path).items():
        place = path.parent
        if place in configs and place not in wanted and not unfinished(place):
            scored.append(table.rescore(place, earlier, images_sha256=configs[place].images))
    return summarise(table, rows, scored)


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
        UsageError: it knows none of the classes, or the folder holds rows of other settings.
        EmmaError: an image cannot be used.
    """
    detector = load_detector(weights, size, device)
    recipe = {
        "recipe": "evaluate-only",
        "weights": f"{weights.path.name} {weights.sha256}",
        "size": detector.size,
        "split": bench.test.hash,
        "labels": bench.annotations.hash,
        "sources": bench.test.sources_hash(),
    }
    notes = [scoring.ONE_DETECTOR_NOTE, *_unknown(detector.classes, bench)]
    table = open_table(bench, runs, recipe, notes, comparable=False)
    places = {result_folder(runs, TASK, table.common.dataset, table.common.split, row.name): row for row in rows}
    kept = {path.parent: found for path, found in read_results(table.path).items() if path.parent not in places}
    for place, found in kept.items():
        refuse_difference(place, found.recipe, recipe)
    table.begin()
    scored = [_evaluate_row(table, row, detector, place, device) for place, row in places.items()]
    scored += [table.rescore(place, found) for place, found in kept.items() if not unfinished(place)]
    return summarise(table, rows, scored)


def numbers_by_name(found: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return for each class of a detector the number of that class in the data set, -1 where it has none.

    Raises:
        UsageError: they share no class.
    """
    numbers = [class_number(name, tuple(classes)) for name in found]
    if all(number is None for number in numbers):
        raise UsageError(f"The detector knows {', '.join(found[:8])}, ...; none of {', '.join(classes)}")
    return [-1 if number is None else number for number in numbers]


def _unknown(found: Sequence[str], bench: Bench) -> list[str]:
    """Name the classes that a detector cannot find, which count in the means all the same."""
    known = numbers_by_name(found, bench.classes)
    lost = [name for number, name in enumerate(bench.classes) if number not in known]
    return [f"The detector does not know {', '.join(lost)}: AP 0 there, and in the means."] if lost else []


def _places(
    bench: Bench, rows: Sequence[InputRow], setup: TrainingSetup, runs: Path
) -> dict[Path, tuple[InputRow, int]]:
    """Return the folders of all runs: a seed of every row, then the next."""
    return {
        result_folder(runs, TASK, bench.pairs.dataset, bench.pairs.label, row.name, seed): (row, seed)
        for seed in setup.seeds
        for row in rows
    }


def _as_begun(setup: TrainingSetup, bench: Bench, rows: Sequence[InputRow], runs: Path) -> TrainingSetup:
    """Take over the number format of the detectors that are there: any device can score them once all are trained.

    Raises:
        UsageError: some are not, and would be trained in another.
    """
    folder = table_folder(runs, TASK, bench.pairs.dataset, bench.pairs.label)
    formats = {config.precision for config in configs_in(folder).values()}
    if formats <= {setup.precision}:
        return setup
    if any(map(unfinished, _places(bench, rows, setup, runs))):
        device, other = ("a GPU", "cpu") if setup.device.type == "cuda" else (setup.device.type, "cuda")
        raise UsageError(
            f"{folder}: holds detectors trained in {' and '.join(formats)}, and {device} would train in "
            f"{setup.precision}; go on with --device {other}, or choose another folder with --runs"
        )
    return replace(setup, precision=formats.pop())


def _wanted(table: TableFolder, rows: Sequence[InputRow], setup: TrainingSetup, runs: Path) -> dict[Path, _Run]:
    """Return what is to be there in the end, by folder."""
    bench = table.bench
    images = {row.name: images_sha256(row, bench.pairs.pairs) for row in rows}
    return {
        place: _Run(row, setup.config(bench, row.name, images[row.name], seed))
        for place, (row, seed) in _places(bench, rows, setup, runs).items()
    }


def _claim(table: TableFolder, wanted: Mapping[Path, _Run]) -> dict[Path, RunConfig]:
    """Write what runs are into their folders, if that is what is there or nothing is, and their images can be used.

    Returns:
        What all runs in the folder are.
    """
    configs = {place: run.config for place, run in wanted.items()}
    there = refuse_others(table.path, configs)
    for row in {run.row.name: run.row for place, run in wanted.items() if place not in there}.values():
        check_images(row, table.bench)
    with locked(table.path):  # and looked at again: reading all images takes time, in which another command may begin
        there = refuse_others(table.path, configs)
        for place, config in configs.items():
            if place not in there:
                write_toml(place / CONFIG, config)
    return there | configs


def _spent(place: Path) -> Spent:
    """Return what a finished run took."""
    (found,) = read_results(place).values()
    return Spent(found.seconds, found.environment)


def _train_row(bench: Bench, row: InputRow, setup: TrainingSetup, seed: int, folder: Path) -> Spent:
    """Train a row with one seed, unless its weights are there, and find what there is in its test images."""
    trained_on = environment(setup.device, "ultralytics")
    if (folder / WORK).exists() or not (folder / WEIGHTS).exists():
        network = build_network(setup.recipe, len(bench.classes), seed)
        start: Mapping[str, torch.Tensor] = matching_tensors(network, setup.start)[0] if setup.start else {}
        train, val = (_labelled(bench, row, keys) for keys in (bench.split.train, bench.split.val))
        title = f"{row.name}, seed {seed}"
        train_detector(TrainingTask(title, setup.recipe, seed, bench.classes, train, val, start, folder, setup.device))
    elif done := read_results(folder):  # only what it finds was lost
        trained_on = next(iter(done.values())).environment
    begun = time.perf_counter()
    detector = load_detector(read_weights(folder / WEIGHTS), None, setup.device)
    _predict(bench, row, detector, folder / PREDICTIONS)
    return Spent(logged_seconds(folder / LOG) + time.perf_counter() - begun, trained_on)


def _evaluate_row(table: TableFolder, row: InputRow, detector: Detector, place: Path, device: torch.device) -> Scored:
    begun = time.perf_counter()
    with locked(place):
        _predict(table.bench, row, detector, place / PREDICTIONS)
        images = images_sha256(row, table.bench.test.pairs)
        return table.score(
            place, row, images, None, Spent(time.perf_counter() - begun, environment(device, "ultralytics"))
        )


def _labelled(bench: Bench, row: InputRow, keys: Sequence[str]) -> list[LabelledImage]:
    return [LabelledImage(row.files[key], bench.annotations.images[key]) for key in keys]


def _predict(bench: Bench, row: InputRow, detector: Detector, path: Path) -> None:
    """Run a detector over the test images of a row and write what it finds."""
    numbers = numbers_by_name(detector.classes, bench.classes)
    known = [index for index, number in enumerate(numbers) if number >= 0]
    found = []
    with progress_bar(f"{row.name}: testing", len(bench.split.test)) as advance:
        for pair in bench.test.pairs:
            image = read_fitting(row, pair, bench.annotations.images[pair.key])
            found.append(_renumbered(detector(image, known), numbers))
            advance()
    write_predictions(path, found)


def _renumbered(found: Detections, numbers: Sequence[int]) -> Detections:
    import numpy as np

    return Detections(found.boxes, found.scores, np.array(numbers, np.int64)[found.classes])

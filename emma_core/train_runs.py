"""From what a person asks for to a training run: data, recipe, networks, and the loop.

``train_sensing`` and ``train_fuser`` are what the commands call; a script can call them as well.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from emma_core.checkpoint import load_sensing, load_ufuser
from emma_core.config import to_dict
from emma_core.datasets import dataset_spec, find_pairs, folder_spec, read_split_file
from emma_core.errors import DataError, UsageError
from emma_core.manifest import sha256
from emma_core.scenes import fault, hold_out, open_scenes, with_teachers
from emma_core.stages import StageData, fuser_stage, sensing_stage
from emma_core.training import LAST, SavePolicy, train
from emma_core.training_config import FuserTraining, SensingTraining

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emma_core.checkpoint import CheckpointInfo
    from emma_core.datasets import Fault, Pair, Side
    from emma_core.engine import Engine
    from emma_core.models.ufuser import UFuser
    from emma_core.models.unet import SensingUNet
    from emma_core.scenes import Scene, SceneReader, Scenes
    from emma_core.training import Progress

WARM_START = "warm-start"

MODALITIES: dict[str, Side] = {"ir": "infrared", "vis": "visible"}


@dataclass(frozen=True)
class Source:
    """A data set to train on.

    Attributes:
        name: of the table of data sets; any name with ``folders``.
        root: the folder that holds it.
        folders: instead of root: infrared and visible folder.
        split_file: only the ids that it lists.
        exclude_file: without the ids that it lists.
    """

    name: str
    root: Path = Path()
    folders: tuple[Path, Path] | None = None
    split_file: Path | None = None
    exclude_file: Path | None = None


@dataclass(frozen=True)
class DataRecord:
    """What a run was trained on, as its ``config.toml`` says it.

    Attributes:
        sources: data sets and numbers of pairs.
        teachers: whose fused images were used.
        training: number of pairs trained on.
        validation: number of pairs held out.
        hash: SHA-256 over the pairs of both and their teachers.
    """

    sources: tuple[str, ...]
    teachers: tuple[str, ...]
    training: int
    validation: int
    hash: str


@dataclass(frozen=True)
class TrainingData:
    """Scenes to train and to validate on, what had to be left out, and a record of all."""

    training: tuple[Scene, ...]
    validation: tuple[Scene, ...]
    reader: SceneReader
    record: DataRecord
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class SensingRun:
    """The configuration of a run of stage II."""

    recipe: str
    side: Literal["infrared", "visible"]
    seed: int
    data: DataRecord
    training: SensingTraining = field(default_factory=SensingTraining)


@dataclass(frozen=True)
class FuserRun:
    """The configuration of a run of stage III, or of stage I before it; networks are named by their SHA-256."""

    recipe: str
    seed: int
    data: DataRecord
    infrared_sensing: str
    visible_sensing: str
    initial: str
    training: FuserTraining = field(default_factory=FuserTraining)


@dataclass(frozen=True)
class RunOptions:
    """What both kinds of runs are told.

    Attributes:
        recipe: its name, for the record.
        folder: of the run.
        seed: of all that is random.
        workers: processes that cut crops; 0: none but this.
        policy: when to save.
        quiet: whether to show no progress.
    """

    recipe: str
    folder: Path
    seed: int = 0
    workers: int = 0
    policy: SavePolicy = field(default_factory=SavePolicy)
    quiet: bool = False


@dataclass(frozen=True)
class Weights:
    """A network read from a file, or none, and the SHA-256 of the file."""

    network: UFuser | SensingUNet | None = None
    sha256: str = ""


def find_data(
    sources: Sequence[Source],
    teachers: Sequence[tuple[str, Path]] = (),
    *,
    held_out: int = 8,
    taught: bool = False,
    on_scene: Callable[[], None] = lambda: None,
) -> TrainingData:
    """Find, read and part the data of a run.

    Args:
        sources: the data sets.
        teachers: (name, folder) of fused images, see :func:`emma_core.scenes.with_teachers`.
        held_out: number of pairs to validate on.
        taught: whether pairs without a teacher's image are left out.
        on_scene: called after each pair is read.

    Returns:
        The data. What cannot be read is among the faults.

    Raises:
        DataError: a data set is not where it should be, or not one pair is left.
        UsageError: an unknown data set.
    """
    scenes: list[Scene] = []
    faults: list[Fault] = []
    for source in sources:
        name, pairs, found = _find(source)
        scenes += with_teachers(name, pairs, teachers)
        faults += found
    if taught:
        faults += [fault(scene, "no teacher has an image of it") for scene in scenes if not scene.teachers]
        scenes = [scene for scene in scenes if scene.teachers]
    opened = open_scenes(scenes, on_scene=on_scene)
    if taught:
        opened = opened._replace(scenes=tuple(scene for scene in opened.scenes if scene.teachers))
    training, validation = hold_out(opened.scenes, held_out)
    record = _record(opened, len(training), len(validation))
    return TrainingData(training, validation, opened.reader, record, (*faults, *opened.faults))


def train_sensing(
    engine: Engine, training: SensingTraining, side: Side, data: TrainingData, options: RunOptions
) -> Progress:
    """Run stage II for one sensor, or go on with it.

    Args:
        engine: where to compute.
        training: how.
        side: the sensor.
        data: what on; every scene needs a teacher, or the training a classical rule.
        options: the rest.

    Returns:
        How it went; weights are in ``best.safetensors`` and ``last.safetensors`` of the folder.

    Raises:
        EmmaError: see :func:`emma_core.training.train`.
    """
    run = SensingRun(options.recipe, side, options.seed, data.record, training)
    stage = sensing_stage(engine, training, side, _stage_data(data, run, options))
    return train(stage, options.folder, engine, policy=options.policy, quiet=options.quiet)


def train_fuser(
    engine: Engine,
    training: FuserTraining,
    data: TrainingData,
    options: RunOptions,
    *,
    sensing: tuple[Path, Path] | None = None,
    initial: Path | None = None,
) -> Progress:
    """Run stage III, after stage I if the training has a warm start, or go on with either.

    Args:
        engine: where to compute.
        training: how.
        data: what on; the warm start is towards its teachers, if it has any.
        options: the rest. Stage I has the folder ``warm-start`` inside that of the run.
        sensing: weights of the sensing networks, infrared and visible.
        initial: weights to begin with.

    Returns:
        How stage III went; weights are in ``best.safetensors`` and ``last.safetensors`` of the folder.

    Raises:
        EmmaError: sensing networks are needed, and not given; otherwise see :func:`emma_core.training.train`.
    """
    networks = _sensing_networks(training, sensing)
    start = _read(load_ufuser, initial) if initial else Weights()
    if training.warm_start:
        start = _warm_start(engine, training, data, options, start)
    _fits(start, training)
    hashes = [network.sha256 for network in networks]
    run = FuserRun(options.recipe, options.seed, data.record, hashes[0], hashes[1], start.sha256, training)
    stage = fuser_stage(
        engine,
        training,
        _stage_data(data, run, options),
        sensing=cast("Any", tuple(each.network for each in networks)) if training.loss.senses else None,
        initial=cast("UFuser | None", start.network),
    )
    return train(stage, options.folder, engine, policy=options.policy, quiet=options.quiet)


def _sensing_networks(training: FuserTraining, paths: tuple[Path, Path] | None) -> list[Weights]:
    if training.loss.senses and not paths:
        raise UsageError(
            "The fuser learns through sensing networks: give --sensing-ir FILE and --sensing-vis FILE. "
            "Train them with: emma-tasks train sensing --modality ir (and vis)"
        )
    return [_read(load_sensing, path) for path in paths or ()] or [Weights(), Weights()]


def _warm_start(
    engine: Engine, training: FuserTraining, data: TrainingData, options: RunOptions, initial: Weights
) -> Weights:
    """Run stage I, unless it is done, and return its last weights."""
    taught = tuple(scene for scene in data.training if scene.teachers)
    warm = training.warm(teacher=bool(taught))
    data = replace(data, training=taught or data.training)
    options = replace(options, folder=options.folder / WARM_START)
    _fits(initial, warm)
    run = FuserRun(options.recipe, options.seed, data.record, "", "", initial.sha256, warm)
    stage = fuser_stage(
        engine,
        warm,
        _stage_data(data, run, options),
        initial=cast("UFuser | None", initial.network),
        title="warm start",
    )
    train(stage, options.folder, engine, policy=options.policy, quiet=options.quiet)
    return _read(load_ufuser, options.folder / LAST)


def _fits(weights: Weights, training: FuserTraining) -> None:
    if weights.network is not None and weights.network.config != training.network:
        raise UsageError(
            f"The weights to begin with are of {weights.network.config}, the recipe asks for {training.network}"
        )


def _read(load: Callable[[Path], tuple[Any, CheckpointInfo]], path: Path) -> Weights:
    network, info = load(path)
    return Weights(network, info.sha256)


def _stage_data(data: TrainingData, run: SensingRun | FuserRun, options: RunOptions) -> StageData:
    provenance = {
        "data": "; ".join(data.record.sources),
        "data_sha256": data.record.hash,
        "teachers": ", ".join(data.record.teachers),
        "seed": str(options.seed),
        "config_sha256": sha256(json.dumps(to_dict(run), sort_keys=True).encode()),
    }
    return StageData(
        data.training, data.validation, data.reader, run, options.recipe, options.seed, provenance, options.workers
    )


def _find(source: Source) -> tuple[str, list[Pair], list[Fault]]:
    """Find the pairs of one data set. Where it has a training split, and no list says otherwise, that is taken."""
    if source.folders:
        spec, root = folder_spec(source.name, *source.folders), source.folders[0].parent
    else:
        spec, root = dataset_spec(source.name), source.root
    trains = any(part.name == "train" for part in spec.splits) and source.split_file is None
    found = find_pairs(spec, root, split="train" if trains else None, split_file=source.split_file)
    pairs = list(found.pairs)
    if source.exclude_file:
        pairs = _without(found.dataset, pairs, source.exclude_file)
    return found.dataset, pairs, [replace(each, split=f"{found.dataset}/{each.split}") for each in found.faults]


def _without(name: str, pairs: list[Pair], exclude_file: Path) -> list[Pair]:
    """Leave out what a list names; it may name more than is there, as a complete test list does."""
    listed = set(read_split_file(exclude_file))
    kept = [pair for pair in pairs if not {pair.id, pair.key} & listed]
    if len(kept) == len(pairs):
        raise DataError(f"{exclude_file}: none of {len(listed)} ids is in {name}; nothing would be left out")
    return kept


def _record(opened: Scenes, training: int, validation: int) -> DataRecord:
    counts = Counter(scene.dataset for scene in opened.scenes)
    teachers = {name for scene in opened.scenes for name in scene.teachers}
    sources = tuple(f"{name}: {count} pairs" for name, count in counts.items())
    return DataRecord(sources, tuple(sorted(teachers)), training, validation, opened.hash)

"""From what a person asks for to a training run: recipe, networks, and the loop.

``train_sensing`` and ``train_fuser`` are what the commands call; a script can call them as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from emma_core.checkpoint import load_sensing, load_ufuser
from emma_core.config import to_dict
from emma_core.errors import UsageError
from emma_core.manifest import sha256
from emma_core.stages import StageData, fuser_stage, sensing_stage, sensing_title
from emma_core.train_data import DataRecord  # noqa: TC001 - config.toml is read by the types of its record
from emma_core.training import BEST, CONFIG, LAST, SavePolicy, train
from emma_core.training_config import FuserTraining, SensingTraining
from emma_core.validation import sensing_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emma_core.checkpoint import CheckpointInfo
    from emma_core.datasets import Side
    from emma_core.engine import Engine
    from emma_core.models.ufuser import UFuser
    from emma_core.models.unet import SensingUNet
    from emma_core.train_data import TrainingData
    from emma_core.training import Progress

WARM_START = "warm-start"

Network = TypeVar("Network")


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
class Weights(Generic[Network]):
    """A network read from a file, and what the file says about itself."""

    network: Network
    info: CheckpointInfo


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


def sensing_result(folder: Path) -> tuple[str, list[str]]:
    """Say how good the best network of a finished run of stage II is.

    Returns:
        What it reached, and a line, as of :func:`check_networks`, if that is no better than knowing nothing.

    Raises:
        DataError: the run has no such network.
    """
    info = load_sensing(folder / BEST)[1]
    return sensing_text(*_errors(info)), _doubts([info])


def has_run(folder: Path) -> bool:
    """Tell whether a run was begun in a folder, if only its warm start."""
    return any((place / CONFIG).exists() for place in (folder, folder / WARM_START))


def check_networks(training: FuserTraining, sensing: tuple[Path, Path] | None, initial: Path | None) -> list[str]:
    """Read the networks that :func:`train_fuser` is given, and refuse what it would refuse; arguments as there.

    Returns:
        A line for each sensing network that did no better on held-out pairs than a predictor that knows nothing.

    Raises:
        EmmaError: as :func:`train_fuser`.
    """
    networks = _sensing_networks(training, sensing)
    _fits(_read(load_ufuser, initial) if initial else None, training)
    return _doubts([weights.info for weights in networks if weights])


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
        EmmaError: sensing networks are needed, and not given, or stand for the other sensor; otherwise see
            :func:`emma_core.training.train`.
    """
    infrared, visible = _sensing_networks(training, sensing)
    start = _read(load_ufuser, initial) if initial else None
    if training.warm_start:
        start = _warm_start(engine, training, data, options, start)
    _fits(start, training)
    hashes = (_sha256(infrared), _sha256(visible), _sha256(start))
    run = FuserRun(options.recipe, options.seed, data.record, *hashes, training)
    stage = fuser_stage(
        engine,
        training,
        _stage_data(data, run, options),
        sensing=(infrared.network, visible.network) if infrared and visible and training.loss.senses else None,
        initial=start.network if start else None,
    )
    return train(stage, options.folder, engine, policy=options.policy, quiet=options.quiet)


def _sensing_networks(
    training: FuserTraining, paths: tuple[Path, Path] | None
) -> tuple[Weights[SensingUNet] | None, Weights[SensingUNet] | None]:
    if training.loss.senses and not paths:
        raise UsageError(
            "The fuser learns through sensing networks: give --sensing-ir FILE and --sensing-vis FILE. "
            "Train them with: emma-tasks train sensing --modality ir (and vis)"
        )
    if not paths:
        return None, None
    return _read_sensing("infrared", paths[0], training), _read_sensing("visible", paths[1], training)


def _read_sensing(side: Side, path: Path, training: FuserTraining) -> Weights[SensingUNet]:
    """Read a sensing network; refuse one that stands for the other sensor, or cannot take the crops."""
    weights = _read(load_sensing, path)
    other: Side = "visible" if side == "infrared" else "infrared"
    if weights.info.provenance.get("stage") == sensing_title(other):
        raise UsageError(
            f"{path}: is the {other} sensing network, and is given as the {side} one; "
            "exchange --sensing-ir and --sensing-vis, or give another file"
        )
    if training.loss.senses and training.crops.size % weights.network.stride:
        raise UsageError(
            f"{path}: takes images whose sides are multiples of {weights.network.stride} pixels; "
            f"expected such crops.size, found {training.crops.size}"
        )
    return weights


def _errors(info: CheckpointInfo) -> tuple[float, float, float]:
    """Return what a sensing network reached, and what a constant grey and the fused image itself would."""
    l1, constant, copy = (float(info.provenance.get(name, "nan")) for name in ("l1", "constant", "copy"))
    return l1, constant, copy


def _doubts(infos: Sequence[CheckpointInfo]) -> list[str]:
    return [doubt for info in infos if (doubt := _doubt(info))]


def _doubt(info: CheckpointInfo) -> str:
    """Say where a sensing network did no better than a predictor it was validated beside; nothing if it did."""
    l1, constant, copy = _errors(info)
    rivals = [f"a constant grey ({constant:.3f})"] * (l1 >= constant)
    rivals += [f"the fused image itself ({copy:.3f})"] * (l1 >= copy)
    return (
        f"{info.path}: its answers to held-out pairs (mean absolute error {l1:.3f}) are no better than "
        f"{' or '.join(rivals)}; the fuser learns little from it; train it longer: "
        "train sensing with more --epochs or --steps, into another --out"
    ) * bool(rivals)


def _warm_start(
    engine: Engine,
    training: FuserTraining,
    data: TrainingData,
    options: RunOptions,
    initial: Weights[UFuser] | None,
) -> Weights[UFuser]:
    """Run stage I, unless it is done, and return its last weights."""
    taught = tuple(scene for scene in data.training if scene.teachers)
    warm = training.warm(teacher=bool(taught))
    data = replace(data, training=taught or data.training)
    options = replace(options, folder=options.folder / WARM_START)
    _fits(initial, warm)
    run = FuserRun(options.recipe, options.seed, data.record, "", "", _sha256(initial), warm)
    stage = fuser_stage(
        engine,
        warm,
        _stage_data(data, run, options),
        initial=initial.network if initial else None,
        title="warm start",
    )
    train(stage, options.folder, engine, policy=options.policy, quiet=options.quiet)
    return _read(load_ufuser, options.folder / LAST)


def _fits(weights: Weights[UFuser] | None, training: FuserTraining) -> None:
    if weights and weights.network.config != training.network:
        raise UsageError(
            f"The weights to begin with are of {weights.network.config}, the recipe asks for {training.network}"
        )


def _read(load: Callable[[Path], tuple[Network, CheckpointInfo]], path: Path) -> Weights[Network]:
    return Weights(*load(path))


def _sha256(weights: Weights[Any] | None) -> str:
    return weights.info.sha256 if weights else ""


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

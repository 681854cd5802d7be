"""THE training loop: rate, step, log, validate, save. What differs between trainings is a :class:`Stage`.

A run lives in one folder: ``config.toml``, ``log.jsonl`` and TensorBoard events, ``pictures/``, ``best`` and ``last``
checkpoints, and ``state.safetensors``, from which the same command goes on. Whatever is random is a function of the
seed and the step (:mod:`emma_core.chance`), so a run that was killed ends with the bytes of one that was not.
"""

from __future__ import annotations

import contextlib
import math
import time
import tomllib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from emma_core.chance import seeded
from emma_core.config import to_dict, write_toml
from emma_core.errors import EmmaError
from emma_core.files import read_text
from emma_core.images import remove_temporary_files
from emma_core.manifest import locked
from emma_core.training_log import PICTURES, TrainingLog
from emma_core.training_state import load_state, restore, save_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from _typeshed import DataclassInstance
    from torch import nn

    from emma_core.engine import Engine
    from emma_core.images import FloatImage

CONFIG, STATE, BEST, LAST = "config.toml", "state.safetensors", "best.safetensors", "last.safetensors"

DIVERGED = 10.0
"""A run stops when its smoothed loss is so many times the lowest it had."""

_HASHES = {"data.hash": "images", "images_sha256": "images", "labels_sha256": "labels", "split_sha256": "pairs"}
"""What a person calls what the hashes in a configuration are of."""

_MEMORY, _WARM_UP = 0.98, 100  # of the smoothed loss; steps before it is trusted


class TrainingError(EmmaError):
    """Training cannot go on: the loss is no number or grows, or the folder belongs to another run."""


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        values: to be logged.
        score: higher is better; decides which checkpoint is ``best``.
        picture: to look at, (H, W) in [0, 1].
        text: the same for whoever watches, in words; by default the values and the score.
    """

    values: Mapping[str, float]
    score: float
    picture: FloatImage | None = None
    text: str = ""


@dataclass(frozen=True)
class Stage:
    """What one training puts into the loop.

    Attributes:
        title: for whoever watches.
        config: everything that decides the result; written as ``config.toml``, and compared by a run that goes on.
        seed: of all that is random.
        module: what is trained.
        optimizer: over its parameters.
        steps: number of steps.
        accumulate: batches in one step.
        rate: learning rate of step 0, 1, ...
        batches: batches from some step on, this process's part, without end.
        step: computes the losses of a batch, ``loss`` among them, and calls ``engine.backward``; its second argument
            numbers the batches of all processes and steps.
        validate: called with the module in evaluation mode.
        validate_steps: steps between two validations.
        save: writes the weights of the module to a path; the second argument says how they came about.
        clip: largest norm of the gradient, or None.
    """

    title: str
    config: DataclassInstance
    seed: int
    module: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    rate: Callable[[int], float]
    batches: Callable[[int], Iterator[Any]]
    step: Callable[[Any, int], Mapping[str, torch.Tensor]]
    validate: Callable[[], Validation]
    validate_steps: int
    save: Callable[[Path, Mapping[str, str]], None]
    accumulate: int = 1
    clip: float | None = None


@dataclass
class Progress:
    """How far a run is; kept with the weights.

    Attributes:
        step: number of steps done.
        best: highest score so far.
        best_step: where.
        smooth: smoothed loss.
        lowest: the lowest it was.
        processes: number of those that share each step.
    """

    step: int = 0
    best: float = -math.inf
    best_step: int = 0
    smooth: float = math.nan
    lowest: float = math.inf
    processes: int = 1

    def watch(self, loss: float, norm: float) -> str:
        """Take notice of the next loss; return what is wrong with it, or nothing."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"the loss is {loss}, the norm of its gradient {norm}"
        self.smooth = loss if math.isnan(self.smooth) else _MEMORY * self.smooth + (1 - _MEMORY) * loss
        if self.step >= _WARM_UP:
            self.lowest = min(self.lowest, self.smooth)
        return f"the loss rose from {self.lowest:.4g} to {self.smooth:.4g}" * (self.smooth > DIVERGED * self.lowest)


@dataclass(frozen=True)
class SavePolicy:
    """When a run writes.

    Attributes:
        seconds: between two saves of its state; it is also saved after every validation.
        steps: between two saves, if given.
        log_steps: between two lines of the log.
    """

    seconds: float = 120.0
    steps: int | None = None
    log_steps: int = 10


def train(
    stage: Stage, folder: Path, engine: Engine, *, policy: SavePolicy = SavePolicy(), quiet: bool = False
) -> Progress:
    """Train, or go on training, in a folder; return at once if it is done already.

    Args:
        stage: what to train.
        folder: of the run.
        engine: where to compute.
        policy: when to save and to log.
        quiet: whether to show no progress.

    Returns:
        How it went.

    Raises:
        BusyError: another process works in the folder.
        TrainingError: the folder belongs to another run, or the loss is no number or diverges; what was good is kept.
    """
    with _opened(stage, folder, engine) as progress, _log(stage, folder, engine, progress, quiet) as log:
        batches, saved = stage.batches(progress.step), time.perf_counter()
        while progress.step < stage.steps:
            rate = stage.rate(progress.step)
            for group in stage.optimizer.param_groups:
                group["lr"] = rate * group.get("rate_factor", 1.0)
            values = _backward(stage, folder, engine, batches, progress)
            stage.optimizer.step()
            progress.step += 1
            if log:
                log.tick(progress.step, values["loss"])
                if _due(progress.step, stage.steps, policy.log_steps):
                    log.step(progress.step, {**values, "rate": rate})
                if checked := _due(progress.step, stage.steps, stage.validate_steps):
                    _validate(stage, folder, progress, log)
                late = time.perf_counter() - saved > policy.seconds
                if checked or late or (policy.steps and _due(progress.step, stage.steps, policy.steps)):
                    _save(stage, folder, progress)
                    saved = time.perf_counter()
        engine.wait()
    return progress


def _due(step: int, steps: int, every: int) -> bool:
    return step % every == 0 or step == steps


def _backward(
    stage: Stage, folder: Path, engine: Engine, batches: Iterator[Any], progress: Progress
) -> dict[str, float]:
    """Compute the gradients of one step; nothing is changed yet, so what is wrong with them does no harm."""
    stage.module.train()
    stage.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, torch.Tensor] = {}
    for part in range(stage.accumulate):
        turn = (progress.step * stage.accumulate + part) * engine.world + engine.rank
        with seeded(stage.seed, "step", turn):
            losses = stage.step(engine.to_device(next(batches)), turn)
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0) + loss.detach() / stage.accumulate
    parameters = [parameter for group in stage.optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad /= stage.accumulate  # the mean over the parts, as the losses are
    engine.average_gradients(stage.module)
    sums["norm"] = torch.nn.utils.clip_grad_norm_(parameters, math.inf if stage.clip is None else stage.clip)
    values = engine.average(sums)
    if wrong := progress.watch(values["loss"], values["norm"]):
        kept = "what was saved before is kept" if (folder / STATE).exists() else "nothing had been saved"
        raise TrainingError(
            f"{stage.title}: stopped at step {progress.step + 1}, {wrong}; {kept}. "
            "Try a lower learning rate, in another folder"
        )
    return values


def _validate(stage: Stage, folder: Path, progress: Progress, log: TrainingLog) -> None:
    stage.module.eval()
    found = stage.validate()
    log.validation(progress.step, {**found.values, "score": found.score}, found.picture, found.text)
    about = {"step": str(progress.step), "score": f"{found.score:.6g}"}
    stage.save(folder / LAST, about)
    if found.score > progress.best:
        progress.best, progress.best_step = found.score, progress.step
        stage.save(folder / BEST, about)


def _save(stage: Stage, folder: Path, progress: Progress) -> None:
    state = {
        "progress": asdict(progress),
        "module": stage.module.state_dict(),
        "optimizer": stage.optimizer.state_dict(),
    }
    save_state(folder / STATE, state)


@contextlib.contextmanager
def _opened(stage: Stage, folder: Path, engine: Engine) -> Iterator[Progress]:
    """Hold the folder for this run, and take up its state."""
    with contextlib.ExitStack() as stack:
        if engine.main:
            stack.enter_context(locked(folder))
            folder.mkdir(parents=True, exist_ok=True)
            for place in (folder, folder / PICTURES):
                remove_temporary_files(place)
            _claim(folder, stage.config)
        engine.wait()
        progress = Progress(processes=engine.world)
        if (folder / STATE).exists():
            state = load_state(folder / STATE)
            progress = Progress(**state["progress"])
            if progress.step < stage.steps and progress.processes != engine.world:
                raise TrainingError(
                    f"{folder}: was begun with --num_processes {progress.processes}, now {engine.world}: its steps "
                    "would see other images; go on with as many as before, or choose another folder"
                )
            restore(stage.module, stage.optimizer, state)
        yield progress


@contextlib.contextmanager
def _log(stage: Stage, folder: Path, engine: Engine, progress: Progress, quiet: bool) -> Iterator[TrainingLog | None]:
    """Open the log in the process that writes."""
    if not engine.main:
        yield None
        return
    with TrainingLog(folder, progress.step, stage.steps, stage.title, quiet=quiet) as log:
        yield log


def _claim(folder: Path, config: DataclassInstance) -> None:
    """Write the configuration into the folder of a run, or make sure that it is the one that is there."""
    path = folder / CONFIG
    if not path.exists():
        if (folder / STATE).exists():
            raise TrainingError(f"{folder}: holds the state of a run, but no {CONFIG}; choose another folder")
        write_toml(path, config)
        return
    try:
        found = _flat(tomllib.loads(read_text(path)))
    except (OSError, ValueError, RecursionError):
        raise TrainingError(f"{path}: cannot be read; choose another folder") from None
    wanted = {key: value for key, value in _flat(to_dict(config)).items() if value is not None}
    different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if different:
        key, more = different[0], f", and {len(different) - 1} more" if different[1:] else ""
        raise TrainingError(
            f"{folder}: belongs to a run with another configuration ({_said(key, found, wanted)}{more}); "
            "choose another folder (--out or --runs), or remove it"
        )


def _said(key: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say how a value differs; of a hash, whose digits tell nobody anything, what it is of."""
    if key in _HASHES:
        return f"the {_HASHES[key]} changed"
    return f"{key}: {found.get(key)!r}, now {wanted.get(key)!r}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat

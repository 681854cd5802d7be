"""How fast pairs are fused, beside the plain network: time, peak memory, and how close the output is.

Every way runs in a process of its own, so that its memory is its own; they take turns, so that whatever else the
machine does hits all. In ``network`` the images are in memory; in ``files`` pairs are read, fused and written. The
plain ways (:mod:`emma_core.benchmark_plain`) fuse one pair after the other with all cores inside it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from emma_core.chance import seeded
from emma_core.checkpoint import save_checkpoint
from emma_core.config import network_recipe
from emma_core.errors import EmmaError
from emma_core.fusers import SHIPPED_WEIGHTS
from emma_core.images import read_image, write_atomic
from emma_core.models.ufuser import UFuser
from emma_core.runtime import cpu_name, resolve_device
from emma_core.samples import write_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Run = Callable[[], None]
    Arrays = list[NDArray[np.float32]]

TOLERANCE = 1e-4
"""Largest difference, in a range of 0 to 1, that the library's network may have to the plain one in fp32."""


@dataclass(frozen=True)
class Job:
    """What is measured.

    Attributes:
        height: of the images [pixels].
        width: likewise.
        pairs: fused in a turn.
        repeats: timed turns of each way, after one that is not.
        recipe: widths of the network: ``released`` or ``paper``, or what it is called where ``weights`` are given.
        weights: checkpoint; by default the shipped one for ``released`` and untrained weights for others.
        device: where to compute.
        threads: of torch; by default one for every core.
    """

    height: int
    width: int
    pairs: int = 4
    repeats: int = 3
    recipe: str = "released"
    weights: Path | None = None
    device: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class Figures:
    """What one way needed; a line of the CSV.

    Attributes:
        stage: ``network`` or ``files``.
        way: its name.
        height: of the images [pixels].
        width: likewise.
        recipe: of the job.
        seconds: for a pair, median over the turns.
        pairs_per_second: its inverse.
        ratio: to the plain way of the same stage; above 1 is faster.
        peak_mib: most memory of the process, or of the allocator of a GPU [MiB].
        working_mib: of it, what came on top of the loaded program [MiB].
        memory_ratio: of ``working_mib`` to that of the plain way; below 1 is smaller.
        psnr: of the output to the plain way's, over all pairs [dB]; infinite where both are equal.
        difference: largest one to it, in a range of 0 to 1.
        tflops: additions and multiplications of the network [10^12 / s]; NaN in ``files``.
    """

    stage: str
    way: str
    height: int
    width: int
    recipe: str
    seconds: float
    pairs_per_second: float
    ratio: float
    peak_mib: float
    working_mib: float
    memory_ratio: float
    psnr: float
    difference: float
    tflops: float


class Way(NamedTuple):
    """Something that is measured: its stage, its name, and whether it is the plain one or a precision of ours."""

    stage: str
    name: str
    precision: str | None


WAYS = (
    Way("network", "plain", None),
    Way("network", "fp32", "fp32"),
    Way("network", "bf16", "bf16"),
    Way("files", "plain loop", None),
    Way("files", "fuse-dataset, fp32", "fp32"),
    Way("files", "fuse-dataset", "auto"),
)
"""In the order of the table; the first of a stage is what the others are compared with."""


class Turn(NamedTuple):
    """What a way needed for all pairs: seconds, peak memory so far and before the first turn [MiB]."""

    seconds: float
    peak: float
    loaded: float


def machine(device: str = "auto") -> str:
    """Name the processor, its cores, the GPU if it is used, and versions, in one line."""
    place = resolve_device(device)
    names = [f"{cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"]
    if place.type == "cuda":
        names.append(torch.cuda.get_device_name(place))
    packages = (f"{name} {version(name)}" for name in ("emma-tasks", "torch", "numpy"))
    return "; ".join([*names, ", ".join([f"Python {platform.python_version()}", *packages])])


def measure(job: Job, ways: Sequence[Way] = WAYS, on_turn: Callable[[], None] = lambda: None) -> list[Figures]:
    """Measure all ways on rendered street scenes.

    Args:
        job: what to measure.
        ways: which; the first of each stage must be the plain one.
        on_turn: called after every turn of a way, for a progress bar.

    Returns:
        The figures, in the order of the ways.

    Raises:
        EmmaError: our network in fp32 differs from the plain one by more than :data:`TOLERANCE`, or a way failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_samples(place, ["M3FD"], pairs=job.pairs, size=(job.height, job.width))
        job = replace(job, weights=_weights(job, place))
        turns, flops = _take_turns(job, ways, place, on_turn)
        firsts = {way.stage: way for way in reversed(ways)}
        compare = {way: compare_images(_outputs(place, way), _outputs(place, firsts[way.stage])) for way in ways}
    figures = [_figures(job, way, turns[way], turns[firsts[way.stage]], compare[way], flops[way]) for way in ways]
    check_agreement(figures)
    return figures


def write_figures(path: Path, rows: Sequence[Mapping[str, Any]], where: str) -> None:
    """Write rows with the same keys as CSV, to five digits, each with the machine that they are from."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*rows[0], "machine"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        rounded = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}
        writer.writerow(rounded | {"machine": where})
    write_atomic(path, stream.getvalue().encode())


def check_agreement(figures: Sequence[Figures]) -> None:
    """Make sure that our network and the plain one compute the same, or the times mean nothing.

    Raises:
        EmmaError: in fp32 they differ by more than :data:`TOLERANCE`.
    """
    for each in figures:
        if each.stage == "network" and each.way == "fp32" and not each.difference <= TOLERANCE:
            raise EmmaError(f"fp32 differs from the plain network by {each.difference:.1e}; expected {TOLERANCE:.0e}")


def _weights(job: Job, place: Path) -> Path:
    """Return the checkpoint of the job, made if need be."""
    if job.weights is not None:
        return job.weights
    if job.recipe == "released":
        return SHIPPED_WEIGHTS
    path = place / "untrained.safetensors"
    with seeded(0, "benchmark"):
        network = UFuser(network_recipe(job.recipe).ufuser)
    save_checkpoint(path, network, recipe=job.recipe, provenance={"trained": "not"})
    return path


def _take_turns(
    job: Job, ways: Sequence[Way], place: Path, on_turn: Run
) -> tuple[dict[Way, list[Turn]], dict[Way, float]]:
    """Let every way fuse all pairs, one way after the other, again and again; return the turns and the operations."""
    answers: dict[Way, list[Turn]] = {way: [] for way in ways}
    processes = {way: _start(job, way, place) for way in ways}
    try:
        for _ in range(1 + job.repeats):
            for way, process in processes.items():
                answers[way].append(_ask(way, process))
                on_turn()
        flops = {way: float(process.communicate()[0]) for way, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    return answers, flops


def _start(job: Job, way: Way, place: Path) -> subprocess.Popen[str]:
    order = json.dumps([asdict(job), way, str(place)], default=str)
    command = [sys.executable, "-m", "emma_core.benchmark_worker", order]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ours


def _ask(way: Way, process: subprocess.Popen[str]) -> Turn:
    line = _pipe(process.stdout).readline() if _wake(process) else ""
    if not line:
        raise EmmaError(f"{way.stage}, {way.name}: the process ended early, see above")
    return Turn(**json.loads(line))


def _wake(process: subprocess.Popen[str]) -> bool:
    try:
        print(file=_pipe(process.stdin), flush=True)
    except BrokenPipeError:
        return False
    return True


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise EmmaError("a process without pipes")
    return stream


def _figures(
    job: Job,
    way: Way,
    turns: list[Turn],
    plain: list[Turn],
    output: tuple[float, float],
    flops: float,
) -> Figures:
    seconds, of_plain = (statistics.median(turn.seconds for turn in each[1:]) / job.pairs for each in (turns, plain))
    working, of_plain_working = (each[-1].peak - each[0].loaded for each in (turns, plain))
    return Figures(
        way.stage,
        way.name,
        job.height,
        job.width,
        job.recipe,
        seconds,
        1 / seconds,
        of_plain / seconds,
        turns[-1].peak,
        working,
        working / of_plain_working,
        *output,
        flops / seconds / 1e12,
    )


def _outputs(place: Path, way: Way) -> Arrays:
    if way.stage == "network":
        return list(np.load(place / f"{way.name}.npy"))
    return [read_image(path) for path in sorted((place / way.name).rglob("*.png"))]


def compare_images(ours: Arrays, plain: Arrays) -> tuple[float, float]:
    """Return PSNR [dB] and the largest difference of two lists of images in [0, 1]."""
    differences = [one.astype(np.float64) - other for one, other in zip(ours, plain, strict=True)]
    squared = float(np.mean([np.mean(difference**2) for difference in differences]))
    largest = max(float(np.abs(difference).max()) for difference in differences)
    return (-10 * float(np.log10(squared)) if squared else float("inf")), largest

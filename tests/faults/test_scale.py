"""A hundred thousand pairs: memory hardly grows, and the last thousand takes no longer than the first.

Times are reported (``pytest -s``), not asserted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image

from emma_core.datasets import dataset_spec, find_pairs
from emma_core.images import write_image

pytestmark = pytest.mark.timeout(900)  # on a busy machine; half a minute on an idle one

FEW, MANY = 20_000, 100_000
SCORED_FEW, SCORED_MANY = 2_000, 10_000
"""Pairs that are scored: that takes ten times as long as fusing."""

LINKS = 500
"""Names of one file; disks allow some ten thousand."""

RECORD = 4096
"""Bytes that a pair may take: its path objects, its record, the text of the manifest, and the figures of its rows."""

SLACK = 20e6
"""Bytes by which two runs of the same process differ."""


@dataclass(frozen=True)
class Cost:
    """Peak memory of a process [bytes], and its time [s]."""

    memory: int
    seconds: float


def farm(root: Path, count: int) -> Path:
    """Make pairs of 16 x 16 pixels, few files with many names each."""
    for number in range(count):
        for side, shape in (("ir", (16, 16)), ("vi", (16, 16, 3))):
            place = root / side / f"{number:06d}.png"
            if number % LINKS == 0:
                write_image(place, random_image(number, shape))
            else:
                os.link(root / side / f"{number - number % LINKS:06d}.png", place)
    return root


def run(*arguments: str | Path) -> Cost:
    begun = time.monotonic()
    command = [sys.executable, "-m", "emma_core.cli", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return Cost(used.ru_maxrss * 1024, time.monotonic() - begun)


def pace(folder: Path) -> tuple[float, float]:
    """Seconds for a thousand images over the first and the last tenth of a run, by the times of the files."""
    stamps = np.sort([image.stat().st_mtime for image in folder.iterdir()])
    tenth = len(stamps) // 10
    return tuple(float(part[-1] - part[0]) / (tenth - 1) * 1000 for part in (stamps[:tenth], stamps[-tenth:]))


def measure(place: Path, command: str, count: int) -> Cost:
    """Run a command on so many pairs, and say what it took."""
    root, runs = farm(place / "TNO", count), place / "runs"
    begun = time.monotonic()
    assert len(find_pairs(dataset_spec("TNO"), root).pairs) == count
    found = time.monotonic() - begun
    options = ("TNO", "--root", root, "--runs", runs)
    cost = run("fuse-dataset", *options, "--method", "max")
    first, last = pace(runs / "fused" / "TNO" / "max" / "all")
    if command == "evaluate":
        cost = run("evaluate", *options)
    sys.stdout.write(
        f"\n{command}, {count} pairs: found in {found:.1f} s, {cost.seconds:.0f} s, {cost.memory / 2**20:.0f} MiB; "
        f"a thousand fused in {first:.2f} s at first, {last:.2f} s at last\n"
    )
    shutil.rmtree(place)  # pytest would keep it, and take minutes to remove it some day
    return cost


def check(place: Path, command: str, few: int, many: int) -> None:
    """What a process takes before the first pair is hundreds of megabytes; a pair more may cost its records."""
    less, more = (measure(place / str(count), command, count).memory for count in (few, many))
    assert more < less + (many - few) * RECORD + SLACK
    assert more < 1.5 * less + SLACK


def test_memory_of_a_thousand_pairs(tmp_path):
    check(tmp_path, "fuse-dataset", 100, 1000)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("command", "few", "many"), [("fuse-dataset", FEW, MANY), ("evaluate", SCORED_FEW, SCORED_MANY)]
)
def test_memory_of_a_hundred_thousand_pairs(tmp_path, command, few, many):
    check(tmp_path, command, few, many)

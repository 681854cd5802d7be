"""A hundred thousand pairs: a pair more takes its records in memory, and the last is fused as fast as the first.

Figures are printed (``pytest -s``). Of times one is asserted, in the slow part: nothing may grow with what is done.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image

from emma_core.datasets import dataset_spec
from emma_core.images import write_image
from emma_core.pairs import find_pairs

pytestmark = pytest.mark.timeout(900)  # on a busy machine; half a minute on an idle one

FEW, MANY = 20_000, 100_000
SCORED_FEW, SCORED_MANY = 2_000, 100_000
"""Pairs that are scored: that takes ten times as long as fusing."""

METHOD = "laplacian"
"""Not a naive rule: the images of those are not read to be scored."""

LINKS = 500
"""Names of one file; disks allow some ten thousand."""

RECORD = 3072
"""Bytes that a pair may take: its names, its record and checksums, and the figures of its rows."""

SLACK = 20e6
"""Bytes by which two runs of the same process differ."""

SLOWER = 2
"""How much longer the last images may take than the first: far less than if each cost those before it."""


@dataclass(frozen=True)
class Cost:
    """What a command takes.

    Attributes:
        memory: at its peak [bytes].
        seconds: from its start to its end.
        first: seconds for a thousand images of its first tenth; of fusing, whatever the command.
        last: the same of its last tenth.
    """

    memory: int
    seconds: float
    first: float = math.nan
    last: float = math.nan


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


PROGRAM = """
import atexit, sys
from emma_core.cli import main
from emma_core.runtime import memory_mib
atexit.register(lambda: print("\\n", memory_mib("VmHWM"), file=sys.stderr))
main()
"""
"""The command line, which says at its end what memory it took: for the system, its peak begins with that of pytest."""


def run(*arguments: str | Path) -> Cost:
    begun = time.monotonic()
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    return Cost(round(float(done.stderr.split()[-1]) * 2**20), time.monotonic() - begun)


def pace(folder: Path) -> tuple[float, float]:
    """Seconds for a thousand images in the first and in the last tenth of a run, by the times of the files.

    Each tenth is parted in ten, and the quickest part counts: other work on the machine comes and goes.
    """
    stamps = np.sort([image.stat().st_mtime for image in folder.iterdir()])
    tenth = len(stamps) // 10
    step = tenth // 10
    return tuple(float(np.diff(part[::step]).min()) / step * 1000 for part in (stamps[:tenth], stamps[-tenth:]))


def measure(place: Path, command: str, count: int) -> Cost:
    """Run a command on so many pairs, and say what it took."""
    root, runs = farm(place / "TNO", count), place / "runs"
    begun = time.monotonic()
    assert len(find_pairs(dataset_spec("TNO"), root).pairs) == count
    found = time.monotonic() - begun
    options = ("TNO", "--root", root, "--runs", runs)
    cost = run("fuse-dataset", *options, "--method", METHOD)
    first, last = pace(runs / "fused" / "TNO" / METHOD / "all")
    if command == "evaluate":
        cost = run("evaluate", *options)
    sys.stdout.write(
        f"\n{command}, {count} pairs: found in {found:.1f} s, {cost.seconds:.0f} s, {cost.memory / 2**20:.0f} MiB; "
        f"a thousand fused in {first:.2f} s at first, {last:.2f} s at last\n"
    )
    shutil.rmtree(place)  # pytest would keep it, and take minutes to remove it some day
    return replace(cost, first=first, last=last)


SLOW = [pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.mark.parametrize(
    ("command", "few", "many"),
    [
        ("fuse-dataset", 100, 1000),
        pytest.param("fuse-dataset", FEW, MANY, marks=SLOW),
        pytest.param("evaluate", SCORED_FEW, SCORED_MANY, marks=SLOW),
    ],
)
def test_a_pair_more_takes_its_records_and_no_more_time(tmp_path, command, few, many):
    """What a process takes before the first pair is hundreds of megabytes; a pair more may cost its records."""
    less, more = (measure(tmp_path / str(count), command, count) for count in (few, many))
    assert more.memory < less.memory + (many - few) * RECORD + SLACK
    assert more.memory < 1.5 * less.memory + SLACK
    if many == MANY:
        assert more.last < SLOWER * more.first

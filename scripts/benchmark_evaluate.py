"""Time fusing beside scoring on the same rendered pairs, reading and writing included, by the shipped weights.

    python scripts/benchmark_evaluate.py [--pairs 24] [--height 480] [--width 640] [--out FILE.csv]

Scored are IR, VI, mean, max and EMMA by all ten metrics, as ``emma-tasks evaluate`` does. The time of both grows with
the pairs, so the seconds for 361 pairs of MSRS are those of a pair times 361; scoring is meant to take fewer.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from emma_core.benchmark import machine, write_figures
from emma_core.datasets import folder_spec
from emma_core.evaluate import evaluate_dataset
from emma_core.fuse_dataset import fuse_dataset, fused_folder
from emma_core.fusers import load_fuser
from emma_core.pairs import find_pairs
from emma_core.rows import fused_rows
from emma_core.samples import write_samples

if TYPE_CHECKING:
    from collections.abc import Callable

WHOLE = 361
"""Pairs of the test split of MSRS."""


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Fuse, score, and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--out", type=Path, help="file for the figures as CSV")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as place:
        (root,) = write_samples(Path(place), ["M3FD"], options.pairs, size=(options.height, options.width))
        pairs = find_pairs(folder_spec("street", root / "Ir", root / "Vis"), root)
        runs, fuser = Path(place) / "runs", load_fuser(precision="auto")
        folder = fused_folder(runs, pairs.dataset, fuser.method)
        fuse_dataset(pairs.first(2), fuser, Path(place) / "warm-up")
        took = {
            "fuse-dataset": seconds(lambda: fuse_dataset(pairs, fuser, folder)),
            "evaluate, five rows": seconds(lambda: evaluate_dataset(pairs, fused_rows(pairs, runs, naive=False), runs)),
        }
    for name, whole in took.items():
        each = whole / options.pairs
        print(f"{name:20} {each:7.3f} s a pair, {each * WHOLE:6.0f} s for {WHOLE} pairs")
    if options.out:
        sizes = {"height": options.height, "width": options.width, "pairs": options.pairs}
        rows = [{"work": name, **sizes, "seconds": whole / options.pairs} for name, whole in took.items()]
        write_figures(options.out, rows, machine())
    fusing, scoring = took.values()
    verdict = "reached" if scoring < fusing else "missed"
    print(f"scoring takes {scoring / fusing:.2f} of the time of fusing (target below 1: {verdict})")


if __name__ == "__main__":
    main()

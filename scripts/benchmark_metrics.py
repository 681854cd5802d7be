"""Time the library's ten fusion metrics beside a plain numpy and scipy evaluation of the same numbers.

    python scripts/benchmark_metrics.py [--pair IR VIS] [--runs 5] [--threads 1] [--out FILE.csv]

Both see the same triple in the same run, taking turns, scipy on one thread; they must agree to 1e-4. Without ``--pair``
the images are smoothed noise, 576 x 768. The fused image is the pixel-wise maximum.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from plain_metrics import plain_metrics
from scipy.ndimage import gaussian_filter

from emma_core.benchmark import write_figures
from emma_core.images import read_grey
from emma_core.metrics.fusion import fusion_metrics, grey_levels, prepare
from emma_core.runtime import cpu_name

if TYPE_CHECKING:
    from collections.abc import Callable

TOLERANCE = 1e-4
TARGET = 20
"""Times faster than the plain evaluation that the library is meant to be."""


def noise_pair(height: int = 576, width: int = 768, seed: int = 7) -> list[torch.Tensor]:
    """Draw two smooth images, each (1, H, W), float32 in [0, 1]."""
    generator = np.random.default_rng(seed)
    smooth = [gaussian_filter(generator.random((height, width)), 3) for _ in range(2)]
    return [torch.from_numpy((image - image.min()) / np.ptp(image)).float()[None] for image in smooth]


def seconds(evaluate: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    evaluate()
    return time.perf_counter() - start


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, type=Path, metavar=("IR", "VIS"), help="image files of one size")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, of which the median counts")
    parser.add_argument("--threads", type=int, default=1, help="of the library; scipy uses one")
    parser.add_argument("--out", type=Path, help="file for the figures as CSV")
    return parser.parse_args()


def compare(ours: dict[str, float], plain: dict[str, float]) -> float:
    """Print both evaluations side by side and return the largest difference."""
    print(f"{'':6}{'library':>12}{'plain':>12}{'difference':>12}")
    for name, value in plain.items():
        print(f"{name:6}{ours[name]:12.6f}{value:12.6f}{abs(ours[name] - value):12.1e}")
    return max(abs(ours[name] - value) for name, value in plain.items())


def time_in_turns(ways: dict[str, Callable[[], object]], runs: int) -> list[dict[str, Any]]:
    """Print and return the median time of each way, and how many times faster than the first it is."""
    rounds = [{name: seconds(evaluate) for name, evaluate in ways.items()} for _ in range(runs)]
    times = {name: statistics.median(one[name] for one in rounds) for name in ways}
    slowest = times[next(iter(ways))]
    print()
    for name, taken in times.items():
        print(f"{name:40}{taken * 1000:10.1f} ms{slowest / taken:8.1f} x")
    verdict = "reached" if slowest / times["library"] >= TARGET else "missed"
    print(f"target of the library: {TARGET} x, {verdict}")
    return [{"way": name, "seconds": taken, "ratio": slowest / taken} for name, taken in times.items()]


def main() -> int:
    """Compare values, then times; exit status 1 where the values differ."""
    chosen = options()
    torch.set_num_threads(chosen.threads)
    pair = [torch.from_numpy(read_grey(path))[None] for path in chosen.pair] if chosen.pair else noise_pair()
    infrared, visible = (grey_levels(image) for image in pair)
    fused = torch.maximum(infrared, visible)
    arrays = [image[0].numpy() for image in (infrared, visible, fused)]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy"))
    machine = f"{cpu_name()}, threads: {torch.get_num_threads()}; Python {platform.python_version()}, {packages}"
    print(machine)
    print(f"one triple of {fused.shape[1]} x {fused.shape[2]} pixels, medians of {chosen.runs} runs\n")

    prepared = prepare(infrared, visible)
    ours = {name: value.item() for name, value in prepared.evaluate(fused).items()}
    worst = compare(ours, plain_metrics(*arrays))
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: plain_metrics(*arrays),
        "library": lambda: fusion_metrics(infrared, visible, fused),
        "library, next fused image of the pair": lambda: prepared.evaluate(fused),
    }
    figures = time_in_turns(ways, chosen.runs)
    if chosen.out:
        write_figures(chosen.out, figures, machine)
    if not worst <= TOLERANCE:
        print(f"the values differ by {worst:.1e}; expected at most {TOLERANCE:.0e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Fuse pairs in fp32 and in bf16, by the shipped weights, and print how near the results are to each other.

    python scripts/compare_precisions.py IR_DIR VIS_DIR [--pairs 20]

Compared is the fused luma, as it is and rounded to 8 bits, and the metrics of the latter. The pairs are taken evenly
from all that have a mate.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from emma_core.benchmark import compare_images
from emma_core.datasets import folder_spec
from emma_core.fuse import fuse_pair, read_pair
from emma_core.fusers import load_fuser
from emma_core.images import luma
from emma_core.metrics.fusion import METRICS, grey_levels, prepare
from emma_core.pairs import find_pairs


def main() -> None:
    """Fuse in both, and print the range over the pairs, and what the metrics move by."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("infrared", type=Path)
    parser.add_argument("visible", type=Path)
    parser.add_argument("--pairs", type=int, default=20)
    options = parser.parse_args()
    pairs = find_pairs(folder_spec("pairs", options.infrared, options.visible), options.infrared.parent).pairs
    chosen = [pairs[number] for number in np.linspace(0, len(pairs) - 1, min(options.pairs, len(pairs))).astype(int)]
    fusers = [load_fuser(precision=precision) for precision in ("fp32", "bf16")]
    as_is, rounded, moved = [], [], []
    for pair in chosen:
        sources = read_pair(pair)
        images = [fuse_pair(*sources, fuser, colour_from="none") for fuser in fusers]
        levels = [grey_levels(torch.from_numpy(image))[None] for image in images]
        reference = prepare(*(grey_levels(torch.from_numpy(luma(image)))[None] for image in sources))
        exact, coarse = (reference.evaluate(image) for image in levels)
        as_is.append(compare_images(*([image] for image in images)))
        rounded.append(compare_images(*([image.div(255).numpy()] for image in levels)))
        moved.append([(coarse[name] - exact[name]).item() for name in METRICS])
    for label, found in (("as it is", as_is), ("in 8 bits", rounded)):
        decibels, largest = zip(*found, strict=True)
        low, high, middle = min(decibels), max(decibels), np.median(decibels)
        print(f"{label:10} {low:.1f} to {high:.1f} dB, median {middle:.1f}; largest difference {max(largest):.4f} of 1")
    means = zip(METRICS, np.mean(moved, 0), strict=True)
    print(f"metrics in bf16, mean of {len(chosen)} pairs:", ", ".join(f"{name} {mean:+.4f}" for name, mean in means))


if __name__ == "__main__":
    main()

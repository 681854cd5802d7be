"""Fuse pairs in fp32 and in bf16, by the shipped weights, and print how near the results are to each other.

    python scripts/compare_precisions.py IR_DIR VIS_DIR [--pairs 20]

Compared is the fused luma, as it is and rounded to 8 bits. The pairs are taken evenly from all that have a mate.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emma_core.datasets import folder_spec
from emma_core.fuse import fuse_pair, read_pair
from emma_core.fusers import load_fuser
from emma_core.images import to_8bit
from emma_core.pairs import find_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray


def psnr(one: NDArray[np.generic], other: NDArray[np.generic], peak: float) -> float:
    """Peak signal-to-noise ratio of two images [dB]; infinite where they are equal."""
    error = np.square(one.astype(np.float64) - other.astype(np.float64)).mean()
    return float(10 * np.log10(peak**2 / error)) if error else np.inf


def main() -> None:
    """Fuse in both, and print the range over the pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("infrared", type=Path)
    parser.add_argument("visible", type=Path)
    parser.add_argument("--pairs", type=int, default=20)
    options = parser.parse_args()
    pairs = find_pairs(folder_spec("pairs", options.infrared, options.visible), options.infrared.parent).pairs
    chosen = [pairs[number] for number in np.linspace(0, len(pairs) - 1, min(options.pairs, len(pairs))).astype(int)]
    fusers = [load_fuser(precision=precision) for precision in ("fp32", "bf16")]
    as_is, rounded, largest = [], [], 0.0
    for pair in chosen:
        exact, coarse = (fuse_pair(*read_pair(pair), fuser, colour_from="none") for fuser in fusers)
        as_is.append(psnr(exact, coarse, 1))
        rounded.append(psnr(to_8bit(exact), to_8bit(coarse), 255))
        largest = max(largest, float(np.abs(exact - coarse).max()))
    for name, found in (("as it is", as_is), ("in 8 bits", rounded)):
        print(f"{name:10} {min(found):.1f} to {max(found):.1f} dB, median {np.median(found):.1f}")
    print(f"largest difference {largest:.4f} of 1, in {len(chosen)} pairs")


if __name__ == "__main__":
    main()

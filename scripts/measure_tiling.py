"""Measure what tiling changes: difference to the whole image, seams, time and peak memory.

Run: python scripts/measure_tiling.py [--weights FILE] [--size 1536x2048]
Every way runs in a process of its own, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from emma_core.checkpoint import save_checkpoint
from emma_core.config import NETWORK_RECIPES
from emma_core.fuse import OVERLAP, fuse_pair, tile_spans
from emma_core.fusers import load_fuser
from emma_core.images import read_image
from emma_core.models.ufuser import UFuser
from emma_core.runtime import memory_mib
from emma_core.samples import write_samples

TILES = (0, 1024, 512)


def one_way(weights: Path, data: Path, tile: int, out: Path) -> None:
    """Fuse the pair in one way and print seconds and peak memory as JSON."""
    infrared, visible = read_image(data / "M3FD/Ir/00000.png"), read_image(data / "M3FD/Vis/00000.png")
    fuser = load_fuser("EMMA", weights=weights, device="cpu", precision="fp32")
    begun = time.perf_counter()
    fused = fuse_pair(infrared, visible, fuser, colour_from="none", tile=tile)
    seconds = time.perf_counter() - begun
    np.save(out, fused)
    print(json.dumps([seconds, memory_mib("VmHWM") / 2**10]))


def seam_contrast(difference: np.ndarray, tile: int) -> float:
    """Return the step of the difference across the middles of the blended borders, over its step elsewhere."""
    steps = np.abs(np.diff(difference, axis=1)).mean(axis=0)
    spans = tile_spans(difference.shape[1], tile)
    seams = [span.start + OVERLAP // 2 for span in spans[1:]]
    return float(steps[seams].mean() / steps.mean()) if seams else float("nan")


def main() -> None:
    """Compare the ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="by default untrained weights of the released widths")
    parser.add_argument("--size", default="1536x2048", help="height x width in pixels")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        weights, data, tile, out = arguments.one
        one_way(Path(weights), Path(data), int(tile), Path(out))
        return
    height, width = map(int, arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_samples(place, ["M3FD"], pairs=1, size=(height, width))
        weights = arguments.weights or _untrained(place / "untrained.safetensors")
        print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads; {height} x {width}")
        print("| tile | seconds | peak GiB | PSNR to whole [dB] | largest difference | step at seams / elsewhere |")
        print("|---|---|---|---|---|---|")
        whole = None
        for tile in TILES:
            out = place / f"{tile}.npy"
            command = [sys.executable, __file__, "--one", str(weights), str(place), str(tile), str(out)]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds, gib = json.loads(run.stdout.splitlines()[-1])
            fused = np.load(out)
            whole = fused if whole is None else whole
            print(f"| {tile or 'none'} | {seconds:.1f} | {gib:.1f} | {_compare(fused, whole, tile)} |")


def _compare(fused: np.ndarray, whole: np.ndarray, tile: int) -> str:
    if not tile:
        return "- | - | -"
    difference = fused - whole
    psnr = -10 * np.log10(np.mean(difference**2))
    return f"{psnr:.1f} | {np.abs(difference).max():.4f} | {seam_contrast(difference, tile):.2f}"


def _untrained(path: Path) -> Path:
    torch.manual_seed(0)  # noqa: TID251 - a script of its own; initial weights take no generator
    recipe = "released"
    save_checkpoint(path, UFuser(NETWORK_RECIPES[recipe].ufuser), recipe=recipe, provenance={"trained": "not"})
    return path


if __name__ == "__main__":
    main()

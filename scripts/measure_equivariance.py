"""Measure how equivariant fusion networks are, on pairs that they were not trained on.

    python scripts/measure_equivariance.py NAME=WEIGHTS ... --sensing-ir FILE --sensing-vis FILE
        --root DIR --split-file FILE [--pairs 20]

Two figures for each network, in grey levels, mean absolute differences over pairs, transforms and pixels:

- fuse, then transform, against transform, then fuse: the fuser alone;
- the term that EMMA minimises: a transformed fused image against what is fused from what the sensing networks make
  of it (arXiv:2305.11443, Eq. 4).

Transforms are those of the released code (shifts, rotations, reflections), from a fixed seed. Rotations leave black
corners, where a comparison would be of black with black: only the largest circle inside the image is compared.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from emma_core.chance import torch_stream
from emma_core.checkpoint import load_sensing, load_ufuser
from emma_core.datasets import dataset_spec
from emma_core.equivariance import draw
from emma_core.images import read_grey
from emma_core.pairs import find_pairs
from emma_core.stages import Sensing, freeze
from emma_core.training_config import training_recipe

SIDE = 256
"""Side of the squares that are compared, from the middle of each image [pixels]."""


def middle(path: Path) -> torch.Tensor:
    """Read the middle of an image: (1, 1, SIDE, SIDE) in [0, 1]."""
    image = read_grey(path)
    top, left = ((length - SIDE) // 2 for length in image.shape)
    return torch.from_numpy(np.ascontiguousarray(image[top : top + SIDE, left : left + SIDE]))[None, None]


def disc() -> torch.Tensor:
    """Return the mask of the largest circle inside a square: (SIDE, SIDE) bool."""
    place = torch.arange(SIDE) - (SIDE - 1) / 2
    return place[:, None] ** 2 + place[None, :] ** 2 <= (SIDE / 2 - 2) ** 2


def main() -> None:
    """Measure all networks on the same crops and transforms, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", help="NAME=WEIGHTS")
    parser.add_argument("--sensing-ir", type=Path, required=True)
    parser.add_argument("--sensing-vis", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True, help="of MSRS")
    parser.add_argument("--split-file", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=20)
    options = parser.parse_args()
    found = find_pairs(dataset_spec("MSRS"), options.root, split_file=options.split_file).pairs
    pairs = [(middle(pair.infrared), middle(pair.visible)) for pair in found[:: max(1, len(found) // options.pairs)]]
    sensing = Sensing(*(freeze(load_sensing(path)[0]) for path in (options.sensing_ir, options.sensing_vis)))
    mask, config = disc(), training_recipe("released").fuser.transforms
    print(f"{len(pairs)} pairs, {config.copies - 1} transforms\n| | fuser alone | EMMA's term |\n|---|---|---|")
    for name, _, path in (text.partition("=") for text in options.weights):
        fuser = load_ufuser(Path(path))[0].eval()
        alone, term = [], []
        with torch.inference_mode():
            for number, (infrared, visible) in enumerate(pairs):
                fused = fuser(infrared, visible)
                for transform in draw(config, SIDE, SIDE, torch_stream(0, "measure", number))[1:]:
                    turned = transform.apply(fused)
                    direct = fuser(transform.apply(infrared), transform.apply(visible))
                    again = fuser(*sensing(turned))
                    alone.append((direct - turned).abs()[0, 0][mask].mean().item())
                    term.append((again - turned).abs()[0, 0][mask].mean().item())
        print(f"| {name} | {255 * np.mean(alone):.2f} | {255 * np.mean(term):.2f} |")


if __name__ == "__main__":
    main()

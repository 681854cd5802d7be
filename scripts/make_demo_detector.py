"""Train what the detectors of the demo begin with.

    python scripts/make_demo_detector.py WORK

A fresh clone has no weights of a detector, and a few dozen scenes do not teach one from scratch. So a small one is
trained on 600 other rendered scenes, a third of them infrared, a third visible, a third fused by EMMA, and shipped
as detection/demo_start.safetensors. Every row of the demo begins with it, so it favours none. WORK is a folder for
everything else; a run that was stopped goes on in it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detection.bench import open_bench
from detection.command import DEMO_START
from detection.offline import keep_to
from detection.recipes import RECIPES
from detection.splits import make_split
from detection.weights import read_weights, save_detector
from emma_core.datasets import dataset_spec
from emma_core.errors import CheckpointError
from emma_core.fuse_dataset import fuse_dataset
from emma_core.fusers import load_fuser
from emma_core.pairs import find_pairs
from emma_core.rows import InputRow
from emma_core.runtime import resolve_device
from emma_core.samples import write_samples

if TYPE_CHECKING:
    from emma_core.pairs import PairSet

RECIPE = replace(
    RECIPES["demo"],
    epochs=60,
    batch=16,
    nominal_batch=16,
    learning_rate=4e-3,
    mosaic=0.3,
    plain_epochs=15,
    scale=0.4,
    validate=True,
)
SCENES = 600
SEED = 1
"""Of the scenes; the demo's is 0."""


def make_start(work: Path) -> None:
    """Render scenes, fuse a third of them, train on the mixture, and write the weights in half precision."""
    keep_to(work)  # before ultralytics is loaded
    from detection.run import TrainingSetup, train_rows
    from detection.yolo import WEIGHTS

    (root,) = write_samples(work / "data", ["M3FD"], SCENES, seed=SEED)
    found = find_pairs(dataset_spec("M3FD"), root)
    row = InputRow("mixed", _mixture(found, work / "fused"), {"images": "infrared, visible and EMMA in turns"})
    bench = open_bench(found, lambda labelled: make_split(labelled, "blocks"))
    outcome = train_rows(
        bench, (row,), TrainingSetup("start", RECIPE, (0,), None, resolve_device(), "fp32"), work / "runs"
    )
    weights = read_weights(outcome.folder / row.name / "seed0" / WEIGHTS)
    if weights.info is None:
        raise CheckpointError(f"{weights.path}: not the weights of a detector that was trained here")
    halves = {name: each.half() if each.is_floating_point() else each for name, each in weights.tensors.items()}
    save_detector(DEMO_START, halves, weights.info)


def _mixture(pairs: PairSet, folder: Path) -> dict[str, Path]:
    """Fuse every third pair, and return one image a pair: infrared, visible and fused in turns."""
    fuse_dataset(replace(pairs, pairs=pairs.pairs[2::3]), load_fuser("EMMA"), folder)
    turns = [(pair.infrared, pair.visible, folder / f"{pair.key}.png") for pair in pairs.pairs]
    return {pair.key: turns[number][number % 3] for number, pair in enumerate(pairs.pairs)}


if __name__ == "__main__":
    make_start(Path(sys.argv[1]))

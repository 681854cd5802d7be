"""Small trainings that the tests run: configurations, networks, and runs on the pairs of ``trainable``."""

from __future__ import annotations

from pathlib import Path

import torch

from emma_core.chance import seeded
from emma_core.config import SensingConfig, UFuserConfig
from emma_core.engine import Engine
from emma_core.models.unet import SensingUNet
from emma_core.train_data import Source, find_data
from emma_core.train_runs import RunOptions, train_fuser, train_sensing
from emma_core.training import BEST, CONFIG, LAST, STATE, SavePolicy
from emma_core.training_config import CropConfig, FuserTraining, FusionLoss, Schedule, SensingTraining, TransformConfig
from emma_core.training_log import LOG, read_log

TINY = UFuserConfig((8, 8, 8, 8))
TINY_SENSING = SensingConfig((4, 8))
SET = TransformConfig(identity=True, shifts=1, rotations=1, angles=(10.0, 130.0), reflections=0)
CROPS = CropConfig(size=16, flips=True, exposure=0.2)
SHORT = Schedule(steps=6, batch=2, learning_rate=1e-3, clip=1.0, validate_epochs=3)
FUSER = FuserTraining(TINY, FusionLoss("l1+gradient", equivariance=2.0), SET, crops=CROPS, schedule=SHORT)
SENSING = SensingTraining(TINY_SENSING, classical=("max",), crops=CROPS, schedule=SHORT)
OFTEN = SavePolicy(steps=2, log_steps=1)


def sensing_network(seed: int = 0) -> SensingUNet:
    """A network whose normalisation has seen something, so that folding it matters."""
    with seeded(seed, "test"):
        network = SensingUNet(TINY_SENSING)
        for _ in range(3):
            network(torch.rand(4, 1, 32, 32))
    return network.eval()


def data_of(root: Path, **options):
    return find_data([Source("mine", folders=(root / "ir", root / "vi"))], held_out=2, **options)


def run_fuser(
    root: Path, folder: Path, training: FuserTraining = FUSER, *, engine=None, seed=0, policy=OFTEN, initial=None
):
    options = RunOptions("test", folder, seed=seed, policy=policy, quiet=True)
    engine = engine or Engine("cpu", training.schedule.precision)
    sensing = (root / "Ai.safetensors", root / "Av.safetensors")
    return train_fuser(engine, training, data_of(root), options, sensing=sensing, initial=initial)


def run_sensing(root: Path, folder: Path, training: SensingTraining = SENSING, *, policy=OFTEN):
    options = RunOptions("test", folder, policy=policy, quiet=True)
    return train_sensing(Engine("cpu", training.schedule.precision), training, "infrared", data_of(root), options)


def results(folder: Path) -> dict[str, object]:
    """Everything a run leaves but the time it took."""
    files = {name: (folder / name).read_bytes() for name in (CONFIG, STATE, BEST, LAST)}
    pictures = {file.name: file.read_bytes() for file in folder.glob("pictures/*.png")}
    log = [{key: value for key, value in line.items() if key != "seconds"} for line in read_log(folder / LOG)]
    return {**files, **pictures, "log": log}

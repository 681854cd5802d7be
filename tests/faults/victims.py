"""The commands that the fault tests break, each on rendered or made-up data that takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from conftest import write_pairs

from emma_core.samples import write_samples

TINY_SENSING = """
classical = ["max"]
[network]
channels = [4, 8]
[crops]
size = 16
[schedule]
batch = 2
validate_epochs = 3
"""
TINY_SEGMENTER = """
size = [64, 96]
crop = [64, 64]
[network]
encoder_weights = "none"
decoder_channels = 16
[schedule]
epochs = 4
frozen_epochs = 0
batch = 2
warm_up_epochs = 0
final_epochs = 0
"""
TINY_DETECTOR = """
model = "yolov5n"
width = 0.0625
size = 64
epochs = 8
batch = 4
nominal_batch = 4
"""


@dataclass(frozen=True)
class Victim:
    """A command without its output folder.

    Attributes:
        command: its arguments, up to the option that names the output folder.
        place: what it fills, below that folder.
    """

    command: tuple[str, ...]
    place: str

    def arguments(self, out: Path) -> list[str]:
        return [sys.executable, "-m", "emma_core.cli", *self.command, str(out)]

    def start(self, out: Path, **options: object) -> subprocess.Popen[str]:
        """Start the command on one core in a process of its own."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
        return subprocess.Popen(self.arguments(out), env=environment, **{**pipes, **options})

    def run(self, out: Path) -> subprocess.CompletedProcess[str]:
        process = self.start(out)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def fuse_dataset(world: Path, pairs: int = 24) -> Victim:
    root = write_pairs(world / "TNO", pairs, shape=(240, 320))
    command = ("fuse-dataset", "TNO", "--root", str(root), "--method", "guided", "--runs")
    return Victim(command, "fused/TNO/guided")


def train(world: Path) -> Victim:
    root = write_pairs(world / "mine", 8, shape=(48, 56))
    (world / "sensing.toml").write_text(TINY_SENSING)
    command = ["train", "sensing", "--modality", "ir", "--data", f"mine={root / 'ir'},{root / 'vi'}", "--held-out", "2"]
    command += ["--recipe", "quick", "--config", str(world / "sensing.toml"), "--steps", "60", "--save-seconds", "0"]
    return Victim((*command, "--out"), "")


def segment(world: Path) -> Victim:
    root = write_samples(world / "segment", ["MSRS"], 6, size=(64, 96))[0]
    (world / "segmenter.toml").write_text(TINY_SEGMENTER)
    command = ["segment", "MSRS", "--root", str(root), "--ir", "--vis", "--config", str(world / "segmenter.toml")]
    return Victim((*command, "--save-seconds", "0", "--runs"), "segment/MSRS-sample/test")


def detect(world: Path) -> Victim:
    root = write_samples(world / "detect", ["M3FD"], 12, size=(96, 128))[0]
    (world / "detector.toml").write_text(TINY_DETECTOR)
    command = ["detect", "--root", str(root), "--ir", "--vis", "--split", "thirds"]
    return Victim((*command, "--config", str(world / "detector.toml"), "--runs"), "detect/M3FD-sample/thirds")


VICTIMS = {"fuse-dataset": fuse_dataset, "train": train, "segment": segment, "detect": detect}

"""The commands that the fault tests break, each on rendered or made-up data that takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from conftest import write_pairs
from tiny import TINY_DETECTOR, TINY_SEGMENTER

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


@dataclass(frozen=True)
class Victim:
    """A command without its output folder.

    Attributes:
        command: its arguments, up to the option that names the output folder.
        place: what it fills, below that folder.
        outputs: patterns, below the place, of the files that show how far it is.
        threads: on which it works.
    """

    command: tuple[str, ...]
    place: str
    outputs: tuple[str, ...]
    threads: int = 1

    def done(self, out: Path) -> int:
        """Count its outputs so far: the lines of logs, and every other file once."""
        files = [path for pattern in self.outputs for path in (out / self.place).glob(pattern)]
        return sum(path.read_bytes().count(b"\n") if path.suffix == ".jsonl" else 1 for path in files)

    def arguments(self, out: Path) -> list[str]:
        return [sys.executable, "-m", "emma_core.cli", *self.command, str(out)]

    def start(self, out: Path, **options: object) -> subprocess.Popen[str]:
        """Start the command on its threads in a process of its own."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "COLUMNS": "120"}
        return subprocess.Popen(self.arguments(out), env=environment, **{**pipes, **options})

    def run(self, out: Path) -> subprocess.CompletedProcess[str]:
        process = self.start(out)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


FUSED = ("all/*.png",)
TABLE = ("*/*/log.jsonl", "*/*/result.json", "pictures/*.png")
"""Outputs of the commands: images; what a table of trained rows shows."""


def fuse_dataset(world: Path, pairs: int = 48) -> Victim:
    root = write_pairs(world / "TNO", pairs, shape=(240, 320))
    command = ("fuse-dataset", "TNO", "--root", str(root), "--method", "guided", "--runs")
    return Victim(command, "fused/TNO/guided", FUSED)


def fuse_by_emma(world: Path) -> Victim:
    """Two threads, each with an image of its own, and the shipped weights."""
    root = write_pairs(world / "small", 48, shape=(128, 160))
    command = ("fuse-dataset", "TNO", "--root", str(root), "--method", "EMMA", "--device", "cpu", "--runs")
    return Victim(command, "fused/TNO/EMMA", FUSED, threads=2)


def train(world: Path) -> Victim:
    root = write_pairs(world / "mine", 8, shape=(48, 56))
    (world / "sensing.toml").write_text(TINY_SENSING)
    command = ["train", "sensing", "--modality", "ir", "--data", f"mine={root / 'ir'},{root / 'vi'}", "--held-out", "2"]
    command += ["--recipe", "quick", "--config", str(world / "sensing.toml"), "--steps", "300", "--save-seconds", "0"]
    return Victim((*command, "--out"), "", ("log.jsonl",))


def segment(world: Path) -> Victim:
    root = write_samples(world / "segment", ["MSRS"], 6, size=(64, 96))[0]
    (world / "segmenter.toml").write_text(TINY_SEGMENTER)
    command = ["segment", "MSRS", "--root", str(root), "--ir", "--vis", "--config", str(world / "segmenter.toml")]
    return Victim((*command, "--epochs", "4", "--save-seconds", "0", "--runs"), "segment/MSRS-sample/test", TABLE)


def detect(world: Path) -> Victim:
    root = write_samples(world / "detect", ["M3FD"], 12, size=(96, 128))[0]
    (world / "detector.toml").write_text(TINY_DETECTOR)
    command = ["detect", "--root", str(root), "--ir", "--vis", "--split", "thirds"]
    command += ["--config", str(world / "detector.toml"), "--epochs", "8"]
    return Victim((*command, "--runs"), "detect/M3FD-sample/thirds", TABLE)


VICTIMS = {
    "fuse-dataset": fuse_dataset,
    "fuse-dataset by EMMA": fuse_by_emma,
    "train": train,
    "segment": segment,
    "detect": detect,
}

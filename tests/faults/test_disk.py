"""A disk that is full, and one that is read-only: one line, exit status 1, no half file, and the command ends later.

The file systems are real. A folder whose parent is a file is in test_cli.py.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from conftest import Outcome, emma, tree, write_pairs, write_released_checkpoint
from disks import small_disk
from medical_bench import make_bench, medical
from victims import VICTIMS, fuse_dataset

from emma_core.images import read_image
from emma_core.samples import write_samples

Run = Callable[[Path], Outcome | subprocess.CompletedProcess[str]]

APPENDED = ("journal.jsonl", "log.jsonl", "events.out")
"""Files that grow by lines or records; a reader leaves out half a one at their end."""

TIMES = ("result.json", "settings.json", "pictures/training.png")
"""Files that hold times or places, so that two runs differ in them."""


def whole_files(folder: Path) -> dict[str, bytes]:
    """The files that have to be whole or absent."""
    files = tree(folder)
    return {name: data for name, data in files.items() if not any(part in name for part in (*APPENDED, ".lock"))}


OPENERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".npy": np.load,
    ".png": read_image,
    ".pt": lambda path: zipfile.ZipFile(path).testzip(),
    ".pt2": lambda path: zipfile.ZipFile(path).testzip(),
    ".safetensors": lambda path: safetensors.torch.load(path.read_bytes()),
    ".toml": lambda path: tomllib.loads(path.read_text()),
}


def open_file(path: Path) -> None:
    """Make sure that a file is whole, whatever state of a run it holds."""
    if path.suffix not in {".csv", ".part", ".yaml"}:  # ultralytics' own: never read, and gone at the end
        OPENERS[path.suffix](path)


def needed(run: Run, folder: Path) -> tuple[dict[str, bytes], int]:
    """What a command leaves where there is room, and how many bytes that takes."""
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return whole_files(folder), sum(map(len, tree(folder).values()))


def full_disks(
    run: Run, tmp_path: Path, shares: tuple[float, ...]
) -> Iterator[tuple[dict[str, bytes], dict[str, bytes]]]:
    """Run a command on disks with room for a share of what it writes; make room; run it again.

    Yields:
        The files that the command leaves where there was room all along, and those that it left in the end.
    """
    whole, size = needed(run, tmp_path / "whole")
    for number, share in enumerate(shares):
        with small_disk(tmp_path / f"disk-{number}", max(4096, int(size * share) // 4096 * 4096)) as disk:
            failed = run(disk.path / "out")
            assert failed.returncode == 1, failed.stdout + failed.stderr
            assert "No space left on device" in failed.stderr.splitlines()[-1], failed.stderr
            assert sum(line.startswith("Error: ") for line in failed.stderr.splitlines()) == 1, failed.stderr
            assert "Traceback" not in failed.stderr, failed.stderr
            for name in whole_files(disk.path / "out"):
                assert ".emma-" not in name, f"a temporary file is left: {name}"
                open_file(disk.path / "out" / name)
            disk.set("size=200m")
            done = run(disk.path / "out")
            assert done.returncode == 0, done.stderr
            left = whole_files(disk.path / "out")
        yield whole, left


def without_times(files: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out files in which two runs differ."""
    return {name: data for name, data in files.items() if not any(part in name for part in TIMES)}


def test_fuse_dataset_on_a_full_disk(tmp_path):
    victim = fuse_dataset(tmp_path, pairs=6)
    for whole, left in full_disks(lambda out: emma(*victim.command, out), tmp_path, (0.0, 0.4, 0.9)):
        assert left == whole


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", VICTIMS)
def test_commands_on_full_disks(name, tmp_path):
    for whole, left in full_disks(VICTIMS[name](tmp_path).run, tmp_path, (0.0, 0.3, 0.6, 0.95)):
        assert left.keys() == whole.keys()
        if name != "detect":  # a detector that goes on ends near, not with, the weights of one that was not cut
            assert without_times(left) == without_times(whole)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_medical_on_full_disks(tmp_path):
    bench = make_bench(tmp_path / "bench")
    command = ("--root", "Harvard", "--runs")
    for whole, left in full_disks(lambda out: medical(bench, *command, out), tmp_path, (0.0, 0.3, 0.6, 0.95)):
        assert left.keys() == whole.keys()
        assert without_times(left) == without_times(whole)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_export_on_a_full_disk(tmp_path):
    write_released_checkpoint(tmp_path / "weights.pth")
    options = ("--weights", tmp_path / "weights.pth", "--format", "exported-program")
    for whole, left in full_disks(lambda out: emma("export", out / "net.pt2", *options), tmp_path, (0.0, 0.5)):
        assert left.keys() == whole.keys() == {"net.pt2"}


def test_report_on_a_full_disk(tmp_path):
    root = write_pairs(tmp_path / "TNO", 2)
    with small_disk(tmp_path / "disk", 2**20) as disk:
        emma("fuse-dataset", "TNO", "--root", root, "--method", "max", "--runs", disk.path)
        assert emma("report", "--runs", disk.path).returncode == 0
        before = tree(disk.path / "report")
        emma("fuse-dataset", "TNO", "--root", root, "--method", "mean", "--runs", disk.path)
        fill(disk.path / "ballast")
        failed = emma("report", "--runs", disk.path)
        assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
        assert failed.stderr.endswith("index.html: No space left on device\n")
        assert tree(disk.path / "report") == before
        (disk.path / "ballast").unlink()
        assert emma("report", "--runs", disk.path).returncode == 0
        assert b"mean" in (disk.path / "report" / "index.html").read_bytes()


def fill(path: Path) -> None:
    """Leave not one free block."""
    with pytest.raises(OSError, match="No space"):
        path.write_bytes(bytes(2**24))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data sets, and runs on a disk of their own that becomes read-only."""
    world = tmp_path_factory.mktemp("world")
    write_pairs(world / "TNO", 2)
    write_samples(world, ["M3FD", "MSRS"], 12, size=(96, 128))
    make_bench(world)
    for victim in VICTIMS.values():
        victim(world / "configurations")
    with small_disk(world / "disk", 2**24) as disk:
        emma("fuse-dataset", "TNO", "--root", world / "TNO", "--method", "max", "--runs", disk.path / "runs")
        disk.set("ro")
        yield world


@pytest.mark.parametrize(
    "command",
    [
        "fuse-dataset TNO --root TNO --method max --runs disk/runs",
        "fuse-dataset TNO --root TNO --method mean --runs disk/runs",
        "fuse --ir TNO/ir/000.png --vis TNO/vi/000.png --method max --out disk/f.png",
        "evaluate TNO --root TNO --runs disk/runs",
        "report --runs disk/runs",
        "benchmark --out disk/figures",
        "export disk/net.pt2 --weights weights.pth --format exported-program",
        "demo disk/demo",
        "sample-data disk/samples --pairs 1 --datasets MSRS",
        "detect M3FD --root M3FD --ir --split thirds --epochs 1 --size 64 --runs disk/runs",
        "segment MSRS --root MSRS --ir --encoder-weights none --epochs 1 --runs disk/runs",
        "medical --root Harvard --weights weights.pth --runs disk/runs",
        "reproduce table4 --root . --recipe quick --runs disk/runs",
        "train sensing --modality ir --data mine=TNO/ir,TNO/vi --recipe quick --steps 1 --out disk/run",
    ],
)
def test_read_only_disk(world, command):
    failed = emma(*command.split(), cwd=world)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert "disk/" in last, "which file it was is not said"
    assert "Read-only file system" in last
    assert "Traceback" not in failed.stderr

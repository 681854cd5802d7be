"""The command line as a person meets it: help, mistakes, dry runs, exit states."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from conftest import emma, emma_process, random_image, tree, write_pairs

from emma_core import __version__, options
from emma_core.commands import COMMANDS
from emma_core.fuse_dataset import fused_folder
from emma_core.images import read_image, write_image
from emma_core.manifest import JOURNAL


@pytest.fixture
def root(tmp_path):
    return write_pairs(tmp_path / "TNO", 4, shape=(48, 64))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_fits_a_terminal(command):
    done = emma(command, "--help")
    assert done.returncode == 0
    assert f"Example: emma-tasks {command}" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_version_and_no_arguments():
    assert emma("--version").stdout == f"emma-tasks {__version__}\n"
    assert "fuse-dataset" in emma().stdout + emma().stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["fuse-dataset", "KITTI", "--root", "."], 2, "known: MSRS, M3FD"),
        (["fuse-dataset", "MSRS", "--method", "max"], 2, "Add --root DIR"),
        (["fuse-dataset", "MSRS", "--root", "none", "--method", "max"], 1, "emma-tasks datasets MSRS"),
        (["fuse-dataset", "TNO", "--root", "TNO", "--weights", "none.pth"], 1, "none.pth"),
        (["fuse-dataset", "TNO", "--root", "TNO", "--method", "magic"], 2, "known: EMMA, mean, max"),
        (["fuse-dataset", "TNO", "--root", "TNO", "--method", "max", "--split", "x"], 2, "it has: all"),
        (["fuse-dataset", "TNO", "--root", "TNO", "--method", "max", "--split-file", "x"], 1, "no such file"),
        (["fuse-dataset", "TNO", "--ir", "TNO/ir", "--method", "max"], 2, "go together"),
        (["fuse-dataset", "a/b", "--ir", "TNO/ir", "--vis", "TNO/vi", "--method", "max"], 2, "cannot name a data set"),
        (["fuse", "--ir", "none.png", "--vis", "none.png", "--out", "f.png", "--method", "max"], 1, "no such file"),
        (["fuse", "--ir", "TNO/ir", "--vis", "TNO/vi/000.png", "--out", "f", "--method", "max"], 2, "two folders"),
        (["fuse", "--ir", "TNO/ir/000.png", "--vis", "TNO/vi/000.png", "--out", "f.jpg", "--method", "max"], 2, "PNG"),
        (["evaluate", "TNO", "--root", "TNO", "--runs", "TNO/ir/000.png"], 1, "000.png"),
        (["fuse-dataset", "TNO", "--root", "TNO", "--method", "max", "--runs", "TNO/ir/000.png"], 1, "000.png"),
        (["fuse-dataset", "TNO", "--root", "TNO", "--method", "max", "--name", "a/b"], 2, "without folders"),
        (["fuse-dataset", "TNO", "--root", "TNO", "--method", "max", "--range", "stretch"], 2, "is for EMMA"),
        (["fuse-dataset", "TNO", "--root", "TNO", "--method", "max", "--precision", "x"], 2, "fp32 or bf16"),
        (["fuse", "--ir", "TNO/ir", "--vis", "TNO/vi", "--out", "TNO/vi", "--method", "max"], 2, "holds the source"),
        (
            [
                "fuse",
                "--ir",
                "TNO/ir/000.png",
                "--vis",
                "TNO/vi/000.png",
                "--out",
                "TNO/vi/000.png",
                "--method",
                "max",
                "--overwrite",
            ],
            2,
            "one of the source images",
        ),
        (["sample-data", "out", "--datasets", ""], 2, "expected M3FD, MSRS, Harvard"),
        (["evaluate", "TNO", "--root", "TNO", "--fused-dir", "x"], 2, "NAME=PATH"),
        (["evaluate", "TNO", "--root", "TNO", "--device", "tpu"], 2, "auto, cpu"),
        (["sample-data", "out", "--datasets", "KITTI"], 2, "expected M3FD, MSRS, Harvard"),
        (["sample-data", "TNO/ir/000.png", "--pairs", "1"], 1, "Not a directory"),
        (["report"], 1, "emma-tasks"),
        (["datasets", "KITTI"], 2, "known: MSRS"),
    ],
)
def test_mistakes_get_one_line_and_a_status(root, arguments, status, says):
    done = emma(*arguments, cwd=root.parent)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("Error: ")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_fuse_a_pair_in_colour_and_grey(root):
    place = root.parent
    pair = ["--ir", root / "ir" / "000.png", "--vis", root / "vi" / "000.png", "--method", "laplacian"]
    assert emma("fuse", *pair, "--out", place / "f.png").returncode == 0
    assert read_image(place / "f.png").shape == (48, 64, 3)
    again = emma("fuse", *pair, "--out", place / "f.png", "--colour", "none")
    assert (again.returncode, "--overwrite" in again.stderr) == (2, True)
    assert emma("fuse", *pair, "--out", place / "f.png", "--colour", "none", "--overwrite").returncode == 0
    assert read_image(place / "f.png").shape == (48, 64)


def test_fuse_two_folders(root):
    out = root.parent / "fused"
    done = emma("fuse", "--ir", root / "ir", "--vis", root / "vi", "--out", out, "--method", "max")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.glob("*.*")) == [f"{i:03d}.png" for i in range(4)] + ["manifest.json"]
    again = emma("fuse", "--ir", root / "ir", "--vis", root / "vi", "--out", out, "--method", "max")
    assert "0 fused, 4 were there already" in again.stdout


def test_bad_pairs_are_named_and_the_status_says_so(root):
    (root / "ir" / "001.png").write_bytes(b"")
    (root / "vi" / "002.png").unlink()
    runs = root.parent / "runs"
    done = emma("fuse-dataset", "TNO", "--root", root, "--method", "max", "--runs", runs)
    assert done.returncode == 1
    assert "2 fused" in done.stdout
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        "Left out all/001",
        "Left out all/002",
        "2 left out; everything else is done.",
    ]
    scored = emma("evaluate", "TNO", "--root", root, "--runs", runs)
    assert scored.returncode == 1
    assert "2 left out" in scored.stderr
    assert json.loads((runs / "evaluate" / "TNO" / "all" / "max" / "result.json").read_text())["count"] == 2


def test_evaluate_prints_the_rows_and_the_papers(root):
    runs = root.parent / "runs"
    emma("fuse-dataset", "TNO", "--root", root, "--method", "guided", "--runs", runs)
    done = emma("evaluate", "TNO", "--root", root, "--runs", runs)
    assert done.returncode == 0, done.stderr
    first_words = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    for row in ("IR", "VI", "mean", "max", "guided", "U2Fusion", "EMMA"):
        assert row in first_words


@pytest.mark.parametrize(
    "command",
    [
        ["fuse-dataset", "TNO", "--root", "TNO", "--method", "max"],
        ["fuse", "--ir", "TNO/ir/000.png", "--vis", "TNO/vi/000.png", "--out", "f.png", "--method", "max"],
        ["evaluate", "TNO", "--root", "TNO"],
        ["sample-data", "samples"],
        ["report"],
    ],
)
def test_dry_runs_write_nothing(root, command):
    before = tree(root.parent)
    done = emma(*command, "--dry-run", cwd=root.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Would ")
    assert tree(root.parent) == before


def test_limit_and_split_file(root):
    (root.parent / "list.txt").write_text("001\n003\n")
    runs = root.parent / "runs"
    options = ["--root", root, "--method", "max", "--runs", runs]
    emma("fuse-dataset", "TNO", *options, "--split-file", root.parent / "list.txt")
    assert sorted(path.stem for path in runs.rglob("*.png")) == ["001", "003"]
    emma("fuse-dataset", "TNO", *options, "--limit", "1")
    assert sorted(path.stem for path in runs.rglob("*.png")) == ["000", "001", "003"]


def test_names_with_line_ends_stay_on_their_line(root):
    write_image(root / "ir" / "new\nline.png", random_image(0, (8, 8)))
    done = emma("fuse-dataset", "TNO", "--root", root, "--method", "max", "--runs", root.parent / "runs")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("Left out all/new line: its mate is missing")


def test_datasets_lists_everything_and_what_is_there(root):
    done = emma("datasets", "--root", root.parent)
    for name in ("MSRS", "M3FD", "RoadScene", "TNO", "Harvard"):
        assert f"\n{name}: " in "\n" + done.stdout
    assert f"4 pairs in {root}" in done.stdout
    assert "EMMA" in emma("datasets", "--methods").stdout


def test_a_terminal_without_arrows_is_answered_too(root, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = emma_process("evaluate", "TNO", "--root", root, "--limit", "1", "--runs", tmp_path / "runs")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert "EN ?" in done.stdout


def test_two_folders_without_a_pair_say_what_is_expected(tmp_path):
    for folder, end in (("ir", "ir"), ("vi", "vis")):
        write_image(tmp_path / folder / f"scene_{end}.png", random_image(0, (24, 32)))
    done = emma("fuse", "--ir", tmp_path / "ir", "--vis", tmp_path / "vi", "--out", tmp_path / "out", "--method", "max")
    assert (done.returncode, "expected images of one name in both folders" in done.stderr) == (1, True)
    assert "everything else is done" not in done.stderr


@pytest.mark.parametrize("command", ["fuse", "fuse-dataset"])
def test_16_bit_images_that_are_nearly_flat_are_told_once(root, command):
    ramp = np.linspace(21000, 22500, 48 * 64).astype(np.uint16).reshape(48, 64)
    for number in range(4):
        cv2.imwrite(str(root / "ir" / f"{number:03d}.png"), ramp)
    where = ["--ir", root / "ir", "--vis", root / "vi", "--out", root / "out"]
    if command == "fuse-dataset":
        where = ["TNO", "--root", root, "--runs", root / "runs"]
    done = emma(command, *where, "--method", "max")
    assert done.returncode == 0
    first, others = done.stderr.splitlines()
    assert first.startswith(f"{root / 'ir'}/00"), "whichever is read first"
    assert "png: 16 bits, of which it uses 2.3% of the range" in first
    assert others == "3 more sources like that"


def test_a_nearly_flat_image_among_others_is_told(root):
    cv2.imwrite(str(root / "ir" / "002.png"), np.linspace(21000, 22500, 48 * 64).astype(np.uint16).reshape(48, 64))
    done = emma("fuse-dataset", "TNO", "--root", root, "--runs", root / "runs", "--method", "max")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{root / 'ir' / '002.png'}: 16 bits")


def test_a_dry_run_counts_what_is_left_and_refuses_what_the_run_would(root):
    command = ["fuse-dataset", "TNO", "--root", root, "--runs", root / "runs", "--name", "mine"]
    assert emma(*command, "--method", "max", "--limit", "3").returncode == 0
    assert "Would fuse 1 pair of TNO by max into" in emma(*command, "--method", "max", "--dry-run").stdout
    assert "; 3 there already" in emma(*command, "--method", "max", "--dry-run").stdout
    assert "Would fuse 4 pairs" in emma(*command, "--method", "max", "--dry-run", "--overwrite").stdout
    refused = emma(*command, "--method", "guided", "--dry-run")
    assert (refused.returncode, "was made with other settings" in refused.stderr) == (1, True)


def test_progress_is_a_line_now_and_then_where_nobody_watches(monkeypatch, capsys):
    now = iter(range(0, 10_000, 25))
    monkeypatch.setattr(options.time, "monotonic", lambda: next(now))
    with options.progress_bar("Scoring", 8) as advance:
        for _ in range(8):
            advance()
    assert capsys.readouterr().err.splitlines() == ["Scoring: 3 of 8, 2 min left", "Scoring: 6 of 8, 1 min left"]


def test_an_interrupted_command_says_how_to_go_on(tmp_path):
    root, runs = write_pairs(tmp_path / "TNO", 200, shape=(96, 128)), tmp_path / "runs"
    command = [sys.executable, "-m", "emma_core.cli", "fuse-dataset", "TNO", "--root", root, "--runs", runs]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (journal := fused_folder(runs, "TNO", "EMMA") / JOURNAL).exists() or not journal.stat().st_size:
            time.sleep(0.01)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "Stopped. What is finished is kept; the same command goes on.\n")

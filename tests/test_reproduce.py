"""``emma-tasks reproduce``: what is planned, run, skipped, resumed, and what a failure leaves."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Annotated

import pytest
import typer
from conftest import emma, random_image, tree, write_pairs, write_released_checkpoint

from emma_core import plugins, reproduce_commands
from emma_core.commands import COMMANDS
from emma_core.errors import UsageError
from emma_core.fusers import SHIPPED_WEIGHTS
from emma_core.images import write_image
from emma_core.report.missing import missing_tables
from emma_core.reproduce import Request, chosen_tables, is_done, make_plan
from emma_core.results import Column, Result, result_folder, write_result
from emma_core.samples import write_samples


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(COMMANDS, "reproduce", reproduce_commands.reproduce)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_samples(folder, ["M3FD", "MSRS"], pairs=4, size=(64, 96))
    return folder


@pytest.fixture
def calls(monkeypatch):
    """Steps run in this process, and are noted: each is a command line of emma-tasks."""
    noted = []

    def call(command):
        assert command[:3] == [sys.executable, "-m", "emma_core.cli"]
        noted.append(tuple(command[3:5]))
        return emma(*command[3:]).returncode

    monkeypatch.setattr(reproduce_commands.subprocess, "call", call)
    return noted


@pytest.fixture
def detector(monkeypatch):
    """A task called ``detect``, as another package would offer it: it writes a result for each row and seed."""

    def detect(
        root: Annotated[Path, typer.Option()],
        seeds: str = "0",
        recipe: str = "paper",
        runs: Path = Path("runs"),
    ) -> None:
        for seed in map(int, seeds.split(",")):
            for row in detect.rows:
                write_detection(runs, row, seed, recipe={"recipe": recipe})
        if detect.status:
            sys.exit(detect.status)

    detect.rows, detect.status = ("IR", "VI", "max"), 0
    monkeypatch.setitem(sys.modules, "strangers_task", types.SimpleNamespace(detect=detect, __name__="strangers_task"))
    entry = importlib.metadata.EntryPoint("detect", "strangers_task:detect", plugins.TASKS)
    monkeypatch.setattr(plugins, "entry_points", lambda **_: [entry])
    return detect


def write_detection(runs, row, seed=0, **other):
    given = {"dataset": "M3FD-sample", "split": "thirds", "recipe": {"recipe": "paper"}}
    given["source"] = {"method": "max", "checkpoint_sha256": None} if row == "max" else {}
    result = Result(
        task="detect",
        title="Object detection",
        split_hash="h",
        parts=("all",),
        count=2,
        row=row,
        columns=(Column("mAP@0.5", "%"),),
        values={"mAP@0.5": 50.0},
        seed=seed,
        seconds=600.0,
        **(given | other),
    )
    write_result(result_folder(runs, "detect", result.dataset, result.split, row, seed), result)


def reproduce(table, root, runs, *options):
    return emma("reproduce", table, "--root", root, "--runs", runs, "--method", "max", *options)


# What is planned


def test_every_table_that_commands_can_make_is_known():
    assert [paper.key for paper in chosen_tables("table3")] == ["detect/M3FD"]
    assert {paper.title for paper in chosen_tables("ALL")} == {"Table 1", "Table 3", "Table 4", "Table 5"}
    for name in ("table2", "table", "figure1"):
        with pytest.raises(UsageError, match=r"expected table1, table3, table4, table5 or all"):
            chosen_tables(name)


@pytest.mark.parametrize("line", sorted({line for missing in missing_tables([]) for line in missing.commands}))
def test_every_command_that_is_named_takes_these_options(line):
    words = line.split()[1:]
    command = words[:2] if words[0] == "train" else words[:1]
    done = emma(*command, "--help")
    assert done.returncode == 0, done.stderr
    for option in (word for word in words if word.startswith("--")):
        assert option in done.stdout, option


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(root, tmp_path):
    before = tree(root)
    done = reproduce("all", root, tmp_path / "runs", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"Table 1: to run   emma-tasks fuse-dataset MSRS --root {root}/MSRS --split test")
    assert "(about " in lines[0]
    assert sum("fuse-dataset M3FD" in line for line in lines) == 1, "needed by two tables, done once"
    assert sum(": no data  " in line for line in lines) == 3
    assert f"Table 5: no data  Harvard: {root}/Harvard is not a folder" in done.stdout
    assert lines[-1].startswith("Takes about ")
    assert (tree(root), (tmp_path / "runs").exists()) == (before, False)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_images_by_other_weights_are_not_taken_for_done(root, tmp_path):
    weights = write_released_checkpoint(tmp_path / "EMMA.pth")
    emma("fuse-dataset", "M3FD", "--root", root / "M3FD", "--runs", tmp_path / "runs", "--weights", weights)
    other = tmp_path / "other.pth"
    other.write_bytes(weights.read_bytes() + b"\0")
    for given, done in ((weights, True), (other, False), (None, False)):
        request = Request(root, tmp_path / "runs", weights=given)
        assert is_done(make_plan("table3", request).steps[0], request) == done


def write_scores(runs, task, dataset, checkpoint, split="all", parts=("all",)):
    """A table as ``evaluate`` or ``medical`` leaves it: the naive rows are computed, EMMA is read from files."""
    for row in ("IR", "VI", "other", "MRI", "max", "EMMA"):
        source = {"method": "EMMA", "checkpoint_sha256": checkpoint} if row == "EMMA" else {}
        given = {"task": task, "title": "T", "dataset": dataset, "split": split, "split_hash": "h", "parts": parts}
        result = Result(**given, count=4, row=row, columns=(Column("EN"),), values={"EN": 1.0}, source=source)
        write_result(result_folder(runs, task, dataset, split, row), result)


def test_scores_of_other_weights_or_another_method_are_not_taken_for_done(root, tmp_path):
    weights = write_released_checkpoint(tmp_path / "EMMA.pth")

    def done(method="EMMA", given=None):
        request = Request(root, tmp_path / "runs", method, given)
        steps = {step.arguments[:2]: step for step in make_plan("table1", request).steps}
        return is_done(steps["evaluate", "M3FD"], request)

    write_scores(tmp_path / "runs", "evaluate", "M3FD-sample", digest(SHIPPED_WEIGHTS))
    assert (done(), done(given=weights), done("laplacian")) == (True, False, False)
    assert (done("max"), done("mean")) == (True, False), "a naive row is computed, and is what its name says"
    write_scores(tmp_path / "runs", "evaluate", "M3FD-sample", digest(weights))
    assert (done(), done(given=weights)) == (False, True)


def test_table_5_is_of_emma_and_of_the_weights_asked_for(tmp_path):
    write_samples(tmp_path, ["Harvard"], pairs=3, size=(64, 64))
    parts = ("MRI-CT", "MRI-PET", "MRI-SPECT")
    write_scores(tmp_path / "runs", "medical", "Harvard-sample", digest(SHIPPED_WEIGHTS), parts=parts)
    weights = write_released_checkpoint(tmp_path / "EMMA.pth")
    for given, expected in ((None, True), (weights, False)):
        request = Request(tmp_path, tmp_path / "runs", weights=given)
        (step,) = make_plan("table5", request).steps
        assert is_done(step, request) == expected
    refused = emma("reproduce", "table5", "--root", tmp_path, "--runs", tmp_path / "runs", "--method", "laplacian")
    assert (refused.returncode, refused.stderr) == (
        2,
        "Error: --method laplacian: Table 5 is made by EMMA; leave the option out\n",
    )
    every = emma("reproduce", "all", "--root", tmp_path, "--runs", tmp_path / "runs", "--method", "max", "--dry-run")
    assert "Table 5: done     emma-tasks medical" in every.stdout


def test_scans_of_one_modality_are_not_scored_again(tmp_path, calls):
    write_samples(tmp_path, ["Harvard"], pairs=4, size=(64, 96))
    for part in ("MRI-PET", "MRI-SPECT"):
        shutil.rmtree(tmp_path / "Harvard" / part)
    for _ in range(2):
        assert emma("reproduce", "table5", "--root", tmp_path, "--runs", tmp_path / "runs").returncode == 0
        assert calls == [("medical", "--root")]


@pytest.mark.parametrize(
    ("change", "done"),
    [
        ({}, True),
        ({"recipe": {"name": "Paper"}}, True),
        ({"recipe": {"recipe": "paper, changed"}}, False),
        ({"recipe": {"recipe": "quick", "start": "paper"}}, False),
        ({"split": "scene"}, False),
        ({"comparable": False}, False),
        ({"checkpoint": "of others"}, False),
    ],
)
def test_another_split_recipe_or_label_is_not_taken_for_done(tmp_path, change, done):
    write_pairs(tmp_path / "M3FD", 2, folders=("Ir", "Vis"))
    given = {"dataset": "M3FD", "split": "paper"} | change
    checkpoint = given.pop("checkpoint", digest(SHIPPED_WEIGHTS))
    for row, source in (("IR", {}), ("VI", {}), ("EMMA", {"method": "EMMA", "checkpoint_sha256": checkpoint})):
        write_detection(tmp_path, row, source=source, **given)
    request = Request(tmp_path, tmp_path)
    assert is_done(make_plan("table3", request).steps[1], request) == done


@pytest.mark.parametrize("table", ["table3", "table4", "all"])
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_an_unknown_recipe_is_refused_before_anything_is_fused(root, tmp_path, calls, table, options):
    done = reproduce(table, root, tmp_path, "--recipe", "nonsense", *options)
    task = "segment" if table == "table4" else "detect"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: Unknown recipe 'nonsense'; {task} knows: paper, quick, demo\n"
    assert (calls, tree(tmp_path)) == ([], {})
    for known in ("paper", "Quick", "DEMO"):
        assert make_plan(table, Request(root, tmp_path, recipe=known)).steps


# What is run


def test_a_table_is_made_by_commands_and_ends_in_the_report(tmp_path):
    write_pairs(tmp_path / "TNO", 2, shape=(48, 64))
    runs = tmp_path / "runs"
    done = reproduce("table1", tmp_path, runs)
    assert done.returncode == 1, "the other three data sets are not there"
    assert done.stderr.splitlines()[-1] == "Error: 0 steps failed, 3 tables have no data; the rest is done"
    assert (runs / "evaluate" / "TNO" / "all" / "max" / "result.json").is_file()
    assert f"Report: {runs / 'report' / 'index.html'}" in done.stdout
    assert "Table 1 of the paper" in (runs / "report" / "index.html").read_text()


def test_what_is_done_is_not_done_again(root, tmp_path, calls):
    reproduce("table1", root, tmp_path)
    expected = [(command, name) for name in ("MSRS", "M3FD") for command in ("fuse-dataset", "evaluate")]
    assert calls == expected
    again = reproduce("table1", root, tmp_path)
    assert (calls, "Nothing to run" in again.stdout) == (expected, True)
    (tmp_path / "evaluate" / "MSRS-sample" / "test" / "VI" / "result.json").unlink()
    reproduce("table1", root, tmp_path)
    assert calls[len(expected) :] == [("evaluate", "MSRS")]


def test_scores_of_a_few_pairs_are_not_taken_for_the_table(root, tmp_path, calls):
    where = ["M3FD", "--root", root / "M3FD", "--runs", tmp_path]
    emma("fuse-dataset", *where, "--method", "max")
    emma("evaluate", *where, "--limit", "2")
    reproduce("table1", root, tmp_path)
    assert calls.count(("evaluate", "M3FD")) == 1


def test_a_strangers_task_is_run_with_seeds_and_recipe_and_timed_by_its_rows(root, tmp_path, calls, detector):
    write_detection(tmp_path, "IR", recipe={"recipe": "quick"})
    write_detection(tmp_path, "VI", recipe={"recipe": "quick"})
    options = ["--recipe", "quick", "--seeds", "0,1"]
    planned = reproduce("table3", root, tmp_path, *options, "--dry-run")
    assert f"detect --root {root}/M3FD --recipe quick --seeds 0,1" in planned.stdout
    assert "(about 40 min)" in planned.stdout, "four of six runs are missing, each took ten minutes"
    hint = "; by recipe quick a run took about 10 min here)"
    assert hint in reproduce("table3", root, tmp_path, "--dry-run").stdout
    done = reproduce("table3", root, tmp_path, *options)
    assert (done.returncode, [name for name, _ in calls]) == (0, ["fuse-dataset", "detect"]), done.stderr
    assert len(list(tmp_path.glob("detect/**/result.json"))) == 6
    reproduce("table3", root, tmp_path, *options)
    assert len(calls) == 2


def test_images_that_were_fused_anew_are_measured_anew(root, tmp_path, calls, detector):
    for row in detector.rows:
        write_detection(tmp_path, row)
    reproduce("table3", root, tmp_path)
    assert [name for name, _ in calls] == ["fuse-dataset", "detect"]


def test_a_step_that_fails_is_named_and_the_rest_is_done(root, tmp_path, calls, detector):
    detector.rows, detector.status = ("IR",), 3
    done = reproduce("table3", root, tmp_path)
    assert done.returncode == 1
    assert f"Failed: emma-tasks detect --root {root}/M3FD" in done.stderr
    assert (tmp_path / "report" / "index.html").is_file()
    detector.rows, detector.status = ("IR", "VI", "max"), 1
    assert reproduce("table3", root, tmp_path).returncode == 0, "pairs were left out; the results are there"


def test_a_task_that_dies_is_not_hidden_by_results_of_before(root, tmp_path, calls, detector):
    for row in detector.rows:
        write_detection(tmp_path, row)
    detector.rows, detector.status = (), 137
    done = reproduce("table3", root, tmp_path)
    assert [name for name, _ in calls] == ["fuse-dataset", "detect"]
    assert (done.returncode, f"Failed: emma-tasks detect --root {root}/M3FD" in done.stderr) == (1, True)


def test_what_was_made_of_other_files_is_made_anew(tmp_path, calls):
    """Fused images, and scores of images that somebody fused anew since."""
    place, where = write_pairs(tmp_path / "TNO", 2, shape=(48, 64)), ["--runs", tmp_path / "runs"]
    reproduce("table1", tmp_path, tmp_path / "runs")
    write_image(place / "vi" / "001.png", random_image(9, (48, 64)))
    reproduce("table1", tmp_path, tmp_path / "runs")
    assert calls == [("fuse-dataset", "TNO"), ("evaluate", "TNO")] * 2
    write_image(place / "vi" / "001.png", random_image(10, (48, 64)))
    emma("fuse-dataset", "TNO", "--root", place, "--method", "max", *where)
    reproduce("table1", tmp_path, tmp_path / "runs")
    reproduce("table1", tmp_path, tmp_path / "runs")
    assert calls[4:] == [("evaluate", "TNO")]


def test_images_with_other_settings_are_not_taken_for_done(root, tmp_path):
    where = ["fuse-dataset", "M3FD", "--root", root / "M3FD", "--runs", tmp_path, "--overwrite"]
    request = Request(root, tmp_path, weights=write_released_checkpoint(tmp_path / "EMMA.pth"))
    for options, done in (([], True), (["--range", "stretch"], False), (["--grey"], False), (["--tile", "64"], False)):
        emma(*where, "--weights", tmp_path / "EMMA.pth", *options)
        assert is_done(make_plan("table3", request).steps[0], request) == done


def test_where_images_could_not_be_fused_nothing_is_run_on_them(root, tmp_path, calls, detector, monkeypatch):
    write_detection(tmp_path, "IR")
    blocked = tmp_path / "fused" / "M3FD-sample" / "max"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder has to be")
    done = reproduce("table3", root, tmp_path)
    assert done.returncode == 1
    assert [name for name, _ in calls] == ["fuse-dataset"]
    assert "Error: 1 step failed, 0 tables have no data; the rest is done" in done.stderr


def test_a_killed_reproduction_continues(tmp_path, calls):
    """A process that dies in its second step leaves the first done; the same command does the rest."""
    write_pairs(tmp_path / "TNO", 2, shape=(48, 64))
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from emma_core import reproduce_commands as commands\n"
        "run = commands._run\n"
        "commands._run = lambda step: os._exit(9) if step.arguments[0] == 'evaluate' else run(step)\n"
        "commands.reproduce('table1', Path(sys.argv[1]), method='max', runs=Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", program, tmp_path, tmp_path / "runs"]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == 9, killed.stderr
    assert not (tmp_path / "runs" / "evaluate").exists()
    reproduce("table1", tmp_path, tmp_path / "runs")
    assert calls == [("evaluate", "TNO")]
    assert (tmp_path / "runs" / "evaluate" / "TNO" / "all" / "VI" / "result.json").is_file()

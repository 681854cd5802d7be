"""``emma-tasks reproduce --dry-run``: how long it says the steps take, measured, guessed or not known."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from conftest import emma, random_image, write_pairs
from test_reproduce import reproduce, write_detection

from emma_core import estimates
from emma_core.estimates import estimate
from emma_core.images import write_image
from emma_core.reproduce import Request, is_done, make_plan
from emma_core.reproduce_commands import _total
from emma_core.samples import write_samples

GUESS = "on two cores like those of docs/detection.md"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_samples(folder, ["M3FD", "MSRS", "Harvard"], pairs=4, size=(64, 96))
    return folder


@pytest.fixture
def timed(monkeypatch):
    """A clock of which fusing takes 10 seconds a pair and scoring 1 second, in place of the work itself."""
    now = [0.0]
    done = []

    def work(pairs, name, seconds):
        done.append((name, pairs.dataset, len(pairs.pairs)))
        now[0] += seconds * len(pairs.pairs)

    monkeypatch.setattr(estimates.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(estimates, "fuse_dataset", lambda pairs, fuser, _: work(pairs, fuser.method, 10.0))
    monkeypatch.setattr(estimates, "evaluate_dataset", lambda pairs, *_: work(pairs, "score", 1.0))
    return done


def steps(root, runs, table="all", **options):
    request = Request(root, runs, "max", **options)
    return {step.arguments[:2]: step for step in make_plan(table, request).steps}, request


def test_every_step_of_a_first_run_has_a_time(root, tmp_path):
    done = reproduce("all", root, tmp_path / "runs", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if ": to run " in line]
    assert len(lines) == 8
    for line in lines:
        trains = " detect " in line or " segment " in line
        assert ("(by a rough guess about " if trains else "(about ") in line
        assert (GUESS in line) == trains
    last = done.stdout.splitlines()[-1]
    assert last.startswith("Takes about ")
    assert "; 2 training steps by a rough guess about " in last
    assert last.endswith(GUESS)


def test_medical_is_timed_on_two_pairs_fusing_and_scoring(root, tmp_path, timed):
    found, request = steps(root, tmp_path, "all")
    (step,) = [step for step in found.values() if step.arguments[0] == "medical"]
    count = len(step.pairs.pairs)
    assert count == 6
    assert estimate(step, request).seconds == count * (10 + 1)
    assert timed == [("EMMA", "Harvard-sample", 2), ("score", "Harvard-sample", 2)], "EMMA, whatever --method says"
    for pair in step.pairs.pairs[1:]:
        write_image(tmp_path / "fused" / "Harvard-sample" / "EMMA" / f"{pair.key}.png", random_image(0, (4, 4)))
    assert estimate(step, request).seconds == 10 + count


def test_pairs_that_cannot_be_read_stop_no_reproduction(root, tmp_path):
    data = shutil.copytree(root, tmp_path / "data")
    found, request = steps(data, tmp_path / "runs", "table1")
    step = found["evaluate", "MSRS"]
    for pair in step.pairs.pairs[:2]:
        pair.infrared.write_bytes(b"")
    assert estimate(step, request) is None


def test_fusing_is_timed_by_the_pairs_that_a_stopped_run_left(root, tmp_path, timed):
    emma("fuse-dataset", "M3FD", "--root", root / "M3FD", "--runs", tmp_path, "--method", "max", "--limit", "3")
    found, request = steps(root, tmp_path, "table3")
    fuse = found["fuse-dataset", "M3FD"]
    assert not is_done(fuse, request)
    assert estimate(fuse, request).seconds == 10, "the one pair that is left"


def test_images_that_two_tables_need_are_counted_once(root, tmp_path, timed):
    plan = make_plan("all", request := Request(root, tmp_path, "max"))
    test, whole = [step for step in plan.steps if step.arguments[:2] == ("fuse-dataset", "MSRS")]
    both, tested = len(whole.pairs.pairs), len(test.pairs.pairs)
    assert 0 < tested < both
    assert estimate(whole, request).seconds == 10 * both
    assert estimate(whole, request, earlier=[test]).seconds == 10 * (both - tested)
    assert estimate(test, request, earlier=[whole]).seconds == 0
    other = replace(test, pairs=replace(test.pairs, dataset="another"))
    assert estimate(whole, request, earlier=[other]).seconds == 10 * both
    fusing = [line for line in reproduce("all", root, tmp_path, "--dry-run").stdout.splitlines() if " fuse-" in line]
    assert any("Table 4" in line and f"(about {10 * (both - tested)} s)" in line for line in fusing)


def test_a_training_that_was_never_run_is_guessed_from_what_the_documentation_says(root, tmp_path):
    write_pairs(tmp_path / "M3FD", 10, shape=(24, 32), folders=("Ir", "Vis"))
    found, request = steps(tmp_path, tmp_path / "runs", "table3", seeds=(0, 1))
    known = estimate(found["detect", "--root"], request)
    assert known.guessed
    # 0.95 s of one core for an image and epoch; 8.1 of 10 images, 400 epochs, three rows, two seeds, two cores.
    assert known.seconds == pytest.approx(0.95 * 8.1 * 400 * 3 * 2 / 2)
    found, request = steps(root, tmp_path / "runs", "table4", recipe="Quick")
    step = found["segment", "--root"]
    trained = sum(pair.split == "train" for pair in step.pairs.pairs)
    assert 0 < trained < len(step.pairs.pairs)
    assert estimate(step, request).seconds == pytest.approx(0.1 * 20 * trained * 3 / 2)


def test_rows_that_were_run_here_are_believed_before_any_guess(root, tmp_path):
    write_detection(tmp_path, "IR")
    found, request = steps(root, tmp_path, "table3")
    known = estimate(found["detect", "--root"], request)
    assert (known.guessed, known.seconds) == (False, 1200.0), "two of three runs are missing, each took ten minutes"


def test_of_a_recipe_without_a_documented_cost_nothing_is_said(root, tmp_path):
    done = reproduce("table3", root, tmp_path, "--recipe", "demo", "--dry-run")
    assert any(" detect " in line and line.endswith("(time unknown)") for line in done.stdout.splitlines())
    assert done.stdout.splitlines()[-1].endswith(
        "; 1 step of unknown length (no row run here by this recipe, or pairs that cannot be read)"
    )
    assert "2 steps of unknown length" in _total([None, None])

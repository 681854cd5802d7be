"""SIGKILL while whole commands work, between their first output and their last, and while they start to go on.

Nothing that was finished is lost or made twice, and the same command ends with what an undisturbed run leaves. Kills
at chosen steps are in test_fuse_dataset.py, test_training.py, test_segmentation_training.py, test_detection_cli.py.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import tree
from safetensors import safe_open
from test_detection_yolo import images, steps, task
from victims import VICTIMS, Victim

from detection import offline
from emma_core.manifest import JOURNAL, MANIFEST
from emma_core.training import STATE
from emma_core.training_log import LOG, read_log

pytestmark = pytest.mark.timeout(900)  # on a busy machine; half a minute on an idle one

OFTEN = 10
"""Kills of each command in the slow part that hit it between its first output and its last; others do not count."""

GLANCE = 0.002
"""Time between two looks at what is there [s]."""


@dataclass(frozen=True)
class Undisturbed:
    """A command that nobody kills.

    Attributes:
        victim: the command.
        folder: what it fills.
        outputs: how many there are in the end.
        start_up: time to the first [s].
        each: time from one to the next [s], in the mean.
    """

    victim: Victim
    folder: Path
    outputs: int
    start_up: float
    each: float


def until(process: subprocess.Popen[str], victim: Victim, out: Path, outputs: int) -> float:
    """Wait until so many outputs are there, or the process has ended; return the time [s]."""
    while process.poll() is None and victim.done(out) < outputs:
        time.sleep(GLANCE)
    return time.monotonic()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Run a command to its end; once, however many tests ask for it."""
    runs: dict[str, Undisturbed] = {}

    def run(name: str) -> Undisturbed:
        if name not in runs:
            world = tmp_path_factory.mktemp("world")
            victim, out, begun = VICTIMS[name](world), world / "runs", time.monotonic()
            process = victim.start(out, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            first, last = until(process, victim, out, 1), until(process, victim, out, sys.maxsize)
            assert process.wait() == 0
            total = victim.done(out)
            runs[name] = Undisturbed(victim, out / victim.place, total, first - begun, (last - first) / total)
        return runs[name]

    return run


def kill_after(run: Undisturbed, out: Path, outputs: int, delay: float) -> bool:
    """Start a command, kill it some seconds after so many outputs are there, and say if that hit it at its work."""
    process = run.victim.start(out, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(process, run.victim, out, outputs)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    process.kill()  # does nothing where it has ended
    ended = process.wait()
    assert ended in {0, -signal.SIGKILL}
    return ended == -signal.SIGKILL and 0 < run.victim.done(out) < run.outputs


def stamps(files: dict[str, Path]) -> dict[str, int]:
    return {name: path.stat().st_mtime_ns for name, path in files.items()}


def same_but_for_time(folder: Path) -> dict[str, object]:
    """What a command leaves: bytes of every file but logs of times; these without their times."""
    left: dict[str, object] = {}
    for name, content in tree(folder).items():
        if name.endswith(LOG):
            left[name] = [{**line, "seconds": 0} for line in read_log(folder / name)]
        elif name.endswith("result.json"):
            left[name] = {**json.loads(content), "seconds": 0}
        elif "events.out" not in name and not name.endswith(".lock") and "pictures/training" not in name:
            left[name] = content
    return left


def saved_lines(folder: Path) -> list[dict[str, object]]:
    """The lines of a training log up to the state that is saved, with their times."""
    if not (folder / STATE).exists():
        return []
    with safe_open(folder / STATE, framework="pt") as opened:
        skeleton = json.loads(opened.metadata()["emma-tasks-training"])
    step = dict(dict(skeleton["state"]["items"])["progress"]["items"])["step"]
    return [line for line in read_log(folder / LOG) if line["step"] <= step]


def chains(run: Undisturbed, kills: int, tmp_path: Path):
    """Kill a command at its work, twice in one folder and then where it starts to go on, until it was hit enough.

    Yields the folder of the output after each kill, and after each chain, when the command has ended; the caller looks
    at what is there.
    """
    drawn, hits, chain = random.Random(2305), 0, 0
    while hits < kills:
        assert chain < kills + 2, f"only {hits} kills hit the work, in {chain} folders"
        out = tmp_path / f"chain-{chain}"
        for _ in range(min(2, kills - hits)):
            outputs = drawn.randint(min(run.victim.done(out) + 1, run.outputs - 1), run.outputs - 1)
            hits += kill_after(run, out, outputs, drawn.uniform(0, run.each))
            yield out, False
        if kills > 1:
            kill_after(run, out, 0, drawn.uniform(0, run.start_up))
            yield out, False
        finished = run.victim.run(out)
        assert finished.returncode == 0, finished.stderr
        yield out, True
        chain += 1


MANY = [pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.mark.parametrize(
    ("name", "kills"),
    [
        ("fuse-dataset", 1),
        pytest.param("fuse-dataset", OFTEN, marks=MANY),
        pytest.param("fuse-dataset by EMMA", OFTEN, marks=MANY),
    ],
)
def test_fuse_dataset_ends_with_equal_bytes_and_makes_nothing_twice(undisturbed, tmp_path, name, kills):
    run = undisturbed(name)
    whole, recorded, before = tree(run.folder), {}, {}
    for out, ended in chains(run, kills, tmp_path):
        folder = out / run.victim.place
        assert stamps(recorded) == before, "an image was made twice"
        recorded, before = {}, {}
        if ended:
            assert tree(folder) == whole
            continue
        images = {path.relative_to(folder).as_posix(): path for path in folder.glob("all/*.png")}
        assert all(path.read_bytes() == whole[name] for name, path in images.items()), "half an image"
        records = [path.read_text() for name in (MANIFEST, JOURNAL) if (path := folder / name).exists()]
        recorded = {name: path for name, path in images.items() if f'"{path.stem}"' in "".join(records)}
        assert len(images) - len(recorded) <= run.victim.threads, "a thread makes one image at a time"
        before = stamps(recorded)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_train_ends_with_equal_bytes_and_goes_on_from_the_last_save(undisturbed, tmp_path):
    run = undisturbed("train")
    whole, saved = same_but_for_time(run.folder), []
    for out, ended in chains(run, OFTEN, tmp_path):
        if ended:
            assert read_log(out / LOG)[: len(saved)] == saved, "saved steps were trained again"
            assert same_but_for_time(out) == whole
        saved = [] if ended else saved_lines(out)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_segment_ends_with_equal_bytes_and_repeats_no_finished_row(undisturbed, tmp_path):
    run = undisturbed("segment")
    whole, finished, before = same_but_for_time(run.folder), {}, {}
    for out, ended in chains(run, OFTEN, tmp_path):
        folder = out / run.victim.place
        assert stamps(finished) == before
        finished = {} if ended else {str(path): path for path in folder.glob("*/*/result.json")}
        before = stamps(finished)
        if ended:
            assert same_but_for_time(folder) == whole


@pytest.fixture
def yolo(tmp_path):
    offline.keep_to(tmp_path / "settings")
    from detection import yolo

    return yolo


def test_a_detector_that_goes_on_after_its_best_epoch_keeps_the_best_weights(yolo, tmp_path, monkeypatch):
    """Validation finds the first epoch best; the run is stopped after it, and goes on."""
    made = images(tmp_path / "data", 8)
    note = yolo._Trainer._note

    def validate(self):
        fitness = 0.9 if self.epoch == 0 else 0.1
        self.best_fitness = max(self.best_fitness or 0.0, fitness)
        return {}, fitness

    def stop(self):
        note(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(yolo._Trainer, "validate", validate)
    with monkeypatch.context() as patch:
        patch.setattr(yolo._Trainer, "_note", stop)
        with pytest.raises(KeyboardInterrupt):
            yolo.train_detector(task(yolo, tmp_path / "run", made))
    best = (tmp_path / "run" / yolo.WEIGHTS).read_bytes()
    yolo.train_detector(task(yolo, tmp_path / "run", made))
    assert steps(tmp_path / "run") == [1, 2, 3]
    assert (tmp_path / "run" / yolo.WEIGHTS).read_bytes() == best


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_detect_keeps_finished_rows_and_ends_the_one_that_was_cut(undisturbed, tmp_path):
    """A detector that goes on ends near, not with, the weights of one that was not cut (docs/detection.md)."""
    run = undisturbed("detect")
    whole, kept, before, cut = tree(run.folder), {}, {}, set()
    for out, ended in chains(run, OFTEN, tmp_path):
        folder = out / run.victim.place
        assert stamps(kept) == before, "a finished row was touched"
        done = {path.parent.parent.name for path in folder.glob("*/*/result.json")}
        if ended:
            assert done == {"IR", "VI"}
            for row in {"IR", "VI"} - cut:
                for file in ("weights.safetensors", "predictions.json"):
                    name = f"{row}/seed0/{file}"
                    assert (folder / name).read_bytes() == whole[name], f"{row} was not cut, and differs"
            for log in folder.glob("*/*/log.jsonl"):
                assert [line["step"] for line in read_log(log)] == list(range(1, 9))
            kept, cut = {}, set()
        else:
            cut |= {path.parent.parent.name for path in folder.glob("*/*/log.jsonl")} - done
            kept = {str(path): path for row in done for path in (folder / row / "seed0").glob("*.*")}
        before = stamps(kept)

"""SIGKILL at random moments of whole commands, their start-up included.

Nothing that was finished is lost or made twice, and the same command ends with what an undisturbed run leaves. Kills
at chosen steps are in test_fuse_dataset.py, test_training.py, test_segmentation_training.py, test_detection_cli.py.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
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
"""Kills of each command in the slow part."""


@dataclass(frozen=True)
class Undisturbed:
    """A command, what it leaves when nobody kills it, and how long that takes [s]."""

    victim: Victim
    folder: Path
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Run a command to its end; once, however many tests ask for it."""
    runs: dict[str, Undisturbed] = {}

    def run(name: str) -> Undisturbed:
        if name not in runs:
            world = tmp_path_factory.mktemp(name)
            victim, begun = VICTIMS[name](world), time.monotonic()
            done = victim.run(world / "runs")
            assert done.returncode == 0, done.stderr
            runs[name] = Undisturbed(victim, world / "runs" / victim.place, time.monotonic() - begun)
        return runs[name]

    return run


def kill_at(victim: Victim, out: Path, moment: float) -> bool:
    """Start a command and kill it after some seconds; tell whether it was still running."""
    process = victim.start(out, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


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


def chains(name: str, run: Undisturbed, kills: int, tmp_path: Path):
    """Kill a command, and kill it again where it went on, in folders of their own until it was killed often enough.

    Yields the folder of the output after each chain and each kill; the caller looks at what is there.
    """
    moments = random.Random(name)
    done = 0
    while done < kills:
        out = tmp_path / f"chain-{done}"
        for _ in range(min(2, kills - done)):
            done += kill_at(run.victim, out, moments.uniform(0, run.seconds))
            yield out, False
        finished = run.victim.run(out)
        assert finished.returncode == 0, finished.stderr
        yield out, True


@pytest.mark.parametrize("kills", [1, pytest.param(OFTEN, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
def test_fuse_dataset_ends_with_equal_bytes_and_makes_nothing_twice(undisturbed, tmp_path, kills):
    run = undisturbed("fuse-dataset")
    whole, recorded, before = tree(run.folder), {}, {}
    for out, ended in chains("fuse-dataset", run, kills, tmp_path):
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
        assert len(images) - len(recorded) <= 1, "one core makes one image at a time"
        before = stamps(recorded)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_train_ends_with_equal_bytes_and_goes_on_from_the_last_save(undisturbed, tmp_path):
    run = undisturbed("train")
    whole, saved = same_but_for_time(run.folder), []
    for out, ended in chains("train", run, OFTEN, tmp_path):
        if ended:
            assert read_log(out / LOG)[: len(saved)] == saved, "saved steps were trained again"
            assert same_but_for_time(out) == whole
        saved = [] if ended else saved_lines(out)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_segment_ends_with_equal_bytes_and_repeats_no_finished_row(undisturbed, tmp_path):
    run = undisturbed("segment")
    whole, finished, before = same_but_for_time(run.folder), {}, {}
    for out, ended in chains("segment", run, OFTEN, tmp_path):
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
    for out, ended in chains("detect", run, OFTEN, tmp_path):
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

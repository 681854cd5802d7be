"""What a training run tells whoever watches: lines, the bar, and TensorBoard."""

from __future__ import annotations

import re

import pytest
from small_trainings import run_sensing
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from emma_core import training_log
from emma_core.images import read_image
from emma_core.training_log import LOG, PICTURES, TrainingLog, read_log

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_line_a_minute_says_how_fast_and_how_long(tmp_path, monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(training_log.time, "perf_counter", lambda: now[0])
    with TrainingLog(tmp_path, 20, 200, "fuser") as log:
        for step, now[0] in ((30, 150.0), (40, 180.0), (50, 220.0)):  # 10 steps before a minute has passed: no line
            log.tick(step, 0.25)
    assert capsys.readouterr().err.splitlines() == [
        "fuser: step 40 of 200: loss 0.25, 4.0 s for each step, 11 min left"
    ]


def test_the_last_minute_is_called_so(tmp_path, monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(training_log.time, "perf_counter", lambda: now[0])
    with TrainingLog(tmp_path, 0, 100, "fuser") as log:
        now[0] = 170.0
        log.tick(70, 0.25)
    assert capsys.readouterr().err.endswith("1.00 steps a second, less than 1 min left\n")


def test_on_a_terminal_the_bar_says_how_fast_and_how_long(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    now = [100.0]
    monkeypatch.setattr(training_log.time, "perf_counter", lambda: now[0])
    with TrainingLog(tmp_path, 20, 200, "fuser") as log:
        now[0] = 110.0
        log.tick(40, 0.25)
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"fuser .* 40/200 loss 0\.2500, 2\.00 steps a second (\d:\d\d|-:--):(\d\d|--)", shown)


def test_tensorboard_has_every_step_every_validation_and_its_picture(trainable, tmp_path):
    run_sensing(trainable, tmp_path)
    board = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    lines = read_log(tmp_path / LOG)
    steps = {line["step"]: line for line in lines if "loss" in line}
    validations = {line["step"]: line["validation"] for line in lines if "validation" in line}
    assert len(steps) == 6
    for name in ("loss", "norm", "rate"):
        found = {event.step: event.value for event in board.Scalars(f"train/{name}")}
        assert found == pytest.approx({step: line[name] for step, line in steps.items()})
    for name in ("l1", "constant", "copy", "score"):
        found = {event.step: event.value for event in board.Scalars(f"validation/{name}")}
        assert found == pytest.approx({step: values[name] for step, values in validations.items()})
    pictures = {event.step: (event.height, event.width) for event in board.Images("validation")}
    files = {step: tmp_path / PICTURES / f"step-{step:06d}.png" for step in validations}
    assert pictures == {step: read_image(file).shape for step, file in files.items()}

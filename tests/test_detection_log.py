"""What the training of a detector tells whoever watches: epochs and the time left, once a minute at least."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from conftest import random_image

from detection import offline
from detection.annotations import ImageBoxes
from detection.interface import LabelledImage, TrainingTask
from detection.recipes import DetectorRecipe
from emma_core import training_log
from emma_core.images import write_image
from emma_core.training_log import TrainingLog

TINY = DetectorRecipe(model="yolov5n", width=0.0625, size=64, batch=2, nominal_batch=2, epochs=2)


def test_a_line_a_minute_counts_epochs_and_says_how_long(tmp_path, monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(training_log.time, "perf_counter", lambda: now[0])
    with TrainingLog(tmp_path, 2, 400, "IR, seed 0", unit="epoch") as told:
        for step, now[0] in ((2.02, 150.0), (2.04, 220.0), (2.05, 250.0)):
            told.tick(step, 0.25)
    assert capsys.readouterr().err.splitlines() == [
        "IR, seed 0: epoch 2.04 of 400: loss 0.25, 3000.0 s for each epoch, 19898 min left"
    ]


def test_on_a_terminal_the_bar_counts_epochs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with TrainingLog(tmp_path, 20, 200, "IR, seed 0", unit="epoch") as told:
        told.tick(40.5, 0.25)
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"IR, seed 0 .* 40/200 loss 0\.2500, ", shown)


def test_every_batch_moves_it(tmp_path, monkeypatch):
    offline.keep_to(tmp_path / "settings")
    from detection import yolo

    images = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        write_image(path, random_image(number, (64, 64)))
        truth = ImageBoxes(64, 64, np.array([[8.0, 8, 40, 40]]), np.array([0]))
        images.append(LabelledImage(path, truth))
    told: list[float] = []
    monkeypatch.setattr(TrainingLog, "tick", lambda _, step, _loss: told.append(step))
    task = TrainingTask("IR", TINY, 0, ("Car",), images, images, {}, tmp_path / "run", torch.device("cpu"))
    (tmp_path / "run").mkdir()
    yolo.train_detector(task)
    assert told == pytest.approx([0.5, 1, 1, 1.5, 2, 2])

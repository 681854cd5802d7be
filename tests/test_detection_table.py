"""What a table of detectors says beside its figures: pairs that weights were trained on, and what a picture shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detection.bench import open_bench
from detection.coco import PREDICTIONS, write_predictions
from detection.interface import Detections
from detection.splits import DetectionSplit
from detection.table import Spent, open_table, summarise
from emma_core.datasets import SAMPLE_MARK, dataset_spec
from emma_core.fusers import SHIPPED_WEIGHTS
from emma_core.manifest import file_sha256
from emma_core.pairs import find_pairs
from emma_core.pictures import pictures_folder, read_index
from emma_core.results import read_result
from emma_core.rows import InputRow, source_rows
from emma_core.samples import write_samples

SPLIT = DetectionSplit("own", ("all/00003",), ("all/00004",), ("all/00000", "all/00001", "all/00002"))
NOTE = "EMMA: its weights were trained on 2 of these 3 pairs."  # emma_core/weights/trained_on.json


@pytest.fixture
def table(tmp_path):
    """Scenes that are called as those of M3FD are; infrared alone finds nothing, what is fused all there is."""
    (root,) = write_samples(tmp_path / "data", ["M3FD"], pairs=5, size=(64, 96))
    (root / SAMPLE_MARK).unlink()
    bench = open_bench(find_pairs(dataset_spec("M3FD"), root), lambda _: SPLIT)
    table = open_table(bench, tmp_path / "runs", {})
    table.begin()
    truth = [bench.annotations.images[pair.key] for pair in bench.test.pairs]
    found = [Detections(image.boxes, np.ones(len(image.boxes)), image.classes) for image in truth]
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    write_predictions(table.path / "EMMA" / PREDICTIONS, found)
    write_predictions(table.path / "IR" / PREDICTIONS, [nothing] * len(found))
    return table


def scored(table):
    """Infrared alone, then a row by the shipped weights, for whose images those of infrared stand."""
    infrared, _ = source_rows(table.bench.pairs)
    fused = InputRow("EMMA", infrared.files, {"checkpoint_sha256": file_sha256(SHIPPED_WEIGHTS)})
    rows = (infrared, fused)
    return rows, [table.score(table.path / row.name, row, "0", 0, Spent(1, {})) for row in rows]


def test_test_pairs_that_the_shipped_weights_were_trained_on_are_said_of_old_rows_too(table):
    _, (infrared, fused) = scored(table)
    assert "trained on" not in " ".join(infrared.result.notes)
    assert fused.result.notes.count(NOTE) == 1
    old = replace(fused.result, notes=())
    assert table.rescore(table.path / "EMMA", old).result.notes.count(NOTE) == 1
    assert NOTE in read_result(table.path / "EMMA" / "result.json").notes


def test_the_caption_of_a_gain_says_what_it_counts(table):
    summarise(table, *scored(table))
    place = pictures_folder(table.path)
    (gain,) = [picture for picture in read_index(place / "pictures.json") if picture.file == "EMMA-gain.png"]
    most = max(len(table.bench.annotations.images[key].boxes) for key in SPLIT.test)
    assert (
        f"largest gain of EMMA, hits minus false alarms {most:+d} against the better of IR, each row at" in gain.caption
    )

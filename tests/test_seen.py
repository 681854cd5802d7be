"""Pairs that the shipped weights were trained on are counted, and said under every table that is about them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from conftest import REPOSITORY, emma, write_pairs

from emma_core.datasets import dataset_spec
from emma_core.fusers import SHIPPED_WEIGHTS
from emma_core.manifest import file_sha256
from emma_core.pairs import find_pairs, read_split_file
from emma_core.report.tables import table_of
from emma_core.results import Column, Result
from emma_core.seen import TRAINED_ON, count_seen, seen_note

SHA256 = file_sha256(SHIPPED_WEIGHTS)
FORMER = json.loads(TRAINED_ON.read_text())["former_sha256"]
SPLITS = REPOSITORY / "docs" / "splits"


def pairs_called(tmp_path, dataset, names):
    """Pairs of a data set of these ids; what they show does not matter."""
    root = write_pairs(tmp_path / "TNO", 1, shape=(48, 64))
    (pair,) = find_pairs(dataset_spec("TNO"), root).pairs
    found = find_pairs(dataset_spec("TNO"), root)
    return replace(found, dataset=dataset, pairs=tuple(replace(pair, id=name) for name in names))


def ids(name):
    return [listed.rpartition("/")[2] for listed in read_split_file(SPLITS / name)]


@pytest.mark.parametrize(
    ("dataset", "listed", "seen"),
    [
        ("MSRS", "msrs_train_121.txt", 121),
        ("MSRS", "msrs_test_80.txt", 0),
        ("RoadScene", "roadscene_test_50.txt", 0),
        ("MSRS-sample", "msrs_train_121.txt", 0),
        ("TNO", "msrs_train_121.txt", 0),
    ],
)
def test_the_lists_of_the_documentation(tmp_path, dataset, listed, seen):
    pairs = pairs_called(tmp_path, dataset, ids(listed))
    assert count_seen(pairs, SHA256) == seen
    assert [count_seen(pairs, former) for former in FORMER] == [seen] * len(FORMER)
    assert count_seen(pairs, "of other weights") == count_seen(pairs, None) == 0


@pytest.mark.data
@pytest.mark.parametrize(("dataset", "seen"), [("MSRS", 121), ("RoadScene", 171), ("M3FD", 13), ("TNO", 0)])
def test_what_the_card_says(data, dataset, seen):
    assert count_seen(find_pairs(dataset_spec(dataset), data / dataset), SHA256) == seen


def test_it_is_said_under_the_table_and_before_a_table_is_reproduced(tmp_path):
    root = write_pairs(tmp_path / "RoadScene", 2, shape=(48, 64), folders=("ir", "vi"))
    for side in ("ir", "vi"):
        (root / side / "001.png").rename(root / side / "FLIR_00006.png")
    planned = emma("reproduce", "table1", "--root", tmp_path, "--runs", tmp_path / "runs", "--dry-run").stdout
    assert "RoadScene by EMMA: its weights were trained on 1 of these 2 pairs." in planned
    emma("fuse-dataset", "RoadScene", "--root", root, "--runs", tmp_path / "runs")
    done = emma("evaluate", "RoadScene", "--root", root, "--runs", tmp_path / "runs")
    assert "EMMA: its weights were trained on 1 of these 2 pairs." in done.stdout
    assert seen_note("max", {}, find_pairs(dataset_spec("RoadScene"), root)) == ()


@pytest.mark.parametrize(("checkpoint", "said"), [(FORMER[0], True), (SHA256, False), ("0" * 64, False), (None, False)])
def test_rows_by_weights_that_were_shipped_before_say_so(checkpoint, said):
    """Whoever takes a new version of the package still has the old one's results, and compares."""
    result = Result(
        task="evaluate",
        title="Fusion quality",
        dataset="TNO",
        split="all",
        split_hash="0",
        count=25,
        row="EMMA",
        columns=(Column("EN", "bits", True),),
        values={"EN": 7.0},
        source={"method": "EMMA", "checkpoint_sha256": checkpoint},
    )
    (note,) = [note for note in table_of([result]).notes if "shipped before" in note] or [""]
    assert note.startswith(f"EMMA: by the weights that were shipped before ({FORMER[0][:8]})") == said

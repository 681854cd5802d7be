"""What a table of detectors says of runs that were stopped, lost a part, or were made side by side."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from detection_bench import detect, make_bench

from detection import run
from detection.recipes import detector_recipe
from emma_core.comparisons import read_comparisons
from emma_core.results import read_result

ROWS = {"--ir": "IR", "--vis": "VI"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return make_bench(tmp_path_factory.mktemp("detect"))


def table_folder(bench):
    return bench / "runs" / "detect" / "M3FD-sample" / "thirds"


def test_rows_that_another_command_trained_meanwhile_are_compared(bench, monkeypatch):
    train, others = run._train_row, []

    def meanwhile(*given):
        if not others:
            others.append("")
            others[:] = [detect(bench, "--split", "thirds", "--ir", "--vis").returncode]
        return train(*given)

    monkeypatch.setattr(run, "_train_row", meanwhile)
    assert detect(bench, "--split", "thirds", "--fused").returncode == 0
    assert others == [0]
    found = read_comparisons(table_folder(bench) / "comparisons.json")
    assert {(each.row, each.against) for each in found} == {("max", "IR"), ("max", "VI")}


def test_a_run_that_lost_its_predictions_still_says_how_long_and_where_it_was_trained(bench):
    assert detect(bench, "--split", "thirds", "--ir").returncode == 0
    place = table_folder(bench) / "IR" / "seed0"
    log, result = place / "log.jsonl", place / "result.json"
    *lines, last = log.read_text().splitlines()
    log.write_text("\n".join([*lines, json.dumps({**json.loads(last), "seconds": 5000})]) + "\n")
    before, told = read_result(result), json.loads(result.read_text())
    result.write_text(json.dumps({**told, "environment": {**told["environment"], "processor": "another"}}))
    (place / "predictions.json").unlink()
    assert detect(bench, "--split", "thirds", "--ir").returncode == 0
    again = read_result(result)
    assert again.seconds > 5000
    assert again.environment["processor"] == "another"
    assert again.values == pytest.approx(before.values, nan_ok=True)


@pytest.mark.parametrize("row", ["--ir", "--vis"])
def test_what_another_command_begins_while_images_are_read_is_not_mixed_with(bench, monkeypatch, tmp_path, row):
    """It would be trained for days, and then be no row of the table."""
    check, others = run.check_images, []
    ours = ("--split", "thirds", "--runs", tmp_path)

    def meanwhile(*given):
        if not others:
            others.append("")
            others[:] = [detect(bench, *ours, row, "--epochs", "1").returncode]
        return check(*given)

    monkeypatch.setattr(run, "check_images", meanwhile)
    refused = detect(bench, *ours, "--ir")
    assert others == [0]
    assert refused.returncode == 2
    assert "holds a run of other settings (epochs: 1, now 2)" in refused.stderr
    places = list(tmp_path.glob("detect/*/*/*/seed0"))
    assert [(place.parent.name, (place / "result.json").exists()) for place in places] == [(ROWS[row], True)]


def test_detectors_trained_elsewhere_are_scored_again_and_not_joined_by_others(bench, tmp_path):
    """As if they had been trained in bf16, on a GPU; this is a processor."""
    ours = ("--split", "thirds", "--runs", tmp_path)
    assert detect(bench, *ours, "--ir", "--vis").returncode == 0
    (table,) = tmp_path.glob("detect/*/thirds")
    for place in table.glob("*/seed0"):
        config = (place / "config.toml").read_text()
        (place / "config.toml").write_text(config.replace('precision = "fp32"', 'precision = "bf16"'))
    assert detect(bench, *ours, "--ir", "--vis").returncode == 0
    assert [read_result(table / row / "seed0" / "result.json").recipe["precision"] for row in ROWS.values()] == (
        ["bf16"] * 2
    )
    refused = detect(bench, *ours, "--ir", "--vis", "--seeds", "0,1")
    said = "holds detectors trained in bf16, and cpu would train in fp32; go on with --device cuda, or choose another"
    assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr


def test_detectors_trained_in_another_number_format_are_no_rows_of_one_table():
    hashed = SimpleNamespace(hash="0")
    tested = SimpleNamespace(split=hashed, annotations=hashed, sources_hash="0", pairs=SimpleNamespace(dataset="M3FD"))
    setups = [
        run.TrainingSetup("quick", detector_recipe("quick"), (0,), None, torch.device("cpu"), precision)
        for precision in ("fp32", "bf16")
    ]
    plain, other = (setup.identity(tested) for setup in setups)
    assert other == {**plain, "precision": "bf16"}
    assert [setup.config(tested, "IR", "0", 0).precision for setup in setups] == ["fp32", "bf16"]

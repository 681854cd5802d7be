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


def test_detectors_trained_in_another_number_format_are_no_rows_of_one_table(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    hashed = SimpleNamespace(hash="0")
    tested = SimpleNamespace(split=hashed, annotations=hashed, sources_hash="0", pairs=SimpleNamespace(dataset="M3FD"))
    setups = [
        run.TrainingSetup("quick", detector_recipe("quick"), (0,), None, torch.device(device))
        for device in ("cpu", "cuda")
    ]
    plain, other = (setup.identity(tested) for setup in setups)
    assert other == {**plain, "precision": "bf16"}
    assert [setup.config(tested, "IR", "0", 0).precision for setup in setups] == ["fp32", "bf16"]

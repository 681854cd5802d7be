"""Scoring a data set: every row on the same pairs, written and traceable."""

from __future__ import annotations

import csv
import json
import math
import shutil

import cv2
import numpy as np
import pytest
import torch
from conftest import emma, random_image, write_pairs
from scipy import stats

from emma_core.comparisons import COMPARISONS, in_short, read_comparisons
from emma_core.datasets import dataset_spec, folder_spec
from emma_core.errors import DataError, ManifestError, UsageError
from emma_core.evaluate import evaluate_dataset, fusion_measures, row_images, score_pairs, write_scores
from emma_core.fuse_dataset import fuse_dataset, fused_folder
from emma_core.fusers import load_fuser
from emma_core.images import read_image, write_image
from emma_core.manifest import MANIFEST, Journal, file_sha256, read_manifest
from emma_core.metrics.bootstrap import LEAST_IMAGES, bootstrap
from emma_core.metrics.fusion import METRICS, fusion_metrics
from emma_core.paired import _mean_of
from emma_core.pairs import find_pairs
from emma_core.report.tables import collect_tables
from emma_core.results import read_result
from emma_core.rows import chosen_rows, fused_rows, with_foreign

TNO = dataset_spec("TNO")


@pytest.fixture
def root(tmp_path):
    return write_pairs(tmp_path / "TNO", 4, shape=(48, 64))


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


def fuse(root, runs, method):
    folder = fused_folder(runs, "TNO", method)
    fuse_dataset(find_pairs(TNO, root), load_fuser(method), folder)
    return folder


def evaluate(root, runs, folders=(), **options):
    pairs = find_pairs(TNO, root)
    return evaluate_dataset(pairs, with_foreign(fused_rows(pairs, runs, naive=False), pairs, folders), runs, **options)


def levels(path):
    """Whole grey levels as OpenCV gives them, (1, H, W)."""
    image = np.rint(read_image(path) * np.float32(255))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    return torch.from_numpy(np.rint(grey))[None]


def test_rows_values_and_traces(root, runs):
    folder = fuse(root, runs, "laplacian")
    outcome = evaluate(root, runs)
    assert [result.row for result in outcome.results] == ["IR", "VI", "mean", "max", "laplacian"]
    assert outcome.faults == ()
    scores = [
        fusion_metrics(*(levels(place / f"{i:03d}.png") for place in (root / "ir", root / "vi", folder / "all")))
        for i in range(4)
    ]
    last = outcome.results[-1]
    for name in METRICS:
        values = [float(score[name]) for score in scores]
        assert last.values[name] == pytest.approx(np.mean(values), abs=1e-9)
        assert last.deviation[name] == pytest.approx(np.std(values), abs=1e-9)
    assert last.source["manifest_sha256"] == file_sha256(folder / MANIFEST)
    assert [result.baseline for result in outcome.results] == [True, True, True, True, False]
    assert {result.split_hash for result in outcome.results} == {find_pairs(TNO, root).hash}


def test_files_on_disk_say_the_same(root, runs):
    outcome = evaluate(root, runs)
    for result in outcome.results:
        folder = runs / "evaluate" / "TNO" / "all" / result.row
        assert read_result(folder / "result.json") == result
        rows = list(csv.DictReader((folder / "per_image.csv").read_text().splitlines()))
        assert [row["id"] for row in rows] == ["000", "001", "002", "003"]
        assert np.mean([float(row["EN"]) for row in rows]) == pytest.approx(result.values["EN"], abs=1e-5)


def test_naive_rows_are_what_their_files_score(root, runs, tmp_path):
    """To the last digit: the computed rows ``mean`` and ``max`` and what was fused to disk, in colour."""
    folders = [(f"{method} from files", tmp_path / method) for method in ("mean", "max")]
    for method in ("mean", "max"):
        fuse_dataset(find_pairs(TNO, root), load_fuser(method), tmp_path / method)
    found = {result.row: result.values for result in evaluate(root, runs, folders).results}
    assert list(found) == ["IR", "VI", "mean", "max", "mean from files", "max from files"]
    for method in ("mean", "max"):
        assert found[f"{method} from files"] == found[method]


def test_naive_rows_do_not_change_when_their_images_are_made_for_a_detector(root, runs):
    before = {result.row: result.values for result in evaluate(root, runs).results}
    for method in ("mean", "max"):
        fuse(root, runs, method)
    after = evaluate(root, runs).results
    assert {result.row: result.values for result in after} == before
    assert [result.source for result in after] == [{}] * 4


def test_images_of_naive_rules_are_neither_needed_nor_looked_at(root, runs):
    """Made for a detector, they may be incomplete: the table computes these rows."""
    (fuse(root, runs, "max") / "all" / "001.png").unlink()
    fuse(root, runs, "laplacian")
    done = emma("evaluate", "TNO", "--root", root, "--runs", runs)
    assert (done.returncode, done.stderr) == (0, "")
    shutil.rmtree(fused_folder(runs, "TNO", "laplacian"))
    done = emma("evaluate", "TNO", "--root", root, "--runs", runs)
    assert (done.returncode, "No images by other methods than mean and max under" in done.stderr) == (0, True)


def test_the_mean_of_two_levels_is_rounded_to_even(tmp_path):
    for folder, first in (("ir", 0), ("vi", 1)):
        write_image(tmp_path / folder / "a.png", np.arange(first, first + 4, dtype=np.float32)[None] / 255)
    (pair,) = find_pairs(TNO, tmp_path).pairs
    assert row_images(pair, [], TNO)["mean"].tolist() == [[0, 2, 2, 4]]


def test_images_made_elsewhere(root, runs, tmp_path):
    for index in range(4):
        write_image(tmp_path / "theirs" / f"{index:03d}.png", random_image(index, (48, 64)))
    outcome = evaluate(root, runs, [("Theirs", tmp_path / "theirs")])
    assert [result.row for result in outcome.results][-1] == "Theirs"
    for name in ("..", "a/b", "../../up"):
        with pytest.raises(UsageError, match="cannot name a row"):
            evaluate(root, runs, [(name, tmp_path / "theirs")])
    with pytest.raises(UsageError, match="Two rows"):
        evaluate(root, runs, [("A", tmp_path / "theirs"), ("A", tmp_path / "theirs")])
    (tmp_path / "theirs" / "003.png").unlink()
    with pytest.raises(DataError, match=r"1 of 4 fused images are missing, first all/003"):
        evaluate(root, runs, [("Theirs", tmp_path / "theirs")])
    with pytest.raises(DataError, match="no such folder"):
        evaluate(root, runs, [("Theirs", tmp_path / "none")])


def test_a_constant_source_is_told(root, runs):
    quiet = evaluate(root, runs).results[0]
    write_image(root / "ir" / "001.png", np.full((48, 64), 0.5, np.float32))
    told = evaluate(root, runs).results[0]
    note = "On 1 image a source is constant; VIF counts it as kept in full, with 1."
    assert (note in quiet.notes, note in told.notes) == (False, True)


def test_nobody_is_asked_for_fused_images_of_pairs_that_cannot_be_fused(root, runs, tmp_path):
    for index in (0, 1, 2):
        write_image(tmp_path / "theirs" / f"{index:03d}.png", random_image(index, (48, 64)))
    write_image(root / "vi" / "003.png", random_image(3, (48, 63)))
    outcome = evaluate(root, runs, [("Theirs", tmp_path / "theirs")])
    (fault,) = map(str, outcome.faults)
    assert fault.startswith("all/003: the two images differ in size: infrared and visible are 64 x 48 and 63 x 48; ")
    assert outcome.results[-1].count == 3
    with pytest.raises(DataError, match=r"1 of 4 fused images are missing, first all/003"):
        chosen_rows(find_pairs(TNO, root), runs, infrared=True, folders=[("Theirs", tmp_path / "theirs")])


def test_missing_fused_images_name_the_command(root, runs):
    pairs = find_pairs(TNO, root)
    fuse_dataset(pairs, load_fuser("laplacian"), fused_folder(runs, "TNO", "laplacian"), limit=1)
    with pytest.raises(DataError, match=r"3 of 4 .*emma-tasks fuse-dataset TNO --root .* --method laplacian"):
        evaluate(root, runs)


@pytest.mark.parametrize("harm", ["partial", "stopped", "changed"])
def test_an_incomplete_folder_that_nobody_asked_for_is_left_out_and_named(root, runs, harm, capsys):
    folder = fuse(root, runs, "max")
    if harm == "partial":
        shutil.rmtree(folder)
        fuse_dataset(find_pairs(TNO, root), load_fuser("max"), folder, limit=1)
    elif harm == "stopped":
        with Journal(folder, read_manifest(folder)):
            (folder / MANIFEST).unlink()
    else:
        write_image(folder / "all" / "002.png", random_image(56, (48, 64)))
    fuse(root, runs, "laplacian")
    pairs = find_pairs(TNO, root)
    assert [row.name for row in fused_rows(pairs, runs)] == ["laplacian"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"No row for {folder}: ")
    assert "emma-tasks fuse-dataset" in line
    assert [row.name for row in chosen_rows(pairs, runs)] == ["IR", "VI", "laplacian"]
    shutil.rmtree(fused_folder(runs, "TNO", "laplacian"))
    for asked in ({}, {"fused": True}):
        with pytest.raises(DataError, match=r"emma-tasks fuse-dataset"):
            chosen_rows(pairs, runs, **asked)


def test_foreign_folders_are_added_to_the_rows_asked_for(root, runs, tmp_path):
    pairs = find_pairs(TNO, root)
    theirs = [("Theirs", fuse(root, tmp_path / "elsewhere", "max"))]
    assert [row.name for row in chosen_rows(pairs, runs, folders=theirs)] == ["IR", "VI", "Theirs"]
    fuse(root, runs, "laplacian")
    assert [row.name for row in chosen_rows(pairs, runs, folders=theirs)] == ["IR", "VI", "laplacian", "Theirs"]
    assert [row.name for row in chosen_rows(pairs, runs, visible=True, folders=theirs)] == ["VI", "Theirs"]
    assert [result.row for result in evaluate(root, runs, theirs).results][-2:] == ["laplacian", "Theirs"]
    with pytest.raises(UsageError, match="Two rows would be called 'laplacian'"):
        chosen_rows(pairs, runs, folders=[("laplacian", theirs[0][1])])


def test_missing_foreign_images_name_no_option_that_a_command_has_not(root, runs, tmp_path):
    write_image(tmp_path / "theirs" / "000.png", random_image(0, (48, 64)))
    with pytest.raises(DataError, match=r"3 of 4 .* first all/001; make them, or ask only for the ids") as caught:
        with_foreign((), find_pairs(TNO, root), [("Theirs", tmp_path / "theirs")])
    assert "--split-file" not in str(caught.value)


def test_fused_rows_are_compared_with_the_maximum_and_each_source(tmp_path, runs):
    root = write_pairs(tmp_path / "TNO", LEAST_IMAGES, shape=(48, 64))
    fuse(root, runs, "laplacian")
    outcome = evaluate(root, runs)
    results = {result.row: result for result in outcome.results}
    said = read_comparisons(outcome.folder / COMPARISONS)
    assert [(each.row, each.against) for each in said[:: len(METRICS)]] == [
        ("laplacian", against) for against in ("max", "VI", "IR")
    ]
    for each in said:
        assert each.table_key == results["laplacian"].table_key
        difference = results["laplacian"].values[each.column] - results[each.against].values[each.column]
        assert each.difference == pytest.approx(difference, abs=1e-9)
        assert each.low <= each.difference <= each.high
    shown = collect_tables(runs)[0][0].comparisons
    assert [each.sentence() for each in shown] == [each.sentence() for each in said]
    printed = emma("evaluate", "TNO", "--root", root, "--runs", runs).stdout
    assert [line for line in printed.splitlines() if line.startswith("laplacian against ")] == in_short(said)
    assert in_short(said)[0].startswith("laplacian against max (95 % intervals, 10 images): ")


def test_what_was_said_of_rows_that_are_not_scored_now_is_kept(root, runs, tmp_path):
    fuse(root, runs, "laplacian")
    before = read_comparisons(evaluate(root, runs).folder / COMPARISONS)
    for index in range(4):
        write_image(tmp_path / "theirs" / f"{index:03d}.png", random_image(index, (48, 64)))
    folder = evaluate(root, runs, [("Theirs", tmp_path / "theirs")]).folder
    after = read_comparisons(folder / COMPARISONS)
    assert after[: len(before)] == before
    assert {each.row for each in after[len(before) :]} == {"Theirs"}
    (folder / COMPARISONS).write_text("{")
    assert {each.row for each in read_comparisons(evaluate(root, runs).folder / COMPARISONS)} == {"laplacian"}


def test_intervals_are_over_the_images_that_define_a_figure():
    """Against scipy; a column that few images define, or none, has an interval of those, or none."""
    rng = np.random.default_rng(5)
    figures = rng.normal(2, 1, (40, 3))
    figures[1:, 1], figures[:, 2] = math.nan, math.nan
    mean, single, never = bootstrap(_mean_of(figures), 40, draws=4000)
    theirs = stats.bootstrap((figures[:, 0],), np.mean, n_resamples=4000, method="percentile", rng=2)
    ends = theirs.confidence_interval.low, theirs.confidence_interval.high
    assert (mean.low, mean.high) == pytest.approx(ends, abs=0.06)
    assert single.low == pytest.approx(figures[0, 1])
    assert single.high == pytest.approx(figures[0, 1])
    assert math.isnan(never.value)


def test_unusable_pairs_are_left_out_of_every_row(root, runs, tmp_path):
    for index in range(4):
        write_image(tmp_path / "theirs" / f"{index:03d}.png", random_image(index, (48, 64) if index != 1 else (5, 5)))
    (root / "ir" / "002.png").write_bytes(b"")
    outcome = evaluate(root, runs, [("Theirs", tmp_path / "theirs")])
    assert {result.count for result in outcome.results} == {2}
    reasons = {fault.id: fault.reason for fault in outcome.faults}
    assert reasons.keys() == {"001", "002"}
    assert "5 x 5" in reasons["001"]
    assert "empty" in reasons["002"]


def test_fused_images_of_other_sources_or_changed_since_are_refused(root, runs):
    folder = fuse(root, runs, "laplacian")
    write_image(root / "ir" / "001.png", random_image(55, (48, 64)))
    with pytest.raises(DataError, match=r"1 of 4 .* made from other files, first all/001.*--method laplacian"):
        evaluate(root, runs)
    fuse(root, runs, "laplacian")
    write_image(folder / "all" / "002.png", random_image(56, (48, 64)))
    with pytest.raises(DataError, match="first all/002"):
        evaluate(root, runs)


def test_an_unfinished_run_is_not_left_out_in_silence(root, runs):
    folder = fuse(root, runs, "laplacian")
    with Journal(folder, read_manifest(folder)):
        (folder / MANIFEST).unlink()
    with pytest.raises(DataError, match="was stopped; finish it"):
        evaluate(root, runs)


def test_the_same_ids_of_other_pictures_are_another_table(root, runs, tmp_path):
    other = write_pairs(tmp_path / "other", 4, shape=(64, 48))
    keys = {evaluate(place, runs).results[0].table_key for place in (root, other)}
    assert len(keys) == 2


def test_own_folders_get_the_command_with_their_folders(root, runs):
    pairs = find_pairs(folder_spec("mine", root / "ir", root / "vi"), root)
    fuse_dataset(pairs.first(1), load_fuser("max"), fused_folder(runs, "mine", "trial"))
    with pytest.raises(DataError, match=r"fuse-dataset mine --ir .*/ir --vis .*/vi --method max --name trial"):
        fused_rows(pairs, runs)


def test_a_flat_folder_does_not_serve_parts_that_share_ids(tmp_path, runs):
    for part in ("MRI-CT/CT", "MRI-CT/MRI", "MRI-PET/PET", "MRI-PET/MRI", "flat"):
        write_image(tmp_path / part / "1.png", random_image(1, (48, 48)))
    pairs = find_pairs(dataset_spec("Harvard"), tmp_path)
    with pytest.raises(DataError, match="ids repeat between the parts"):
        with_foreign((), pairs, [("Theirs", tmp_path / "flat")])


def test_nothing_to_score(root, runs):
    for path in (root / "ir").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of 4 pairs"):
        evaluate(root, runs)


def test_foreign_manifest_is_refused(root, runs):
    folder = fuse(root, runs, "laplacian")
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "dataset": "MSRS"}))
    with pytest.raises(ManifestError, match="holds images of MSRS"):
        evaluate(root, runs)


def test_tiny_images_leave_a_note_and_no_number(tmp_path, runs):
    root = write_pairs(tmp_path / "tiny", 2, shape=(12, 12))
    result = evaluate(root, runs).results[0]
    assert math.isnan(result.values["VIF"])
    assert not math.isnan(result.values["SSIM"])
    assert "VIF is not defined on 2 of 2 images" in result.notes[0]
    assert read_result(runs / "evaluate" / "TNO" / "all" / "IR" / "result.json").notes == result.notes


def test_a_task_scores_once_and_writes_a_table_for_each_part(tmp_path, runs):
    """The halves that ``medical`` takes: measures of its own choice, one table a part, notes and recipe in each."""
    for number, part in enumerate(("MRI-CT/CT", "MRI-CT/MRI", "MRI-PET/PET", "MRI-PET/MRI")):
        write_image(tmp_path / part / "1.png", random_image(number, (48, 48)))
    pairs = find_pairs(dataset_spec("Harvard"), tmp_path)
    scores = score_pairs(pairs, (), fusion_measures(["MI", "EN"]))
    chosen = scores.part("MRI-PET", "pets")
    results = write_scores(chosen, runs, task="t", title="T", recipe={"a": 1}, notes=("said",))
    assert [result.row for result in results] == ["other", "MRI", "mean", "max"]
    mri = read_result(runs / "t" / "Harvard" / "pets" / "MRI" / "result.json")
    assert (mri.parts, mri.count, mri.recipe, mri.notes) == (("MRI-PET",), 1, {"a": 1}, ("said",))
    images = [levels(tmp_path / "MRI-PET" / side / "1.png") for side in ("PET", "MRI", "MRI")]
    expected = fusion_metrics(*images, ["MI", "EN"])
    assert list(mri.values) == ["MI", "EN"]
    assert mri.values == pytest.approx({name: float(value) for name, value in expected.items()})


@pytest.mark.slow
@pytest.mark.data
def test_the_naive_rows_of_the_80_night_and_day_pairs(data, runs):
    """Known values of the pixel maximum and of each camera on our test list, from an independent evaluator."""
    pairs = find_pairs(dataset_spec("MSRS"), data / "MSRS", split_file=data / "MSRS" / "test_list.txt")
    names = ["EN", "SD", "AG", "MI", "VIF", "Qabf"]
    outcome = evaluate_dataset(pairs, fused_rows(pairs, runs), runs)
    known = {
        "max": (6.71, 42.79, 3.68, 4.60, 1.07, 0.74),
        "VI": (6.63, 43.78, 3.55, 4.84, 1.05, 0.70),
        "IR": (5.18, 13.88, 1.43, 3.83, 1.03, 0.33),
    }
    for result in outcome.results:
        if result.row in known:
            values = [result.values[name] for name in names]
            np.testing.assert_allclose(values, known[result.row], atol=0.0055)  # known to two decimals


def test_fused_images_cannot_pass_for_a_source(root, runs):
    fuse_dataset(find_pairs(TNO, root), load_fuser("max"), fused_folder(runs, "TNO", "IR"))
    with pytest.raises(UsageError, match="'IR' is the name of a fixed row"):
        evaluate(root, runs)

"""``emma-tasks medical`` as a person runs it: tables, pictures and faults."""

from __future__ import annotations

import csv
import math
import shutil
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, emma, tree
from medical_bench import heads, make_bench, medical

from emma_core.comparisons import read_comparisons
from emma_core.datasets import dataset_spec
from emma_core.evaluate import read_levels
from emma_core.fuse_dataset import fuse_dataset, fused_folder
from emma_core.fusers import load_fuser
from emma_core.images import read_image, write_image
from emma_core.metrics.detail import detail_survival
from emma_core.metrics.fusion import fusion_metrics
from emma_core.pairs import find_pairs
from emma_core.pictures import read_index
from emma_core.results import read_result
from emma_core.rows import fused_rows
from medical.data import harvard_pairs
from medical.maps import paint_survival
from medical.run import evaluate_medical

COLUMNS = ["EN", "SD", "AG", "MI", "VIF", "Qabf", "Detail MRI", "Detail other"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_bench(tmp_path_factory.mktemp("medical"))


@pytest.fixture(scope="module")
def done(place):
    """One run over everything, with a foreign folder: the laplacian rule, as if made elsewhere."""
    pairs = find_pairs(dataset_spec("Harvard"), place / "Harvard")
    fuse_dataset(pairs, load_fuser("laplacian"), place / "theirs")
    run = medical(place, "--root", "Harvard", "--fused-dir", "Theirs=theirs", "--runs", "runs")
    assert run.returncode == 0, run.stderr
    return run


def folder(place, part):
    return place / "runs" / "medical" / "Harvard-sample" / part


def results_of(place, part):
    rows = ("other", "MRI", "mean", "max", "EMMA", "Theirs")
    return {row: read_result(folder(place, part) / row / "result.json") for row in rows}


def pairs_of(place, part=None):
    return [pair for pair in harvard_pairs(place / "Harvard").pairs.pairs if part in {None, pair.split}]


def parts(place):
    return sorted({pair.split for pair in pairs_of(place)})


def test_a_table_for_each_modality_and_one_over_all(place, done):
    assert parts(place) == ["MRI-CT", "MRI-PET", "MRI-SPECT"]
    for part in [*parts(place), "all"]:
        assert f"Medical fusion: Harvard-sample {part}" in done.stdout
        results = {
            row: read_result(folder(place, part) / row / "result.json") for row in ("other", "MRI", "EMMA", "Theirs")
        }
        assert [column.name for column in results["EMMA"].columns] == COLUMNS
        assert {result.table_key for result in results.values()} == {results["EMMA"].table_key}
        assert results["EMMA"].deviation.keys() == set(COLUMNS)
        assert results["EMMA"].parts == (tuple(parts(place)) if part == "all" else (part,))
        assert results["MRI"].values["Detail MRI"] == pytest.approx(1, abs=1e-6)
        assert results["other"].values["Detail other"] == pytest.approx(1, abs=1e-6)
        assert results["MRI"].values["Detail other"] < 0.5
        precision = results["EMMA"].source["precision"]
        assert precision in {"fp32", "bf16"}
        assert f"EMMA: fused in {precision}." in done.stdout


def test_figures_are_those_of_the_files(place, done):
    pairs = pairs_of(place, "MRI-PET")
    expected = []
    for pair in pairs:
        fused = read_levels(place / "theirs" / f"{pair.key}.png")[None]
        other, mri = (read_levels(path)[None] for path in (pair.infrared, pair.visible))
        metrics = fusion_metrics(other, mri, fused, COLUMNS[:6])
        expected.append(
            [*map(float, metrics.values()), *(float(detail_survival(each, fused)) for each in (mri, other))]
        )
    result = read_result(folder(place, "MRI-PET") / "Theirs" / "result.json")
    assert [result.values[name] for name in COLUMNS] == pytest.approx(np.mean(expected, 0))
    assert [result.deviation[name] for name in COLUMNS] == pytest.approx(np.std(expected, 0))
    with (folder(place, "MRI-PET") / "Theirs" / "per_image.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["id"] for row in rows] == [pair.id for pair in pairs]
    np.testing.assert_allclose([[float(row[name]) for name in COLUMNS] for row in rows], expected, atol=1e-6)


def test_fused_images_keep_the_colours_of_pet_and_spect(place, done):
    for pair in pairs_of(place):
        fused = read_image(place / "runs" / "fused" / "Harvard-sample" / "EMMA" / f"{pair.key}.png")
        assert fused.ndim == (2 if pair.split == "MRI-CT" else 3)
        if fused.ndim == 3:
            assert float(np.ptp(fused, axis=2).max()) > 0.2


def test_fused_rows_are_compared_with_the_maximum_and_each_scan(place, done):
    said = read_comparisons(folder(place, "all") / "comparisons.json")
    results = {
        row: read_result(folder(place, "all") / row / "result.json")
        for row in ("other", "MRI", "max", "EMMA", "Theirs")
    }
    expected = product(("EMMA", "Theirs"), ("max", "MRI", "other"), COLUMNS)
    assert [(each.row, each.against, each.column) for each in said] == list(expected)
    for each in said:
        assert each.table_key == results["EMMA"].table_key
        expected = results[each.row].values[each.column] - results[each.against].values[each.column]
        assert each.difference == pytest.approx(expected, abs=1e-9)
        assert (math.isnan(each.low), each.images) == (True, 6), "six images give no interval"
    assert done.stdout.count("6 images: too few to tell rows from each other; 10 at least are needed.\n") == 1
    assert "Theirs against" not in done.stdout, "of the row fused now alone"


def test_maps_show_the_worst_the_middling_and_the_best_pair(place, done):
    for part in parts(place):
        pictures = read_index(folder(place, part) / "pictures" / "pictures.json")
        assert all((folder(place, part) / "pictures" / picture.file).exists() for picture in pictures)
        assert len(pictures) == min(
            3, len([p for p in harvard_pairs(place / "Harvard").pairs.pairs if p.split == part])
        )
        assert all(part in picture.caption and "EMMA" in picture.caption for picture in pictures)


def test_a_second_run_keeps_the_images_and_says_the_same(place, done):
    before = tree(place / "runs" / "fused")
    index = folder(place, "MRI-PET") / "pictures" / "pictures.json"
    whole = index.read_bytes()
    index.write_bytes(whole[: len(whole) // 2])  # a disk that was full, say; the list is made anew
    again = medical(place, "--root", "Harvard", "--fused-dir", "Theirs=theirs", "--runs", "runs")
    assert again.stdout == done.stdout
    assert tree(place / "runs" / "fused") == before
    assert index.read_bytes() == whole


def test_the_report_shows_it(place, done):
    assert emma("report", "--runs", "runs", cwd=place).returncode == 0
    page = (place / "runs" / "report" / "index.html").read_text("utf-8")
    for text in ("Medical fusion", "Detail MRI", "What survives of each scan"):
        assert text in page


def test_one_modality_and_all_metrics(place):
    run = medical(place, "--root", "Harvard", "--modality", "pet", "--all-metrics", "--runs", "pet")
    assert run.returncode == 0, run.stderr
    assert "Medical fusion: Harvard-sample MRI-PET" in run.stdout
    assert [path.name for path in (place / "pet" / "medical" / "Harvard-sample").iterdir()] == ["MRI-PET"]
    result = read_result(place / "pet" / "medical" / "Harvard-sample" / "MRI-PET" / "EMMA" / "result.json")
    names = ["EN", "SD", "SF", "AG", "MI", "VIF", "Qabf", "SCD", "CC", "SSIM", "Detail MRI", "Detail other"]
    assert [column.name for column in result.columns] == names


def test_other_settings_are_another_row_and_do_not_mix(place, tmp_path):
    asked = ["--root", "Harvard", "--modality", "CT", "--runs", tmp_path]
    assert medical(place, *asked).returncode == 0
    mixed = medical(place, *asked, "--range", "stretch")
    assert (mixed.returncode, "other settings (range: 'sigmoid', now 'stretch')" in mixed.stderr) == (1, True)
    assert medical(place, *asked, "--range", "stretch", "--name", "EMMA-stretch").returncode == 0
    rows = tmp_path / "medical" / "Harvard-sample" / "MRI-CT"
    spread = [read_result(rows / name / "result.json").values["SD"] for name in ("EMMA", "EMMA-stretch")]
    assert spread[1] > 2 * spread[0]  # untrained weights give next to one grey


def test_a_list_of_ids_gets_folders_of_its_own(place, tmp_path):
    pairs = pairs_of(place)
    (tmp_path / "few.txt").write_text("\n".join(pair.key for pair in (pairs[0], pairs[-1])))
    run = medical(place, "--root", "Harvard", "--split-file", tmp_path / "few.txt", "--runs", tmp_path)
    assert run.returncode == 0, run.stderr
    labels = sorted(path.name for path in (tmp_path / "medical" / "Harvard-sample").iterdir())
    assert [label[:3] for label in labels] == ["few"] * 3
    assert [label.rpartition("-MRI-")[2] for label in labels[1:]] == ["CT", "SPECT"]


def test_the_same_images_as_two_folders_score_the_same(place, done):
    sides = ["--mri", "Harvard/MRI-PET/MRI", "--other", "Harvard/MRI-PET/PET", "--modality", "pet"]
    run = medical(place, *sides, "--runs", "own")
    assert run.returncode == 0, run.stderr
    own = read_result(place / "own" / "medical" / "MRI-PET" / "all" / "EMMA" / "result.json")
    assert own.values == pytest.approx(read_result(folder(place, "MRI-PET") / "EMMA" / "result.json").values)
    fused = place / "runs" / "fused" / "Harvard-sample" / "EMMA" / "MRI-PET"
    assert tree(place / "own" / "fused" / "MRI-PET" / "EMMA" / "MRI-PET") == tree(fused)


def test_naive_rules_are_no_rows_to_make(place):
    refused = emma("medical", "--root", "Harvard", "--method", "max", cwd=place)
    assert (refused.returncode, refused.stderr) == (
        2,
        "Error: --method max: every medical table has the rows mean and max already\n",
    )


@pytest.mark.parametrize("modality", ["MRI", "max", "EMMA"])
def test_a_modality_may_be_called_like_what_stands_beside_it(place, done, tmp_path, modality):
    """Two sequences of MRI are one such case; a panel of the maps each."""
    sides = ["--mri", "Harvard/MRI-CT/MRI", "--other", "Harvard/MRI-CT/CT", "--modality", modality]
    run = medical(place, *sides, "--runs", tmp_path)
    assert run.returncode == 0, run.stderr
    maps = tmp_path / "medical" / f"MRI-{modality}" / "all" / "pictures"
    usual = folder(place, "MRI-CT") / "pictures" / "detail-0001.png"
    assert read_image(maps / "detail-0001.png").shape == read_image(usual).shape


def test_the_table_of_the_only_modality_that_could_be_scored_is_called_by_it(place, tmp_path):
    shutil.copytree(place / "Harvard", tmp_path / "Harvard")
    for pair in pairs_of(tmp_path):
        if pair.split != "MRI-CT":
            pair.visible.write_bytes(b"")
    run = medical(place, "--root", tmp_path / "Harvard", "--runs", tmp_path / "runs")
    assert run.returncode == 1
    assert [path.name for path in (tmp_path / "runs" / "medical" / "Harvard-sample").iterdir()] == ["MRI-CT"]


def test_a_pair_that_cannot_be_used_is_named_and_the_rest_is_done(place, tmp_path):
    shutil.copytree(place / "Harvard", tmp_path / "Harvard")
    pair = pairs_of(tmp_path, "MRI-SPECT")[-1]
    write_image(pair.visible, read_image(pair.visible)[:-2])
    arguments = ["--root", tmp_path / "Harvard", "--modality", "SPECT", "--runs", tmp_path / "runs"]
    run = medical(place, *arguments)
    assert run.returncode == 1
    assert f"Left out {pair.key}" in run.stderr
    assert "1 left out; everything else is done." in run.stderr


OWN = ["--mri", "Harvard/MRI-PET/MRI", "--other", "Harvard/MRI-PET/PET"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ([], 2, "--root DIR, or --mri DIR --other DIR --modality"),
        (["--root", "Harvard", *OWN, "--modality", "PET"], 2, "Give either --root DIR"),
        (["--mri", "Harvard"], 2, "go together"),
        (OWN, 2, "--modality CT|PET|SPECT|NAME go together"),
        (["--root", "Harvard", "--window", "40,80"], 2, "go with --mri DIR --other DIR"),
        (["--root", "Harvard", "--dataset", "x"], 2, "go with --mri DIR --other DIR"),
        (["--root", "Harvard", "--modality", "MR"], 2, "it has: MRI-CT, MRI-PET, MRI-SPECT"),
        (["--root", "Harvard", "--name", "max"], 2, "none of IR, VI, MRI, other, mean, max"),
        (["--root", "Harvard", "--fused-dir", "Max=Harvard"], 2, "--fused-dir 'Max': tables have a row of that name"),
        (["--root", "Harvard", "--fused-dir", "Max=Harvard", "--dry-run"], 2, "--fused-dir 'Max'"),
        ([*OWN, "--modality", "PET", "--fused-dir", "max=Harvard"], 2, "--fused-dir 'max'"),
        (["--root", "Harvard", "--name", "a/b"], 2, "without folders"),
        (["--root", "Harvard", "--fused-dir", "Theirs=none"], 1, "no such folder"),
        (["--root", "Harvard", "--fused-dir", "Theirs=none", "--dry-run"], 1, "no such folder"),
        (["--root", "Harvard", "--fused-dir", "none"], 2, "NAME=PATH"),
        (["--root", "none"], 1, "emma-tasks datasets Harvard"),
        ([*OWN, "--modality", "a/b"], 2, "--modality 'a/b'"),
        ([*OWN, "--modality", "PET", "--dataset", "MSRS"], 2, "MSRS is a known data set"),
        ([*OWN, "--modality", "PET", "--dataset", "../up"], 2, "cannot name a data set"),
        ([*OWN, "--modality", "PET", "--window", "40"], 2, "expected CENTRE,WIDTH"),
        ([*OWN, "--modality", "PET", "--mri-window", "40,80"], 2, "the folders hold none"),
        (["--mri", "Harvard", "--other", "none", "--modality", "CT"], 1, "none: no such folder"),
    ],
)
def test_mistakes_get_one_line_a_status_and_write_nothing(place, arguments, status, says):
    before = set(place.rglob("*"))
    run = medical(place, *arguments, "--runs", "wrong")
    assert run.returncode == status, run.stdout + run.stderr
    assert run.stderr.count("\n") == 1, run.stderr
    assert run.stderr.startswith("Error: ")
    assert says in run.stderr
    assert set(place.rglob("*")) == before


def test_dry_runs_write_nothing(place, tmp_path):
    scans = heads(tmp_path)
    before = tree(place), tree(tmp_path)
    runs = ["--runs", tmp_path / "runs", "--dry-run"]
    told = medical(place, "--root", "Harvard", "--fused-dir", "Theirs=theirs", *runs)
    assert told.returncode == 0
    assert told.stdout.startswith(
        "Would fuse 6 pairs of Harvard-sample (MRI-CT 2, MRI-PET 2, MRI-SPECT 2) by EMMA into "
    )
    assert "max, Theirs and" in told.stdout
    assert medical(place, *scans, *runs).stdout.startswith("Would convert ")
    assert (tree(place), tree(tmp_path)) == before


def test_help_has_an_example_and_fits_a_terminal():
    done = emma("medical", "--help")
    assert "Example: emma-tasks medical --root" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_the_command_module_loads_nothing_heavy():
    heavy = {"torch", "numpy", "cv2", "matplotlib", "pydicom", "nibabel"}
    code = f"import sys, medical.command; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_painted_edges_are_blue_where_they_arrive_and_orange_where_they_are_lost():
    source = torch.zeros(40, 40)
    source[:, 20:] = 200
    kept, lost = paint_survival(source, source), paint_survival(source, torch.zeros(40, 40))
    assert kept.shape == (40, 40, 3)
    assert kept[20, 20, 2] > kept[20, 20, 0]
    assert lost[20, 20, 0] > lost[20, 20, 2]
    assert kept[20, 5].tolist() == lost[20, 5].tolist() == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(1200)
def test_the_136_real_pairs_and_a_copy_of_the_mri(data, tmp_path):
    """EMMA as published in results/; known values of the maximum; the MRI alone leads the paper's EMMA in three."""
    pairs = harvard_pairs(data / "Harvard").pairs
    fuse_dataset(pairs, load_fuser("EMMA", precision="fp32"), fused_folder(tmp_path, "Harvard", "EMMA"))
    outcome = evaluate_medical(pairs, fused_rows(pairs, tmp_path), tmp_path, shown="EMMA")
    assert [table.results[0].count for table in outcome.tables] == [21, 42, 73, 136]
    for table in outcome.tables:
        (ours,) = [result for result in table.results if result.row == "EMMA"]
        as_published = read_result(REPOSITORY / "results" / "medical" / "Harvard" / ours.split / "EMMA" / "result.json")
        assert ours.values == pytest.approx(as_published.values, abs=0.02)
        assert ours.source["precision"] == "fp32"  # bf16 adds 0.1 to SD
    rows = {result.row: result.values for result in outcome.tables[-1].results}
    published = {"EN": 5.18, "SD": 58.76, "AG": 6.4, "MI": 1.71, "VIF": 0.64, "Qabf": 0.73}
    assert [name for name, figure in published.items() if rows["MRI"][name] > figure] == ["MI", "VIF", "Qabf"]
    # Of its lumas alone 68.24; in the colours of PET and SPECT some bright ones are clipped.
    assert rows["max"]["SD"] == pytest.approx(68.02, abs=0.05)
    assert (rows["MRI"]["Detail MRI"], rows["MRI"]["Detail other"]) == pytest.approx((1, 0.12), abs=0.005)

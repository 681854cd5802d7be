"""``emma-tasks medical`` on scans of one's own: folders, DICOM and NIfTI files, and no name of any patient."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
from conftest import emma, tree
from medical_bench import NAME, heads, make_bench, medical
from test_medical_scans import dicom, save

from emma_core.report.figure import plot_of
from emma_core.report.gallery import collect_galleries
from emma_core.report.tables import read_tables
from emma_core.results import read_result
from emma_core.samples import write_samples
from medical.data import harvard_pairs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_bench(tmp_path_factory.mktemp("medical"))


@pytest.mark.parametrize("options", [["--method", "guided"], ["--grey"], ["--method", "max", "--name", "mine"]])
def test_own_scans_get_rows_by_other_methods(place, tmp_path, options):
    """What fuse-dataset makes of these folders is of another part; the command that is named instead works."""
    sides = ["--mri", "Harvard/MRI-PET/MRI", "--other", "Harvard/MRI-PET/PET", "--modality", "pet"]
    folders = ["--ir", "Harvard/MRI-PET/PET", "--vis", "Harvard/MRI-PET/MRI"]
    runs = ["--runs", str(tmp_path / "runs")]
    assert emma("fuse-dataset", "MRI-PET", *folders, *options, "--name", "mine", *runs, cwd=place).returncode == 0
    told = medical(place, *sides, *runs)
    assert told.returncode == 0, told.stderr
    assert "No row for" in told.stderr
    _, _, command = told.stderr.splitlines()[-1].partition("Make them with: emma-tasks ")
    assert "medical --mri" in command
    again = emma(*shlex.split(command), cwd=place)
    assert "No such option" not in again.stderr
    if "guided" in options:
        assert again.returncode == 0, again.stderr
        assert (tmp_path / "runs" / "medical" / "MRI-PET" / "all" / "mine" / "result.json").exists()


def test_scans_of_ones_own_are_called_so_in_the_report(place, tmp_path):
    sides = ["--mri", "Harvard/MRI-CT/MRI", "--other", "Harvard/MRI-CT/CT", "--modality", "FLAIR"]
    assert medical(place, *sides, "--dataset", "heads", "--runs", tmp_path).returncode == 0
    (gallery,), _ = collect_galleries(tmp_path)
    assert [picture.name for picture in gallery.examples[0].pictures] == ["FLAIR", "MRI", "EMMA"]
    (table,), _ = read_tables(tmp_path)
    legend = dict(plot_of(table).legend)
    assert (legend["infrared"], legend["visible"], legend["baseline"]) == ("other alone", "MRI alone", "naive rule")


def test_no_output_of_dicom_files_holds_the_name(place, tmp_path):
    folders = heads(tmp_path / f"of {NAME}")
    (tmp_path / f"of {NAME}" / "ct" / f"{NAME}^2.dcm").write_bytes(b"damaged")
    save(tmp_path / f"of {NAME}" / "mri" / f"{NAME}^2.dcm", dicom())
    run = medical(place, *folders, "--runs", tmp_path / "runs")
    assert run.returncode == 1
    assert "2 DICOM files, rescaled" in " ".join(run.stdout.split())
    assert run.stderr.count("Left out") == 1
    emma("report", "--runs", tmp_path / "runs")
    result = read_result(tmp_path / "runs" / "medical" / "MRI-CT" / "all" / "EMMA" / "result.json")
    assert "Whether the scans of 2 of 2 pairs of files lie on each other is not known" in " ".join(result.notes)
    outputs = tree(tmp_path / "runs")
    assert {
        "medical/MRI-CT/all/EMMA/result.json",
        "converted/MRI-CT/MRI/0001.png",
        "report/index.html",
    } <= outputs.keys()
    for name, content in outputs.items():
        assert NAME.lower() not in name.lower()
        assert NAME.lower().encode() not in content.lower(), name
        assert NAME.encode("utf-16-le") not in content, name


def test_volumes_give_axial_slices_and_the_result_says_how(place, tmp_path):
    folders = heads(tmp_path, nifti=True)
    run = medical(place, *folders, "--window", "500,1000", "--runs", tmp_path / "runs", "--dataset", "heads")
    assert run.returncode == 0, run.stderr
    result = read_result(tmp_path / "runs" / "medical" / "heads" / "all" / "EMMA" / "result.json")
    assert result.count == 3
    assert "other: 1 NIfTI file, rescaled, shown in the window asked for (centre 500, width 1000)." in result.notes
    assert "1 of 4 slices are left out: a scan shows nothing in them." in result.notes
    manifest = json.loads((tmp_path / "runs" / "fused" / "heads" / "EMMA" / "manifest.json").read_text())
    assert [row["id"] for row in manifest["rows"]] == ["0001-001", "0001-002", "0001-004"]


@pytest.mark.parametrize("modality", [[], ["--modality", "CT"]])
def test_dicom_files_in_the_harvard_layout_get_the_options_that_read_them(place, tmp_path, modality):
    for side in ("MRI", "CT"):
        (tmp_path / "MRI-CT" / side).mkdir(parents=True)
    where = ["--root", tmp_path, *modality, "--runs", tmp_path / "runs"]
    assert "--mri" not in medical(place, *where).stderr, "empty folders hold no scans"
    for side in ("MRI", "CT"):
        save(tmp_path / "MRI-CT" / side / "a.dcm", dicom())
    run = medical(place, *where)
    assert run.returncode == 1
    assert "hold no images (" in run.stderr
    assert "give their folders as --mri DIR --other DIR --modality CT|PET|SPECT" in run.stderr


def test_scans_in_a_part_of_the_harvard_layout_are_named_beside_the_images_of_others(place, tmp_path):
    write_samples(tmp_path, ["Harvard"], pairs=3, size=(64, 64))
    shutil.rmtree(tmp_path / "Harvard" / "MRI-CT")
    for side in ("MRI", "CT"):
        (tmp_path / "Harvard" / "MRI-CT" / side).mkdir(parents=True)
        save(tmp_path / "Harvard" / "MRI-CT" / side / "a.dcm", dicom())
    where = ["--root", tmp_path / "Harvard", "--runs", tmp_path / "runs", "--dry-run"]
    run = medical(place, *where)
    assert (run.returncode, "(MRI-PET 2, MRI-SPECT 2)" in run.stdout) == (1, True), run.stdout
    assert "Left out MRI-CT/*: DICOM or NIfTI files are there: give their folders as --mri DIR" in run.stderr
    assert medical(place, *where, "--modality", "PET").returncode == 0, "what is not asked for is not missed"
    assert medical(place, *where, "--modality", "CT").returncode == 1
    (tmp_path / "Harvard" / "MRI-CT").rename(tmp_path / "Harvard" / "notes")
    assert medical(place, *where).returncode == 0, "what is not of the layout is nobody's business"


def test_a_file_that_cannot_be_read_is_no_scan(place, tmp_path, monkeypatch):
    write_samples(tmp_path, ["Harvard"], pairs=3, size=(64, 64))
    (tmp_path / "Harvard" / "MRI-CT" / "CT" / "secret").write_bytes(b"")

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr("medical.data.scan_format", refuse)
    assert harvard_pairs(tmp_path / "Harvard").faults == ()

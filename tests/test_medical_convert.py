"""DICOM and NIfTI files to pairs of PNG files: what belongs together, what lies on each other, what is said of it."""

from __future__ import annotations

import math

import nibabel
import numpy as np
import pytest
from test_medical_scans import STORED, dicom, save, volume

from emma_core.errors import DataError
from emma_core.images import write_image
from medical.convert import convert_scans
from medical.scans import Window, read_scan

PLACED = {
    "PixelSpacing": [0.5, 0.75],
    "ImagePositionPatient": [-120.5, 80.25, 33],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
}
"""Where a slice lies, as a DICOM file says it: rows are 0.5 mm apart, columns 0.75 mm."""


def convert(tmp_path, windows=(None, None), modality=""):
    folders = {"MRI": tmp_path / "mri", "other": tmp_path / "ct"}
    return convert_scans(folders, dict(zip(folders, windows, strict=True)), tmp_path / "out", modality)


@pytest.fixture
def two(tmp_path):
    for side in ("mri", "ct"):
        (tmp_path / side).mkdir()
    return tmp_path


def pair_of_volumes(folder, mri, ct, name="head", affines=(None, None)):
    nibabel.save(volume(mri, affines[0]), folder / "mri" / f"{name}.nii.gz")
    nibabel.save(volume(ct, affines[1]), folder / "ct" / f"{name}.nii.gz")


@pytest.mark.parametrize(
    ("declared", "modality", "said"),
    [
        (("MR", "CT"), "CT", ""),
        (("MR", "PT"), "PET", ""),
        (("MR", "OT"), "PET", ""),  # says nothing
        ((None, None), "CT", ""),
        (("MR", "MR"), "FLAIR", ""),  # a name of one's own
        (("CT", "MR"), "CT", "the file of --mri says that it is CT, expected MR; are the folders swapped, or is"),
        (("MR", "CT"), "SPECT", "the file of --other says that it is CT, expected NM; are the folders swapped, or is"),
    ],
)
def test_a_scan_of_another_modality_is_refused(two, declared, modality, said):
    """Swapped, the figures of either scan would stand in the column of the other."""
    for side, kind in zip(("mri", "ct"), declared, strict=True):
        save(two / side / "a.dcm", dicom(**({"Modality": kind} if kind else {})))
    if said:
        with pytest.raises(DataError, match=said):
            convert(two, modality=modality)
    else:
        assert convert(two, modality=modality).faults == ()


def test_folders_the_wrong_way_round_lose_nothing(two):
    for side, kind in (("mri", "MR"), ("ct", "CT")):
        save(two / side / "a.dcm", dicom(Modality=kind))
    convert(two, modality="CT")
    made = sorted(two.glob("out/*/*.png"))
    (two / "mri").rename(two / "other")
    (two / "ct").rename(two / "mri")
    (two / "other").rename(two / "ct")
    with pytest.raises(DataError, match="None of 1 pairs"):
        convert(two, modality="CT")
    assert len(made) == 2
    assert sorted(two.glob("out/*/*.png")) == made


def test_conversion_numbers_files_and_slices_and_says_what_it_did(two):
    values = np.random.default_rng(0).random((6, 7, 5)).astype(np.float32)
    values[..., 1] = 0
    pair_of_volumes(two, values, values * 100, "b")
    for side in ("mri", "ct"):
        save(two / side / "a.dcm", dicom(WindowCenter=40, WindowWidth=80))
        save(two / side / "c", dicom(WindowCenter=50, WindowWidth=80))
    (two / "out" / "MRI").mkdir(parents=True)
    (two / "out" / "MRI" / "9999.png").write_bytes(b"of an earlier run")
    done = convert(two, (None, Window(30, 60)))
    names = ["0001.png", *(f"0002-{level:03d}.png" for level in (1, 3, 4, 5)), "0003.png"]
    for side in ("MRI", "other"):
        assert sorted(path.name for path in done.folders[side].iterdir()) == names
    assert done.faults == ()
    half = float(values.max()) / 2
    in_whole = "from the smallest to the largest value of each file"
    assert [note.split("; ") for note in done.notes] == [
        [
            "MRI: 2 DICOM files, rescaled, shown in the window of the file (centre 40 to 50, width 80)",
            f"1 NIfTI file, rescaled, shown {in_whole} (centre {half:g}, width {2 * half:g}).",
        ],
        [
            "other: 2 DICOM files, rescaled, shown in the window asked for (centre 30, width 60)",
            "1 NIfTI file, rescaled, shown in the window asked for (centre 30, width 60).",
        ],
        ["Whether the scans of 2 of 3 pairs of files lie on each other is not known: not both files say where."],
        ["1 of 7 slices are left out: a scan shows nothing in them."],
    ]


def test_what_does_not_fit_is_named_and_the_rest_is_done(two):
    values = np.random.default_rng(0).random((6, 7, 5)).astype(np.float32)
    shifted = np.eye(4)
    shifted[0, 3] = 3
    pair_of_volumes(two, values, values, "good")
    pair_of_volumes(two, values, values[..., :4], "short")
    pair_of_volumes(two, values, values[:5], "narrow")
    pair_of_volumes(two, values, values, "moved", (None, shifted))
    save(two / "mri" / "alone.dcm", dicom())
    for name in ("twice.dcm", "twice.ima"):
        save(two / "ct" / name, dicom())
    save(two / "mri" / "twice.dcm", dicom())
    reasons = {fault.id: fault.reason for fault in convert(two).faults}
    assert reasons.keys() == {"short", "narrow", "moved", "alone", "twice"}
    assert "the MRI is 5 x 6 x 7, the other scan 4 x 6 x 7" in reasons["short"]
    assert "the MRI is 5 x 6 x 7, the other scan 5 x 5 x 7" in reasons["narrow"]
    assert "up to 3 mm apart" in reasons["moved"]
    assert "its mate is missing" in reasons["alone"]
    assert "two files of one name" in reasons["twice"]


def test_nothing_to_convert(two):
    with pytest.raises(DataError, match="no scan of the one is named as one of the other"):
        convert(two)
    with pytest.raises(DataError, match="no such folder"):
        convert(two / "nowhere")
    pair_of_volumes(two, np.zeros((4, 5, 3), np.float32), np.zeros((4, 5, 3), np.float32))
    with pytest.raises(DataError, match="None of 1 pairs of scans could be used; their slices show nothing"):
        convert(two)
    (two / "ct" / "head.nii.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"None of 1 pairs of scans could be used; first: head: .*the file is empty"):
        convert(two)


def test_ordinary_images_may_stand_beside_scans(two):
    save(two / "mri" / "a.dcm", dicom())
    write_image(two / "ct" / "a.png", (STORED / STORED.max()).astype(np.float32))
    done = convert(two)
    assert done.notes[1] == "other: 1 image file, grey levels or colours as stored."
    assert (done.folders["other"] / "0001.png").read_bytes() == (two / "ct" / "a.png").read_bytes()


@pytest.mark.filterwarnings("ignore:The DICOM readers are highly experimental")
@pytest.mark.parametrize("turned", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (0.6, 0.8, 0, -0.8 * 0.6, 0.6 * 0.6, 0.8)])
def test_a_slice_lies_where_nibabel_has_it(tmp_path, turned):
    from nibabel.nicom import dicomwrappers

    data = dicom(**PLACED | {"ImageOrientationPatient": list(turned)})
    theirs = dicomwrappers.wrapper_from_data(data).affine  # (row, column, slice) to left, posterior, superior
    expected = np.diag([-1, -1, 1, 1]) @ theirs[:, [1, 0, 2, 3]]
    found = read_scan(save(tmp_path / "a.dcm", data)).affine
    np.testing.assert_allclose(found[:, [0, 1, 3]], expected[:, [0, 1, 3]], atol=1e-6)
    assert abs(found[:3, 2] @ found[:3, :2]).max() < 1e-9


def turned_by(degrees):
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return [round(cosine, 6), round(sine, 6), 0, round(-sine, 6), round(cosine, 6), 0]


def placed_pair(folder, name="a", **change):
    """A pair of slices that say where they lie; the other scan lies elsewhere as far as changed."""
    save(folder / "mri" / f"{name}.dcm", dicom(**PLACED))
    save(folder / "ct" / f"{name}.dcm", dicom(**PLACED | change))


@pytest.mark.parametrize(
    ("change", "apart"),
    [
        ({"PixelSpacing": [1, 0.75]}, 0.5 * 23),
        ({"PixelSpacing": [0.75, 0.5]}, math.hypot(0.25 * 23, 0.25 * 31)),
        ({"ImagePositionPatient": [379.5, 80.25, 33]}, 500),
        ({"ImagePositionPatient": [-120.5, 80.25, 34.5]}, 1.5),
        ({"ImageOrientationPatient": turned_by(0.5)}, math.radians(0.5) * math.hypot(0.5 * 23, 0.75 * 31)),
        ({"ImageOrientationPatient": [-1, 0, 0, 0, 1, 0]}, 2 * 0.75 * 31),
    ],
)
def test_slices_that_do_not_lie_on_each_other_are_refused(two, change, apart):
    placed_pair(two)
    placed_pair(two, "b", **change)
    (fault,) = convert(two).faults
    assert fault.id == "b"
    assert f"do not lie on each other (pixels are up to {apart:.3g} mm apart" in fault.reason
    assert "Zwiebel" not in fault.reason


def test_places_that_files_round_are_one(two):
    placed_pair(two, ImagePositionPatient=[-120.52, 80.25, 33], ImageOrientationPatient=turned_by(0.01))
    done = convert(two)
    assert done.faults == ()
    assert len(done.notes) == 2, "what both files declare is known"


@pytest.mark.parametrize(
    "change",
    [
        {"PixelSpacing": None},
        {"PixelSpacing": [1]},
        {"ImagePositionPatient": [1, 2]},
        {"ImageOrientationPatient": None},
        {"ImagePositionPatient": ["1e400", 0, 0]},
    ],
)
def test_where_one_file_does_not_say_where_it_lies_a_note_says_so(two, change):
    placed_pair(two)
    placed_pair(two, "b", **change)
    done = convert(two)
    assert done.faults == ()
    assert done.notes[2:] == (
        "Whether the scans of 1 of 2 pairs of files lie on each other is not known: not both files say where.",
    )


def test_a_slice_beside_a_volume_is_not_compared_with_it(two):
    save(two / "mri" / "a.dcm", dicom(**PLACED))
    nibabel.save(volume(STORED.T[..., None].astype(np.float32)), two / "ct" / "a.nii")
    done = convert(two)
    assert (done.faults, len(done.notes)) == ((), 3)

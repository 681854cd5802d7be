"""DICOM and NIfTI files as images: values, windows and directions, and files that are damaged in every way."""

from __future__ import annotations

import gzip
import sys

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_windowing
from pydicom.uid import JPEG2000, CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from emma_core.errors import DataError, UsageError
from medical.scans import Window, parse_window, read_scan, scan_format, scan_stem

PATIENT = "Zwiebelkuchen^Ottilie"
STORED = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 5


def dicom(stored=STORED, **fields):
    """A CT slice of 12 bits with a name in it."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=["scan"])
    data.PatientName, data.PatientID, data.PatientBirthDate = PATIENT, PATIENT, "19380101"
    data.Rows, data.Columns = stored.shape[-3:-1] if stored.shape[-1] == 3 else stored.shape[-2:]
    data.SamplesPerPixel, data.PixelRepresentation, data.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelData = stored.tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    return data


def save(path, data):
    data.save_as(path, enforce_file_format=True)
    return path


def volume(values, affine=None, **header):
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    return image


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(40, 80), (0, 2000), (-600.5, 1500), (100, 1.5)])
def test_the_window_of_the_file_is_applied_as_pydicom_does(tmp_path, function, centre, width):
    data = dicom(WindowCenter=centre, WindowWidth=width, VOILUTFunction=function)
    scan = read_scan(save(tmp_path / "a.dcm", data))
    lowest, highest = -1024, 4095 - 1024  # of 12 bits, rescaled
    with np.errstate(over="ignore"):  # in pydicom's exp, far from the window
        expected = (apply_windowing(STORED.astype(float) - 1024, data) - lowest) / (highest - lowest)
    np.testing.assert_allclose(scan.images[0], expected, atol=1e-6)
    assert (scan.format, scan.shown, scan.window) == ("DICOM", "file", Window(centre, width))


def test_a_window_that_is_asked_for_comes_first_and_the_first_of_several_next(tmp_path):
    path = save(tmp_path / "a.dcm", dicom(WindowCenter=[40, 300], WindowWidth=[80, 1500]))
    assert read_scan(path).window == Window(40, 80)
    given_window = read_scan(path, Window(0, 100))
    expected = np.clip((STORED - 1024.0) / 100 + 0.5, 0, 1)
    np.testing.assert_allclose(given_window.images[0], expected, atol=1e-6)
    assert given_window.shown == "given"


def test_without_a_window_the_whole_range_is_shown(tmp_path):
    scan = read_scan(save(tmp_path / "a.dcm", dicom()))
    np.testing.assert_allclose(scan.images[0], STORED / STORED.max(), atol=1e-6)
    assert (scan.shown, scan.window) == ("range", Window(STORED.max() / 2 - 1024, float(STORED.max())))
    empty = read_scan(save(tmp_path / "empty.dcm", dicom(WindowCenter=None, WindowWidth=None)))
    assert (empty.shown, empty.window) == (scan.shown, scan.window)
    flat = read_scan(save(tmp_path / "flat.dcm", dicom(STORED * 0)))
    assert np.unique(flat.images[0]).tolist() == [0.5]


@pytest.mark.parametrize(("limit", "low"), [(None, 5), (10, 15)])
def test_padding_around_a_scan_does_not_take_its_grey_levels(tmp_path, limit, low):
    stored = STORED.astype(np.int16)
    stored[:, :4] = -2000
    stored[0, 4:7] = (5, 10, 15)  # the smallest values of the scan itself
    padded = {"PixelPaddingValue": -2000, "PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15}
    if limit is not None:
        padded["PixelPaddingRangeLimit"] = limit
    scan = read_scan(save(tmp_path / "a.dcm", dicom(stored, **padded)))
    high = int(STORED.max())
    grey = np.clip((stored - low) / (high - low), 0, 1)
    np.testing.assert_allclose(scan.images[0], grey, atol=1e-6)
    padding = (stored >= -2000) & (stored <= (-2000 if limit is None else limit))
    asked = {"WindowCenter": (low + high) / 2 - 1024, "WindowWidth": high - low, "VOILUTFunction": "LINEAR_EXACT"}
    for window in ({}, asked):
        inverted = dicom(stored, **padded, **window, PhotometricInterpretation="MONOCHROME1")
        (image,) = read_scan(save(tmp_path / "inverted.dcm", inverted)).images
        np.testing.assert_allclose(image, np.where(padding, 0, 1 - grey), atol=1e-6)
    blank = dicom(np.full_like(stored, -2000), **padded)
    assert np.unique(read_scan(save(tmp_path / "blank.dcm", blank)).images[0]).tolist() == [0]


def test_slope_and_intercept_are_applied(tmp_path):
    data = dicom(RescaleSlope=2.5, RescaleIntercept=-10)
    scan = read_scan(save(tmp_path / "a.dcm", data), Window(90, 200))
    np.testing.assert_allclose(scan.images[0], np.clip((STORED * 2.5 - 10 - 90) / 200 + 0.5, 0, 1), atol=1e-5)


def test_inverted_frames_and_colours(tmp_path):
    inverted = read_scan(save(tmp_path / "a.dcm", dicom(PhotometricInterpretation="MONOCHROME1")))
    np.testing.assert_allclose(inverted.images[0], 1 - STORED / STORED.max(), atol=1e-6)
    frames = read_scan(save(tmp_path / "b.dcm", dicom(np.stack([STORED, STORED + 100]), NumberOfFrames=2)))
    assert [image.shape for image in frames.images] == [(24, 32)] * 2
    assert frames.images[1].min() > 0
    colours = np.random.default_rng(0).integers(256, size=(24, 32, 3), dtype=np.uint8)
    rgb = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    scan = read_scan(save(tmp_path / "c.dcm", dicom(colours, **rgb, **bits)))
    np.testing.assert_allclose(scan.images[0], colours / 255, atol=1e-6)
    assert (scan.shown, scan.window) == ("stored", None)


def test_palette_colours(tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = dicom(levels, PhotometricInterpretation="PALETTE COLOR", BitsAllocated=8, BitsStored=8, HighBit=7)
    for number, name in enumerate(("Red", "Green", "Blue")):
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        table = (np.arange(256, dtype=np.uint16) * (number + 1) * 80).tobytes()
        setattr(data, f"{name}PaletteColorLookupTableData", table)
    image = read_scan(save(tmp_path / "a.dcm", data)).images[0]
    np.testing.assert_allclose(image, levels[..., None] * np.array([80, 160, 240]) / 65535, atol=1e-6)


def test_a_compressed_file_is_decoded(tmp_path):
    data = dicom()
    data.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_allclose(read_scan(save(tmp_path / "a.dcm", data)).images[0], STORED / STORED.max(), atol=1e-6)


def test_axial_slices_look_alike_however_a_volume_is_stored(tmp_path):
    values = np.random.default_rng(0).random((6, 7, 5)).astype(np.float32)
    straight = volume(values)
    values[5, 6, 4] = 2  # right, front, top
    expected = read_scan(_saved(straight, tmp_path / "ras.nii"))
    assert len(expected.images) == 5
    assert expected.images[-1].shape == (7, 6)
    assert np.unravel_index(expected.images[-1].argmax(), (7, 6)) == (0, 0)  # the right on the left, the front on top
    for name in ("LAS", "LPS", "PIR", "ASL"):
        codes = nibabel.orientations.axcodes2ornt(name)
        turned = straight.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(np.eye(4)), codes))
        scan = read_scan(_saved(turned, tmp_path / f"{name}.nii.gz"))
        np.testing.assert_array_equal(scan.images, expected.images)
        np.testing.assert_allclose(scan.affine, np.eye(4), atol=1e-6)


def _saved(image, path):
    nibabel.save(image, path)
    return path


def test_volumes_are_rescaled_and_windowed(tmp_path):
    values = np.arange(4 * 5 * 3, dtype=np.int16).reshape(4, 5, 3)
    image = volume(values)
    image.header.set_slope_inter(2, -20)
    path = _saved(image, tmp_path / "a.nii")
    scaled = nibabel.load(path).get_fdata()
    first = scaled[::-1, ::-1, 0].T
    whole = (first - scaled.min()) / (scaled.max() - scaled.min())
    np.testing.assert_allclose(read_scan(path).images[0], whole, atol=1e-5)
    asked = np.clip((first - 10) / 40 + 0.5, 0, 1)
    np.testing.assert_allclose(read_scan(path, Window(10, 40)).images[0], asked, atol=1e-5)
    declared = read_scan(_saved(volume(values.astype(np.float32), cal_min=10, cal_max=30), tmp_path / "b.nii"))
    assert (declared.shown, declared.window) == ("file", Window(20, 20))
    assert read_scan(_saved(volume(values[..., None]), tmp_path / "c.nii")).images[0].shape == (5, 4)


def test_files_are_told_by_name_or_by_their_first_bytes(tmp_path):
    save(tmp_path / "1.2.840.7", dicom())
    for name in ("x.nii.gz", "x.IMA", "x.PNG", "notes.txt", ".hidden.dcm", "DICOMDIR"):
        (tmp_path / name).write_bytes(b"?")
    known = {path.name: scan_format(path) for path in tmp_path.iterdir()}
    assert known == {
        "1.2.840.7": "DICOM",
        "x.nii.gz": "NIfTI",
        "x.IMA": "DICOM",
        "x.PNG": "image",
        "notes.txt": None,
        ".hidden.dcm": None,
        "DICOMDIR": None,
    }
    assert [scan_stem(tmp_path / name) for name in ("1.2.840.7", "x.nii.gz", "x.IMA")] == ["1.2.840.7", "x", "x"]


@pytest.mark.parametrize("text", ["40", "40,0", "40,-3", "a,b", "1,2,3", "nan,5", "1,inf"])
def test_windows_that_are_none(text):
    with pytest.raises(UsageError, match="expected CENTRE,WIDTH"):
        parse_window("--window", text)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-300])


def wrong_syntax(path):
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = JPEG2000
    data["PixelData"].VR = "OB"
    data.PixelData = pydicom.encaps.encapsulate([b"no codestream"])
    save(path, data)


def change(**fields):
    def apply(path):
        data = pydicom.dcmread(path)
        for name, value in fields.items():
            setattr(data, name, value)
        save(path, data)

    return apply


def without_pixels(path):
    data = pydicom.dcmread(path)
    del data.PixelData
    save(path, data)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncated, "cannot be decoded"),
        (wrong_syntax, r"JPEG 2000 .*pip install pylibjpeg"),
        (without_pixels, "holds no image"),
        (change(Rows=0), "cannot be decoded"),
        (change(Rows=60000, Columns=60000), "is 1 x 60000 x 60000; expected at most 268 million pixels"),
        (change(NumberOfFrames=10**8), "is 100000000 x 24 x 32"),
        (change(BurnedInAnnotation="YES"), "burned into its pixels"),
        (change(PerFrameFunctionalGroupsSequence=[Dataset()]), "enhanced multi-frame"),
        (change(WindowCenter=40, WindowWidth=0), "--window or --mri-window"),
        (change(RescaleSlope="1e400"), "not finite"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"no scan at all"), "damaged, or not DICOM"),
    ],
)
def test_dicom_faults_are_one_line_without_the_name(tmp_path, damage, says):
    path = save(tmp_path / "a.dcm", dicom())
    damage(path)
    with pytest.raises(DataError, match=says) as caught:
        read_scan(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert "Zwiebel" not in text


NAN = np.full((4, 5, 6), np.nan, np.float32)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (NAN, "120 of 120 voxels are not finite"),
        (np.where(np.arange(120).reshape(4, 5, 6) == 7, np.inf, 1).astype(np.float32), "1 of 120 voxels"),
        (np.ones((4, 5), np.float32), "is 4 x 5; expected a volume"),
        (np.ones((4, 5, 6, 2), np.float32), "is 4 x 5 x 6 x 2; expected a volume"),
        (np.ones((4, 0, 6), np.float32), "has no voxels: it is 4 x 0 x 6"),
        (np.ones((4, 5, 6), np.complex64), "complex64"),
        (np.ones((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "expected whole or real numbers"),
    ],
)
def test_nifti_faults_are_one_line(tmp_path, values, says):
    path = _saved(volume(values), tmp_path / "a.nii")
    with pytest.raises(DataError, match=says) as caught:
        read_scan(path)
    assert "\n" not in str(caught.value)


def test_volumes_that_claim_more_than_memory_are_refused_before_it_is_taken(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((2000, 2000, 2000))
    with gzip.open(tmp_path / "a.nii.gz", "wb") as stream:
        header["vox_offset"], header["magic"] = 352, b"n+1"
        stream.write(header.binaryblock + bytes(4))
    with pytest.raises(DataError, match="is 2000 x 2000 x 2000; expected at most 268 million voxels"):
        read_scan(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("keep", [0, 100, 352, 400, 700])
def test_truncated_volumes(tmp_path, ending, keep, capfd):
    values = np.random.default_rng(0).random((8, 9, 7)).astype(np.float32)
    path = _saved(volume(values), tmp_path / f"a.{ending}")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"empty|damaged"):
        read_scan(path)
    assert capfd.readouterr().err == ""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["a.dcm", "a.nii", "a.nii.gz"]),
    cut=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
)
def test_damaged_bytes_give_images_or_one_line(tmp_path, capfd, kind, cut, changes):
    """Whatever is in the bytes: no other exception, no remark on the terminal, and never the name."""
    path = tmp_path / kind
    if kind == "a.dcm":
        save(path, dicom())
    else:
        nibabel.save(volume(STORED[:, :30].reshape(24, 6, 5).astype(np.int16)), path)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[int(place * min(len(data), 900))] = value  # most of the header lies in the first bytes
    path.write_bytes(data[: len(data) if cut > 0.5 else int(2 * cut * len(data))])
    try:
        for image in read_scan(path).images:
            assert image.dtype == np.float32
            assert 0 <= image.min() <= image.max() <= 1
    except DataError as error:
        assert "\n" not in str(error)
        assert "Zwiebel" not in str(error)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("package", "kind"), [("pydicom", "a.dcm"), ("nibabel", "a.nii")])
def test_a_missing_package_is_named_with_the_command(tmp_path, monkeypatch, package, kind):
    (tmp_path / kind).write_bytes(b"not empty")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"need {package}, .*pip install nibabel pydicom"):
        read_scan(tmp_path / kind)

"""Slices out of a DICOM file (pydicom): stored values, rescaled, in the window that the file asks for.

PS3.3 C.11 is followed as far as slices of CT, MRI, PET and SPECT go: modality table or slope and intercept, the first
window with its function, inverted and palette photometry. Presentation states and VOI tables are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emma_core.errors import DataError
from medical.scans import Scan, Window, reader, refuse_immense, refuse_unusable, whole_range

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from emma_core.images import FloatImage
    from medical.scans import Shown

_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_CODECS = "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"


def read_dicom(path: Path, window: Window | None) -> Scan:
    """Read one DICOM file; arguments and errors as for :func:`medical.scans.read_scan`."""
    dataset = reader("pydicom").dcmread(path)
    _refuse(dataset)
    declared: dict[str, Any] = {
        "affine": _affine(dataset),
        "modality": str(dataset.get("Modality", "")).strip().upper(),
    }
    stored = _pixels(dataset)
    photometry = str(dataset.PhotometricInterpretation)
    if photometry == "PALETTE COLOR":
        return Scan(_slices(_palette(stored, dataset), 3), "DICOM", "stored", **declared)
    if photometry in _COLOUR:
        return Scan(_slices(_to_unit(stored, int(dataset.BitsStored)), 3), "DICOM", "stored", **declared)
    values = reader("pydicom.pixels").apply_modality_lut(stored, dataset).astype(np.float32)
    refuse_unusable(values, "pixels")
    padding = _padding(stored, dataset)
    shown, used, grey = _windowed(values, dataset, window, padding)
    grey = np.where(padding, np.float32(0), 1 - grey if photometry == "MONOCHROME1" else grey)
    return Scan(_slices(grey, 2), "DICOM", shown, used, **declared)


def _refuse(dataset: Any) -> None:  # noqa: ANN401 - a data set of pydicom
    """Refuse what would be shown wrong, or would show whose it is."""
    if "PerFrameFunctionalGroupsSequence" in dataset:
        raise DataError("an enhanced multi-frame file, whose frames differ in scale; expected one slice a file")
    if str(dataset.get("BurnedInAnnotation", "NO")).upper() == "YES":
        raise DataError("says that text is burned into its pixels, which may name the patient; blank it first")
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise DataError("holds no image; expected a slice with pixel data")


def _affine(dataset: Any) -> NDArray[np.float64] | None:  # noqa: ANN401
    """Return where a slice lies, PS3.3 C.7.6.2.1.1, (column, row, slice) to millimetres, right, anterior, superior.

    Slices are taken 1 mm apart: a file is one of them.

    Returns:
        The affine, (4, 4), or None where the file does not declare it.
    """
    spacing = _numbers(dataset, "PixelSpacing", 2)
    origin = _numbers(dataset, "ImagePositionPatient", 3)
    cosines = _numbers(dataset, "ImageOrientationPatient", 6)
    if spacing is None or origin is None or cosines is None:
        return None
    along_row, along_column = cosines[:3], cosines[3:]
    affine = np.eye(4)
    # The first spacing is that between rows; left and posterior, in which DICOM counts, are turned over.
    affine[:3, 0], affine[:3, 1] = along_row * spacing[1], along_column * spacing[0]
    affine[:3, 2], affine[:3, 3] = np.cross(along_row, along_column), origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _numbers(dataset: Any, name: str, count: int) -> NDArray[np.float64] | None:  # noqa: ANN401
    """Return so many finite numbers of a field; None where it holds anything else."""
    try:
        values = np.atleast_1d(np.asarray(dataset.get(name), np.float64))
    except (TypeError, ValueError):
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() else None


def _pixels(dataset: Any) -> NDArray[Any]:  # noqa: ANN401
    """Decode the stored values, (H, W), (H, W, 3), or with frames first."""
    refuse_immense([int(dataset.get(name) or 1) for name in ("NumberOfFrames", "Rows", "Columns")], "pixels")
    try:
        stored: NDArray[Any] = dataset.pixel_array
    except Exception as error:  # a decoder fed with damaged bytes may raise anything
        syntax = getattr(dataset.file_meta.get("TransferSyntaxUID"), "name", "no transfer syntax")
        raise DataError(
            f"its pixels cannot be decoded ({syntax}, {type(error).__name__}): damaged, or compressed in a way "
            f"that needs: pip install {_CODECS}"
        ) from None
    refuse_unusable(stored, "pixels")
    return stored


def _windowed(
    values: NDArray[np.float32],
    dataset: Any,  # noqa: ANN401
    window: Window | None,
    padding: NDArray[np.bool_],
) -> tuple[Shown, Window, FloatImage]:
    """Show values in the window asked for, in the file's first one, or in whole but for padding around the scan."""
    if window is not None:
        return "given", window, window.show(values)
    if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:  # absent, or empty
        window = whole_range(values if padding.all() else values[~padding])
        return "range", window, window.show(values)
    window = Window(_first(dataset.WindowCenter), _first(dataset.WindowWidth))
    function = str(dataset.get("VOILUTFunction", "LINEAR")).upper()
    smallest = 1.0 if function == "LINEAR" else 0.0
    if not window.width > 0 or window.width < smallest:
        raise DataError(f"asks for a window {window.width:g} wide; give one with --window or --mri-window CENTRE,WIDTH")
    return "file", window, _show(values, window, function)


def _padding(stored: NDArray[Any], dataset: Any) -> NDArray[np.bool_]:  # noqa: ANN401
    """Tell the pixels that only fill the frame, PS3.3 C.7.5.1.1.2: one stored value, or a range of them."""
    ends = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return np.zeros(stored.shape, np.bool_)
    known = [int(end) for end in ends if end is not None]
    padding: NDArray[np.bool_] = (stored >= min(known)) & (stored <= max(known))
    return padding


def _show(values: NDArray[np.float32], window: Window, function: str) -> FloatImage:
    """Apply a window by the function that the file names, PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        grey: FloatImage = (0.5 + 0.5 * np.tanh(2 * (values - window.centre) / window.width)).astype(np.float32)
        return grey
    if function == "LINEAR":  # of whole numbers: the ends are the centres of the first and the last of them
        window = Window(window.centre - 0.5, max(window.width - 1, 1e-6))
    return window.show(values)


def _first(value: Any) -> float:  # noqa: ANN401
    """Take the first of alternative windows."""
    return float(np.atleast_1d(np.asarray(value, np.float64))[0])


def _palette(stored: NDArray[Any], dataset: Any) -> FloatImage:  # noqa: ANN401
    colours = reader("pydicom.pixels").apply_color_lut(stored, dataset)[..., :3]
    return _to_unit(colours, 8 * colours.dtype.itemsize)


def _to_unit(stored: NDArray[Any], bits: int) -> FloatImage:
    unit: FloatImage = np.clip(stored / (2.0**bits - 1), 0, 1).astype(np.float32)
    return unit


def _slices(image: FloatImage, dimensions: int) -> tuple[FloatImage, ...]:
    """Part frames; ``dimensions`` are those of one."""
    return tuple(image) if image.ndim > dimensions else (image,)

"""Scans on disk to images: grey levels as a DICOM or NIfTI file declares them, and nothing else that it says.

Of a file that carries a patient's name only the pixels leave this module, with the window they are shown in.
"""

from __future__ import annotations

import importlib
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from emma_core.errors import DataError, UsageError
from emma_core.images import read_image
from emma_core.pairs import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from emma_core.images import FloatImage

Format = Literal["DICOM", "NIfTI", "image"]
Shown = Literal["given", "file", "range", "stored"]
"""How values became grey levels: in the window asked for, in that of the file, from its smallest to its largest
value, or as they are (colours, ordinary images)."""

NIFTI_SUFFIXES = (".nii", ".nii.gz")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
MOST_VALUES = 2**28
"""Pixels or voxels of a file that is read: 1 GiB of float32, twenty times a brain at 1 mm."""

_MAGIC = b"DICM"  # behind a preamble of 128 bytes


@dataclass(frozen=True)
class Window:
    """The values that are shown from black to white: ``width`` of them around ``centre``, in the unit of the scan."""

    centre: float
    width: float

    def show(self, values: NDArray[np.float32]) -> FloatImage:
        """Map values to [0, 1], clipping what lies outside (LINEAR_EXACT of DICOM PS3.3 C.11.2.1.3.2)."""
        shown: FloatImage = np.clip((values - self.centre) / self.width + 0.5, 0, 1).astype(np.float32)
        return shown


@dataclass(frozen=True)
class Scan:
    """One file as images.

    Attributes:
        images: its slices, each (H, W) or (H, W, 3), float32 in [0, 1].
        format: of the file.
        shown: how values became grey levels.
        window: in which, where there is one.
        affine: from (column, row, slice) to millimetres, (4, 4), where the file declares it: of a volume as it is
            stored in the axes right, anterior, superior, of a DICOM slice as it is shown. Scans of one format lie on
            each other where these agree.
        modality: what made it, where a DICOM file says so: ``MR``, ``CT``, ``PT``, ``NM``, ...
    """

    images: tuple[FloatImage, ...]
    format: Format
    shown: Shown
    window: Window | None = None
    affine: NDArray[np.float64] | None = None
    modality: str = ""


def parse_window(option: str, text: str | None) -> Window | None:
    """Read CENTRE,WIDTH.

    Raises:
        UsageError: something else stands there, or the width is not positive.
    """
    if text is None:
        return None
    try:
        centre, width = (float(part) for part in text.split(","))
    except ValueError:
        centre, width = 0.0, 0.0
    if not (width > 0 and np.isfinite([centre, width]).all()):
        raise UsageError(f"{option} {text!r}: expected CENTRE,WIDTH with a width above 0, e.g. {option} 40,80")
    return Window(centre, width)


def scan_format(path: Path) -> Format | None:
    """Tell what a file is, by its name or, as DICOM files often have none, by its first bytes; None if neither."""
    name = path.name.lower()
    if name.startswith(".") or name == "dicomdir" or not path.is_file():
        return None
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return "image"
    if name.endswith(NIFTI_SUFFIXES):
        return "NIfTI"
    return "DICOM" if name.endswith(DICOM_SUFFIXES) or _has_magic(path) else None


def scan_stem(path: Path) -> str:
    """Return the name of a file without the endings known here; the dots of an identifier stay."""
    for suffix in sorted((*NIFTI_SUFFIXES, *DICOM_SUFFIXES, *IMAGE_SUFFIXES), key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def read_scan(path: Path, window: Window | None = None) -> Scan:
    """Read a file as images.

    Args:
        path: DICOM, NIfTI, or an ordinary image.
        window: to show values in; by default that of the file, or else its whole range.

    Raises:
        DataError: it cannot be read, or holds no plain slices.
        UsageError: the package that reads it is not installed.
    """
    form = scan_format(path)
    if form == "image":
        return Scan((read_image(path),), "image", "stored")
    if form is None or not path.stat().st_size:
        raise DataError(f"{path}: {'not a scan' if form is None else 'the file is empty'}; expected DICOM or NIfTI")
    from medical.dicom import read_dicom
    from medical.nifti import read_nifti

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes on odd headers; damage raises
            return (read_dicom if form == "DICOM" else read_nifti)(path, window)
    except UsageError:
        raise
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a decoder fed with damaged bytes may raise anything; its text may quote the patient
        raise DataError(f"{path}: damaged, or not {form} ({type(error).__name__})") from None


def reader(package: str) -> Any:  # noqa: ANN401 - a module
    """Import a package of the extra ``medical``.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UsageError(
            f"DICOM and NIfTI files need {package}, which is not installed: pip install nibabel pydicom"
        ) from None


def whole_range(values: NDArray[np.float32]) -> Window:
    """Return the window from the smallest to the largest value; a constant scan is shown mid-grey."""
    low, high = float(values.min()), float(values.max())
    return Window((low + high) / 2, high - low if high > low else 1.0)


def refuse_immense(shape: Sequence[int], what: str) -> None:
    """Refuse a scan that would fill the memory before it is decoded: a small compressed file can claim any size.

    Args:
        shape: of the scan.
        what: its values are called: pixels or voxels.

    Raises:
        DataError: it has more than :data:`MOST_VALUES`.
    """
    if math.prod(shape) > MOST_VALUES:
        raise DataError(
            f"is {' x '.join(map(str, shape))}; expected at most {MOST_VALUES // 10**6} million {what}, "
            "so cut out the slices that are needed"
        )


def refuse_unusable(values: NDArray[Any], what: str) -> None:
    """Refuse values that cannot be shown.

    Args:
        values: of a scan.
        what: they are called: pixels or voxels.

    Raises:
        DataError: there are none, or some are not finite.
    """
    if not values.size:
        raise DataError(f"has no {what}: its size is {' x '.join(map(str, values.shape))}")
    lost = int(values.size - np.isfinite(values).sum())
    if lost:
        raise DataError(f"{lost} of {values.size} {what} are not finite numbers (NaN or infinite); set them first")


def _has_magic(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == _MAGIC

"""Axial slices out of a NIfTI volume (nibabel), lowest first, turned as radiologists look at them.

A volume is first brought to the axes right, anterior, superior by turning and mirroring whole axes, without resampling.
A slice then shows the front of the head at the top and the patient's right on the left.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from emma_core.errors import DataError
from medical.scans import Scan, Window, reader, refuse_immense, refuse_unusable, whole_range

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from medical.scans import Shown


def read_nifti(path: Path, window: Window | None) -> Scan:
    """Read one NIfTI file; arguments and errors as for :func:`medical.scans.read_scan`."""
    nibabel = reader("nibabel")
    with _quiet():
        volume = nibabel.load(path)
        _refuse(volume)
        volume = nibabel.as_closest_canonical(nibabel.squeeze_image(volume))
        values = volume.get_fdata(dtype=np.float32)
    refuse_unusable(values, "voxels")
    shown: Shown = "given"
    if window is None:
        shown, window = _window(volume.header) or ("range", whole_range(values))
    images = tuple(window.show(values[::-1, ::-1, level].T) for level in range(values.shape[2]))
    return Scan(images, "NIfTI", shown, window, np.asarray(volume.affine, np.float64))


def _refuse(volume: Any) -> None:  # noqa: ANN401 - an image of nibabel
    if len(volume.shape) < 3 or any(length > 1 for length in volume.shape[3:]):
        raise DataError(f"is {_size(volume)}; expected a volume, which has three dimensions")
    kind = volume.get_data_dtype()
    if kind.kind not in "iuf":
        raise DataError(f"its voxels are {kind}; expected whole or real numbers")
    if not all(volume.shape):
        raise DataError(f"has no voxels: it is {_size(volume)}")
    refuse_immense(volume.shape, "voxels")


def _size(volume: Any) -> str:  # noqa: ANN401
    return " x ".join(map(str, volume.shape))


def _window(header: Any) -> tuple[Shown, Window] | None:  # noqa: ANN401
    """Return the display range of the header, if it declares one."""
    low, high = float(header["cal_min"]), float(header["cal_max"])
    return ("file", Window((low + high) / 2, high - low)) if high > low else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep nibabel's remarks on odd headers off the terminal; damage raises."""
    log = logging.getLogger("nibabel.global")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before

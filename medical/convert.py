"""Two folders of DICOM files or NIfTI volumes to two folders of equally named PNG files.

They are numbered in the order of their names: a file name may hold the name of a patient, and all that leaves a scan
are its pixels. From there on they are images like any others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import TYPE_CHECKING, Literal

import numpy as np

from emma_core.errors import DataError
from emma_core.images import encode_png, to_8bit, write_atomic
from emma_core.manifest import locked
from emma_core.pairs import Fault
from medical.scans import read_scan, scan_format, scan_stem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from medical.scans import Scan, Window

SideName = Literal["MRI", "other"]
SIDES: tuple[SideName, SideName] = ("MRI", "other")

_SAME_PLACE = 0.1
"""Pixels of two scans are at one place if they are less far apart [mm]; files round what they declare."""

_DECLARED = {"MRI": "MR", "CT": "CT", "PET": "PT", "SPECT": "NM"}
"""What DICOM calls the modalities of the tables (PS3.3 C.7.3.1.1.1)."""

_SHOWN = {
    "given": "in the window asked for",
    "file": "in the window of the file",
    "range": "from the smallest to the largest value of each file",
}


@dataclass(frozen=True)
class Converted:
    """Scans that became images.

    Attributes:
        folders: of the slices of each side, named alike.
        notes: how values became grey levels, for the results.
        faults: files that could not be used; they carry names of files and belong on the terminal alone.
    """

    folders: Mapping[SideName, Path]
    notes: tuple[str, ...]
    faults: tuple[Fault, ...]


def holds_scans(folder: Path) -> bool:
    """Tell whether a folder holds DICOM or NIfTI files.

    Raises:
        DataError: it is no folder.
    """
    return any(scan_format(path) in {"DICOM", "NIfTI"} for path in _files(folder))


def match_scans(folders: Mapping[SideName, Path]) -> tuple[dict[str, dict[SideName, Path]], list[Fault]]:
    """Pair the files of two folders by their names without endings, in the order of the names.

    Raises:
        DataError: a folder is missing, or no name stands in both.
    """
    found: dict[str, dict[SideName, list[Path]]] = {}
    for side in SIDES:
        for path in _files(folders[side]):
            if scan_format(path):
                found.setdefault(scan_stem(path), {"MRI": [], "other": []})[side].append(path)
    faults = [Fault("", stem, reason) for stem, files in found.items() if (reason := _unusable(files, folders))]
    lost = {fault.id for fault in faults}
    matched = {stem: {side: found[stem][side][0] for side in SIDES} for stem in sorted(found) if stem not in lost}
    if not matched:
        raise DataError(f"{folders['MRI']} and {folders['other']}: no scan of the one is named as one of the other")
    return matched, faults


def convert_scans(
    folders: Mapping[SideName, Path],
    windows: Mapping[SideName, Window | None],
    target: Path,
    modality: str = "",
    on_file: Callable[[], None] = lambda: None,
) -> Converted:
    """Write equally named scans of two folders as pairs of PNG files; a volume gives its axial slices.

    Slices of a volume in which either scan is all of one grey are left out. What an earlier run left in the target and
    this one does not make is removed.

    Args:
        folders: where the scans of each side are.
        windows: in which to show them; None for that of each file.
        target: folder for the PNG files, ``MRI/0001.png`` and ``other/0001.png`` on.
        modality: what the other scans are taken for.
        on_file: called after each pair of files, for a progress bar.

    Returns:
        The folders, what to tell a reader, and the faults.

    Raises:
        BusyError: another process is writing into the target.
        DataError: no pair could be converted.
        UsageError: the package that reads a file is not installed.
    """
    matched, faults = match_scans(folders)
    written: set[str] = set()
    used: list[Mapping[SideName, Scan]] = []
    slices = unplaced = 0
    with locked(target):
        for number, (stem, files) in enumerate(matched.items(), 1):
            try:
                scans = _read_pair(files, windows, modality)
            except DataError as error:
                faults.append(Fault("", stem, str(error)))
            else:
                written |= _write(scans, number, target)
                slices += len(scans["MRI"].images)
                unplaced += _apart(scans["MRI"], scans["other"]) is None
                used.append({side: replace(scan, images=()) for side, scan in scans.items()})
            on_file()
        if written:  # what was good is not lost to folders given the wrong way round
            _remove_others(target, written)
    if not written:
        reason = f"first: {faults[0]}" if faults else "their slices show nothing"
        raise DataError(f"None of {len(matched)} pairs of scans could be used; {reason}")
    notes = [_said(side, [scans[side] for scans in used]) for side in SIDES]
    if unplaced:
        notes.append(
            f"Whether the scans of {unplaced} of {len(used)} pairs of files lie on each other is not known: "
            "not both files say where."
        )
    if empty := slices - len(written):
        notes.append(f"{empty} of {slices} slices are left out: a scan shows nothing in them.")
    return Converted({side: target / side for side in SIDES}, tuple(notes), tuple(faults))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {found}; expected a folder of scans or images, named alike for both scans")
    return sorted(folder.iterdir())


def _unusable(files: Mapping[SideName, Sequence[Path]], folders: Mapping[SideName, Path]) -> str | None:
    for side in SIDES:
        if not files[side]:
            return f"its mate is missing in {folders[side]}"
        if len(files[side]) > 1:
            return f"two files of one name in {folders[side]}: {', '.join(path.name for path in files[side])}"
    return None


def _read_pair(
    files: Mapping[SideName, Path], windows: Mapping[SideName, Window | None], modality: str
) -> dict[SideName, Scan]:
    """Read the scans of both sides, and refuse those of other modalities, or that do not lie on each other."""
    scans = {side: read_scan(files[side], windows[side]) for side in SIDES}
    taken_for: dict[SideName, str] = {"MRI": "MRI", "other": modality}
    for side in SIDES:
        found, expected = scans[side].modality, _DECLARED.get(taken_for[side])
        if expected and found != expected and found in _DECLARED.values():
            raise DataError(
                f"the file of --{side.lower()} says that it is {found}, expected {expected}; are the folders swapped, "
                "or is --modality another?"
            )
    mri, other = scans["MRI"], scans["other"]
    sizes = [f"{len(scan.images)} x {scan.images[0].shape[1]} x {scan.images[0].shape[0]}" for scan in (mri, other)]
    if sizes[0] != sizes[1]:
        raise DataError(
            f"the MRI is {sizes[0]}, the other scan {sizes[1]} (slices, width, height); resample one to the other first"
        )
    apart = _apart(mri, other)
    if apart is not None and not apart < _SAME_PLACE:
        raise DataError(
            f"the scans do not lie on each other (pixels are up to {apart:.3g} mm apart by what the files declare); "
            "resample one to the other first"
        )
    return scans


def _apart(mri: Scan, other: Scan) -> float | None:
    """Return how far pixels of two scans of one size are apart at most [mm]; None where not both say where they lie.

    The farthest pixels are corners, as affines are linear. Those of two formats count slices and rows otherwise.
    """
    if mri.affine is None or other.affine is None or mri.format != other.format:
        return None
    height, width = mri.images[0].shape[:2]
    ends = product((0, width - 1), (0, height - 1), (0, len(mri.images) - 1), (1,))
    between = np.array(list(ends)) @ (mri.affine - other.affine).T
    return float(np.linalg.norm(between[:, :3], axis=1).max())


def _write(scans: Mapping[SideName, Scan], number: int, target: Path) -> set[str]:
    """Write the slices of a pair of files that show something, and return their names."""
    names: set[str] = set()
    slices = list(zip(scans["MRI"].images, scans["other"].images, strict=True))
    for level, images in enumerate(slices, 1):
        if len(slices) > 1 and any(np.ptp(to_8bit(image)) == 0 for image in images):
            continue
        name = f"{number:04d}.png" if len(slices) == 1 else f"{number:04d}-{level:03d}.png"
        for side, image in zip(SIDES, images, strict=True):
            write_atomic(target / side / name, encode_png(image))
        names.add(name)
    return names


def _remove_others(target: Path, written: set[str]) -> None:
    for side in SIDES:
        for path in (target / side).glob("*"):
            if path.name not in written:
                path.unlink()


def _said(side: SideName, scans: Sequence[Scan]) -> str:
    """Say how the values of one side became grey levels."""
    ordered = sorted(scans, key=lambda scan: (scan.format, scan.shown))
    groups = [list(alike) for _, alike in groupby(ordered, key=lambda scan: (scan.format, scan.shown))]
    return f"{side}: " + "; ".join(map(_said_of_alike, groups)) + "."


def _said_of_alike(scans: Sequence[Scan]) -> str:
    first = scans[0]
    origin = f"{len(scans)} {first.format} file{'' if len(scans) == 1 else 's'}"
    windows = [scan.window for scan in scans if scan.window]
    if not windows:
        return f"{origin}, grey levels or colours as stored"
    centre = _span([window.centre for window in windows])
    width = _span([window.width for window in windows])
    return f"{origin}, rescaled, shown {_SHOWN[first.shown]} (centre {centre}, width {width})"


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"

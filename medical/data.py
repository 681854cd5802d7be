"""Where the pairs come from: the Harvard layout, or any two folders of equally named images, DICOM or NIfTI files."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from emma_core.datasets import DatasetSpec, dataset_spec, folder_spec
from emma_core.errors import DataError, UsageError
from emma_core.pairs import Fault, PairSet, find_pairs
from emma_core.text import is_plain_name
from medical.convert import SIDES, convert_scans, holds_scans
from medical.scans import scan_format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from medical.convert import SideName
    from medical.scans import Window

MODALITIES = ("CT", "PET", "SPECT")
"""Of the scan beside the MRI, in the Harvard layout."""


@dataclass(frozen=True)
class OwnScans:
    """Two folders that a person gives in place of the Harvard layout.

    Attributes:
        dataset: what to call them.
        modality: of the other scan, e.g. ``CT``.
        folders: of each side.
        windows: to show DICOM and NIfTI files of each side in; None for that of the file.
    """

    dataset: str
    modality: str
    folders: Mapping[SideName, Path]
    windows: Mapping[SideName, Window | None]

    @property
    def hold_scans(self) -> bool:
        """Whether DICOM or NIfTI files are among them, so that all become images first."""
        return any(holds_scans(folder) for folder in self.folders.values())

    def converted(self, runs: Path) -> Path:
        """Return the folder for the images."""
        return runs / "converted" / self.dataset


@dataclass(frozen=True)
class Ready:
    """Pairs of images, ready to be fused.

    Attributes:
        pairs: the pairs.
        notes: how they became images, for the results.
        faults: scans that could not be used.
    """

    pairs: PairSet
    notes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()


def harvard_pairs(root: Path, modality: str | None = None, split_file: Path | None = None) -> Ready:
    """Find the pairs of the Harvard layout, of one modality or of all.

    Raises:
        DataError: they are not there; the message says how DICOM and NIfTI files are given.
        UsageError: it has no such modality.
    """
    split = f"MRI-{modality}" if modality else None
    try:
        pairs = find_pairs(dataset_spec("Harvard"), root, split=split, split_file=split_file)
    except DataError as error:
        raise DataError("; ".join(map(str, [error, *_scans_in(root, split)[:1]]))) from None
    if pairs.label == "all" and len(pairs.parts) == 1:
        pairs = replace(pairs, label=pairs.parts[0])  # as where that part is asked for
    left_out = () if split_file else _scans_in(root, split)
    return Ready(replace(pairs, faults=(*pairs.faults, *left_out)))


def _scans_in(root: Path, split: str | None) -> list[Fault]:
    """Name the parts of the Harvard layout that hold scans instead of images, with how those are given."""
    choices = "|".join(MODALITIES)
    how = f"DICOM or NIfTI files are there: give their folders as --mri DIR --other DIR --modality {choices}"
    parts = dataset_spec("Harvard").chosen(split)
    return [Fault(part.name, "*", how) for part in parts if any(map(_is_scan, root.glob(f"{part.name}/*/*")))]


def _is_scan(path: Path) -> bool:
    try:
        return scan_format(path) in {"DICOM", "NIfTI"}
    except OSError:  # what cannot be read is no scan that could be given
        return False


def own_pairs(
    own: OwnScans, runs: Path, split_file: Path | None = None, on_file: Callable[[], None] = lambda: None
) -> Ready:
    """Find the pairs of two folders; DICOM and NIfTI files become images first.

    The fused images take the colours of the other scan, if it has any.

    Args:
        own: the folders.
        runs: where converted images go.
        split_file: only the ids that this file lists.
        on_file: called after each pair of files that is converted.

    Raises:
        DataError: there is no pair.
        UsageError: a name is taken or cannot stand in a path, or a package is missing.
    """
    spec = _spec(own, own.folders)  # before anything is written under its name
    if not own.hold_scans:
        if any(own.windows.values()):
            raise UsageError("--window and --mri-window are for DICOM and NIfTI files; the folders hold none")
        return Ready(_own_pairs(spec, own.folders, split_file))
    converted = convert_scans(own.folders, own.windows, own.converted(runs), own.modality, on_file)
    pairs = _own_pairs(_spec(own, converted.folders), converted.folders, split_file)
    return Ready(pairs, converted.notes, converted.faults)


def _spec(own: OwnScans, folders: Mapping[SideName, Path]) -> DatasetSpec:
    if not is_plain_name(own.modality):
        raise UsageError(f"--modality {own.modality!r}: expected {', '.join(MODALITIES)} or a name without folders")
    mri, other = (folders[side] for side in SIDES)
    spec = folder_spec(own.dataset, other, mri, split=f"MRI-{own.modality}", colour_from="infrared")
    return replace(spec, infrared_label="other", visible_label="MRI", command=_command(own))


def _command(own: OwnScans) -> str:
    """Spell the command that fuses these scans: fuse-dataset would not call their part by the modality."""
    options = {"--mri": own.folders["MRI"], "--other": own.folders["other"], "--modality": own.modality}
    options["--dataset"] = own.dataset
    windows = {"--mri-window": own.windows["MRI"], "--window": own.windows["other"]}
    options |= {name: f"{window.centre:g},{window.width:g}" for name, window in windows.items() if window}
    return " ".join(["emma-tasks medical", *(f"{name} {shlex.quote(str(value))}" for name, value in options.items())])


def _own_pairs(spec: DatasetSpec, folders: Mapping[SideName, Path], split_file: Path | None) -> PairSet:
    return find_pairs(spec, folders["other"].resolve().parent, split_file=split_file)

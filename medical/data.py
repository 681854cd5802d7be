"""Where the pairs come from: the Harvard layout, or any two folders of equally named images, DICOM or NIfTI files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from emma_core.datasets import DatasetSpec, Fault, PairSet, dataset_spec, find_pairs, folder_spec, is_plain_name
from emma_core.errors import UsageError
from medical.convert import SIDES, convert_scans, holds_scans

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
        DataError: they are not there.
        UsageError: it has no such modality.
    """
    split = f"MRI-{modality}" if modality else None
    pairs = find_pairs(dataset_spec("Harvard"), root, split=split, split_file=split_file)
    if pairs.label == "all" and len(pairs.parts) == 1:
        pairs = replace(pairs, label=pairs.parts[0])  # as where that part is asked for
    return Ready(pairs)


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
    converted = convert_scans(own.folders, own.windows, own.converted(runs), on_file)
    pairs = _own_pairs(_spec(own, converted.folders), converted.folders, split_file)
    return Ready(pairs, converted.notes, converted.faults)


def _spec(own: OwnScans, folders: Mapping[SideName, Path]) -> DatasetSpec:
    if not is_plain_name(own.modality):
        raise UsageError(f"--modality {own.modality!r}: expected {', '.join(MODALITIES)} or a name without folders")
    mri, other = (folders[side] for side in SIDES)
    spec = folder_spec(own.dataset, other, mri, split=f"MRI-{own.modality}", colour_from="infrared")
    return replace(spec, infrared_label="other", visible_label="MRI")


def _own_pairs(spec: DatasetSpec, folders: Mapping[SideName, Path], split_file: Path | None) -> PairSet:
    return find_pairs(spec, folders["other"].resolve().parent, split_file=split_file)

"""The table of label sets, and how masks of class ids are read and checked.

A label set is declared once, as a :class:`SegmentationSpec`: which pairs it is of, where the masks are, what the ids
mean. One that is not in the table is declared in a TOML file with the same keys. A mask is an image file whose grey
levels are the ids; it looks black.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emma_core.config import read_toml
from emma_core.datasets import DATASETS, SAMPLE_SUFFIX, DatasetSpec, dataset_spec, in_split, own_spec
from emma_core.errors import DataError, UsageError
from emma_core.files import at_home
from emma_core.images import read_image, write_image
from emma_core.pairs import files_by_stem, only_one
from emma_core.text import is_plain_name, same_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from emma_core.images import FloatImage
    from emma_core.pairs import Pair

    Mask = NDArray[np.uint8]

UNLABELLED = 255
"""What a mask in memory holds where no class is to be learnt or scored."""

MIOU, FOREGROUND, ACCURACY = "mIoU", "mIoU fg", "Pixel acc."
"""Measures over all classes, as columns are called."""

_SHOWN = 3  # colours that an error spells


@dataclass(frozen=True)
class SegmentationSpec:
    """What is known of a set of labels.

    Attributes:
        name: as on the command line (case does not matter there) and in tables.
        classes: names by id, the background first.
        palette: colour of each class, whole numbers in 0..255 for red, green, blue.
        labels: folder of the masks below the root, ``<id>.png`` or ``<split>/<id>.png`` in it; ``{split}`` stands for
            the split of a pair.
        train_labels: another folder for the pairs that are trained on; empty for the same.
        dataset: name of the data set whose pairs these are; empty if ``infrared`` and ``visible`` say where pairs are.
        infrared: folder of infrared images below the root, ``{split}`` in it for ``train``, ``val`` and ``test``.
        visible: likewise.
        ignore: id of pixels that nobody knows; they are neither learnt nor scored. If it is 0, the classes have the
            ids from 1.
        conditions: parts of the test set that are scored apart: name, and the end of the ids in it.
        partial: whether pairs without a mask are left out; else they are an error.
        pseudo: whether the labels were made by networks, not by people; every table says so.
        note: a sentence that every row carries.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    labels: str
    train_labels: str = ""
    dataset: str = ""
    infrared: str = ""
    visible: str = ""
    ignore: int | None = None
    conditions: tuple[tuple[str, str], ...] = ()
    partial: bool = False
    pseudo: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse a declaration that cannot hold."""
        count = len(self.classes)
        if not is_plain_name(self.name) or self.name.startswith("."):
            raise UsageError(f"{self.name!r} cannot name a label set; expected letters, digits, '-' or '_'")
        if not 2 <= count < UNLABELLED or len(set(self.classes)) != count:
            raise UsageError(f"{self.name}: {count} classes; expected 2 to {UNLABELLED - 1} of different names")
        self._refuse_column_names()
        if len(self.palette) != count:
            raise UsageError(f"{self.name}: {len(self.palette)} colours for {count} classes; expected one each")
        if wrong := [colour for colour in self.palette if min(colour) < 0 or max(colour) > 255]:
            raise UsageError(f"{self.name}: palette has the colour {wrong[0]}; expected 0 to 255 for red, green, blue")
        if self.ignore and not count <= self.ignore <= UNLABELLED:
            raise UsageError(f"{self.name}: ignore is {self.ignore}, expected 0, or {count} to {UNLABELLED}")
        if not self.dataset and not (self.infrared and self.visible):
            raise UsageError(f"{self.name}: give dataset = one of {', '.join(DATASETS)}, or infrared and visible")

    def _refuse_column_names(self) -> None:
        """Refuse names of classes and conditions that would leave a column without a name, or two with one."""
        names = [" ".join(name.split()) for name in (*self.classes, *self.measures)]
        twice = [name for index, name in enumerate(names) if name in names[:index]]
        if "" in names or any(not name.strip() for name, _ in self.conditions):
            raise UsageError(f"{self.name}: a class or a condition has no name")
        if twice:
            kinds = f"classes, conditions and the measures {MIOU}, {FOREGROUND} and {ACCURACY}"
            raise UsageError(f"{self.name}: two columns would be called {twice[0]!r}; expected other names of {kinds}")

    @property
    def measures(self) -> tuple[str, ...]:
        """What is measured over all classes: names of columns, after those of the classes."""
        return (MIOU, FOREGROUND, ACCURACY, *(f"{MIOU} {name}" for name, _ in self.conditions))

    @property
    def first_id(self) -> int:
        """Id of the first class in files; in memory it is 0."""
        return 1 if self.ignore == 0 else 0

    @property
    def title(self) -> str:
        """Heading of its tables."""
        return "Segmentation against pseudo-labels" if self.pseudo else "Segmentation"

    @property
    def truth(self) -> str:
        """What predictions are held against, in a word."""
        return "pseudo-label" if self.pseudo else "truth"

    def row_label(self, row: str) -> str:
        """Name a row of its tables; a row may be copied without the heading, so it says what it is held against."""
        return f"{row} (pseudo-labels)" if self.pseudo else row

    def pairs_spec(self) -> DatasetSpec:
        """Return the declaration of the pairs that these labels are of."""
        if self.dataset:
            return dataset_spec(self.dataset)
        infrared, visible = (str(at_home(folder)) for folder in (self.infrared, self.visible))
        return own_spec(self.name, infrared, visible)


_MSRS_CLASSES = (
    "Unlabelled",
    "Car",
    "Person",
    "Bike",
    "Curve",
    "Car stop",
    "Guardrail",
    "Color cone",
    "Bump",
)
_MSRS_PALETTE = (
    (0, 0, 0),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
    (0, 0, 192),
    (128, 128, 0),
    (64, 64, 128),
    (192, 128, 128),
    (192, 64, 0),
)

SEGMENTATIONS: dict[str, SegmentationSpec] = {
    spec.name: spec
    for spec in (
        SegmentationSpec(
            "MSRS",
            _MSRS_CLASSES,
            _MSRS_PALETTE,
            "{split}/Segmentation_labels",
            dataset="MSRS",
            conditions=DATASETS["MSRS"].conditions,
        ),
        SegmentationSpec(
            "MSRS-pseudo",
            _MSRS_CLASSES,
            _MSRS_PALETTE,
            "pseudo_labels/consensus",
            train_labels="pseudo_labels/mfnet",
            dataset="MSRS",
            ignore=UNLABELLED,
            conditions=DATASETS["MSRS"].conditions,
            partial=True,
            pseudo=True,
            note="Pseudo-labels, no ground truth: networks made them, no person did. They are made from both images, "
            "so they favour rows that show both. Trained on those of one network, scored on those that a majority of "
            "three agrees on; ties are ignored.",
        ),
    )
}


def label_set(name: str) -> SegmentationSpec:
    """Look a label set up by name, without regard to case, or read its declaration from a ``.toml`` file.

    Raises:
        UsageError: no such label set, or the file does not declare one.
    """
    if name.lower().endswith(".toml"):
        return _own(Path(name))
    if known := same_name(name, SEGMENTATIONS):
        return SEGMENTATIONS[known]
    raise UsageError(
        f"No labels of {name!r} are known; known: {', '.join(SEGMENTATIONS)}, or a file FILE.toml that declares "
        "them (docs/segmentation.md)"
    )


def find_masks(spec: SegmentationSpec, root: Path, pairs: Sequence[Pair], folder: Path | str) -> dict[str, Path]:
    """Find the mask of each pair.

    Args:
        spec: the label set.
        root: of the data set.
        pairs: to find masks for.
        folder: of the masks, see :attr:`SegmentationSpec.labels`; absolute, or below the root.

    Returns:
        The file of each pair, by ``split/id``; a partial label set need not have all.

    Raises:
        DataError: a mask is missing, or all are.
    """
    found: dict[str, Path] = {}
    masks = cache(_masks_in)
    folder = at_home(folder)
    for pair in pairs:
        place = root / in_split(str(folder), pair.split)
        path = only_one(masks(place / pair.split).get(pair.id) or masks(place).get(pair.id, []), "masks")
        if path:
            found[pair.key] = path
    missing = [pair for pair in pairs if pair.key not in found]
    if missing and not (spec.partial and found):
        expected = root / in_split(str(folder), missing[0].split) / f"{missing[0].id}.png"
        raise DataError(
            f"{spec.name}: {len(missing)} of {len(pairs)} pairs have no label, first {missing[0].key}; "
            f"expected {expected}. Other folders can be given with --labels DIR"
        )
    return found


def _masks_in(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        return {}
    named = files_by_stem(folder, {".png"}, str)
    return {stem: files for stem, paths in named.items() if (files := [path for path in paths if path.is_file()])}


def read_mask(path: Path, spec: SegmentationSpec) -> Mask:
    """Read a mask and make sure that it holds ids of these classes.

    Args:
        path: of the image file.
        spec: the label set.

    Returns:
        (H, W) uint8, ids of classes, or :data:`UNLABELLED`.

    Raises:
        DataError: the file holds colours, other numbers than ids, or cannot be read; the message names it.
    """
    ids, first, end = _levels(path, spec), spec.first_id, spec.first_id + len(spec.classes)
    ignored = np.zeros_like(ids, bool) if spec.ignore is None else ids == spec.ignore
    wrong = (ids >= end) & ~ignored
    if wrong.any():
        counts = [f"{value} ({(ids == value).sum()} pixels)" for value in np.unique(ids[wrong])[:_SHOWN]]
        known = f"{first} to {end - 1}" + ("" if spec.ignore is None else f" or {spec.ignore}")
        raise DataError(f"{path}: holds id {', '.join(counts)}; expected {known} ({spec.name})")
    mask: Mask = np.where(ignored, UNLABELLED, ids - first).astype(np.uint8)
    return mask


def write_mask(path: Path, mask: Mask, spec: SegmentationSpec) -> None:
    """Write a mask so that :func:`read_mask` reads it again.

    Args:
        path: of the PNG.
        mask: (H, W) uint8, ids of classes.
        spec: the label set.

    Raises:
        OSError: the file cannot be written.
    """
    write_image(path, (mask + spec.first_id).astype(np.float32) / np.float32(255))


def colour_mask(mask: NDArray[np.integer], palette: Sequence[tuple[int, int, int]]) -> FloatImage:
    """Paint a mask: (H, W) ids to (H, W, 3) float32 in [0, 1]; unlabelled pixels become white."""
    colours = np.full((256, 3), 255, np.float32)
    colours[: len(palette)] = palette
    painted: FloatImage = (colours / np.float32(255))[mask]
    return painted


def _own(path: Path) -> SegmentationSpec:
    spec = read_toml(path, SegmentationSpec)
    taken = {known.lower() for known in (*SEGMENTATIONS, *(() if spec.dataset else DATASETS))}
    if spec.name.lower().removesuffix(SAMPLE_SUFFIX) in taken:
        raise UsageError(f"{path}: {spec.name} is a known label set; call yours by another name")
    return spec


def _levels(path: Path, spec: SegmentationSpec) -> NDArray[np.int64]:
    """Read the grey levels of an 8-bit file, (H, W) in 0..255."""
    image = read_image(path)
    if image.ndim == 3:
        if (image != image[..., :1]).any():
            raise DataError(
                f"{path}: {_found_colours(image, spec)}; expected one class id a pixel as grey level "
                "(indexed masks: docs/segmentation.md)"
            )
        image = image[..., 0]
    levels = np.rint(image * 255)
    if np.abs(levels - image * 255).max() > 1e-3:
        raise DataError(f"{path}: a 16-bit file; expected an 8-bit file whose grey levels are class ids")
    ids: NDArray[np.int64] = levels.astype(np.int64)
    return ids


def _found_colours(image: FloatImage, spec: SegmentationSpec) -> str:
    """Describe a mask that is painted instead of numbered."""
    colours = np.unique(np.rint(image.reshape(-1, 3) * 255).astype(int), axis=0)
    ours: Mapping[tuple[int, ...], str] = dict(zip(spec.palette, spec.classes, strict=True))
    names = [f"{tuple(map(int, colour))} ({ours.get(tuple(colour), 'no class')})" for colour in colours[-_SHOWN:]]
    return f"a label in colours, e.g. {', '.join(names)}"

"""The boxes of a data set: where its labels are, what they say of each pair, and what had to be left out.

M3FD comes with Pascal VOC XML, its copies with YOLO text or COCO JSON, MSRS and RoadScene with YOLO text by other
people. A pair whose label file is missing is unlabelled, which is not the same as empty.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detection.classes import CLASSES, NUMBERED, dataset_classes
from detection.label_files import LabelFile, read_coco, read_names, read_voc, read_yolo
from emma_core.datasets import SAMPLE_SUFFIX, in_split
from emma_core.errors import DataError
from emma_core.images import read_image
from emma_core.pairs import files_by_stem, only_one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from emma_core.pairs import Pair, PairSet

CONDITIONS = "conditions.json"
"""What light each image was taken in, by id; may lie beside the labels."""

_FOLDERS = ("Annotation", "Annotations", "labels", "label")
_NAMES = ("classes.txt", "obj.names")


@dataclass(frozen=True)
class ImageBoxes:
    """The objects of one pair; both images of it have the same.

    Attributes:
        width: of the images [pixels].
        height: likewise.
        boxes: (N, 4), float64: left, top, right, bottom [pixels], inside the image.
        classes: (N,), int64, numbers of classes.
    """

    width: int
    height: int
    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class Annotations:
    """The labels of a data set.

    Attributes:
        classes: names, in the order of their numbers.
        images: by ``split/id``, in the order of the pairs.
        unlabelled: pairs without a label file.
        clipped: number of boxes that reached out of their image.
        degenerate: number of boxes without area, which were left out.
        source: the folder or file they were read from.
    """

    classes: tuple[str, ...]
    images: Mapping[str, ImageBoxes]
    unlabelled: tuple[str, ...]
    clipped: int
    degenerate: int
    source: Path

    @property
    def hash(self) -> str:
        """SHA-256 over classes, keys, sizes and boxes."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for key, image in sorted(self.images.items()):
            digest.update(f"{key} {image.width} {image.height}".encode())
            digest.update(image.classes.tobytes() + image.boxes.round(3).tobytes())
        return digest.hexdigest()

    def counts(self, keys: Iterable[str]) -> dict[str, int]:
        """Count the objects of each class in some images."""
        total = np.zeros(len(self.classes), np.int64)
        for key in keys:
            total += np.bincount(self.images[key].classes, minlength=len(self.classes))
        return dict(zip(self.classes, total.tolist(), strict=True))


def read_annotations(pairs: PairSet, labels: Path | None = None, classes: tuple[str, ...] | None = None) -> Annotations:
    """Read the boxes of all pairs.

    Args:
        pairs: of a data set with boxes.
        labels: folder of label files, or COCO file; by default what is found in the usual places. ``{split}`` in its
            path stands for the part that a pair is in.
        classes: names of a data set of one's own, in the order of their numbers.

    Returns:
        The labels; pairs that have none are counted.

    Raises:
        DataError: there are no labels, or a file is broken; the message names it, and the line.
        UsageError: nobody has drawn boxes for this data set.
    """
    classes = classes or dataset_classes(pairs.dataset)
    find, source = _finder(pairs, labels, classes)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(find, pairs.pairs))
        labelled = [(pair, file) for pair, file in zip(pairs.pairs, found, strict=True) if file is not None]
        placed = list(pool.map(_place, *zip(*labelled, strict=True))) if labelled else []
    if not placed:
        raise DataError(f"{source}: no label file is named like a pair of {pairs.dataset}, e.g. {pairs.pairs[0].id}")
    return Annotations(
        classes=classes,
        images={pair.key: image for (pair, _), (image, _, _) in zip(labelled, placed, strict=True)},
        unlabelled=tuple(pair.key for pair, file in zip(pairs.pairs, found, strict=True) if file is None),
        clipped=sum(clipped for _, clipped, _ in placed),
        degenerate=sum(degenerate for _, _, degenerate in placed),
        source=source,
    )


def _finder(
    pairs: PairSet, labels: Path | None, classes: tuple[str, ...]
) -> tuple[Callable[[Pair], LabelFile | None], Path]:
    """Return how the labels of a pair are found, and where."""
    places = {
        part: Path(in_split(str(labels), part)) if labels else _label_folder(pairs.root, part) for part in pairs.parts
    }
    there = {part: place for part, place in places.items() if place is not None and place.exists()}
    if not there and labels:
        raise DataError(f"{labels}: no such file or folder; expected labels")
    if not there:
        expected = ", ".join(_FOLDERS[:3])
        raise DataError(f"{pairs.dataset}: no labels under {pairs.root} (expected a folder {expected}); add --labels")
    readers = {place: _reader(pairs.dataset, place, classes) for place in dict.fromkeys(there.values())}
    wanted = Counter((there[pair.split], pair.id) for pair in pairs.pairs if pair.split in there)

    def find(pair: Pair) -> LabelFile | None:
        place = there.get(pair.split)
        if place is None:
            return None
        file = readers[place](pair)
        if file is not None and wanted[place, pair.id] > 1:
            raise DataError(
                f"{place}: has boxes of {pair.id}, as pairs of several parts of {pairs.dataset} are called; expected a "
                "folder or file for each part: --labels with {split} in its path"
            )
        return file

    return find, next(iter(there.values()))


def _reader(dataset: str, place: Path, classes: tuple[str, ...]) -> Callable[[Pair], LabelFile | None]:
    """Return a reader of the labels in a COCO file or a folder of them, or of one label file a pair."""
    if place.is_file():
        return _from_coco([place], classes)
    if coco := sorted(path for path in place.glob("*.json") if path.name != CONDITIONS):
        return _from_coco(coco, classes)
    return _file_reader(dataset, place, classes)


def _label_folder(root: Path, part: str) -> Path | None:
    """Find the folder of labels of a part of a data set, whatever the case of its name."""
    wanted = [name.lower() for name in _FOLDERS]
    for place in (root / part, root):
        if place.is_dir():
            alike = [entry for entry in place.iterdir() if entry.is_dir() and entry.name.lower() in wanted]
            if alike:
                return min(alike, key=lambda entry: (wanted.index(entry.name.lower()), entry.name))
    return None


def _file_reader(dataset: str, folder: Path, classes: tuple[str, ...]) -> Callable[[Pair], LabelFile | None]:
    """Return a reader of one label file a pair."""
    if voc := files_by_stem(folder, {".xml"}, str):
        return _by_stem(voc, lambda path: read_voc(path, classes))
    names = _numbering(dataset, folder, classes)
    return _by_stem(files_by_stem(folder, {".txt"}, str), lambda path: read_yolo(path, names, classes))


def _by_stem(files: Mapping[str, list[Path]], read: Callable[[Path], LabelFile]) -> Callable[[Pair], LabelFile | None]:
    def find(pair: Pair) -> LabelFile | None:
        path = only_one(files.get(pair.id, []), "label files")
        return read(path) if path else None

    return find


def _numbering(dataset: str, folder: Path, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Find out what the numbers of YOLO label files stand for: never guessed, copies differ; one's own are declared."""
    for place in (folder / name for name in _NAMES):
        if place.exists():
            return tuple(read_names(place))
    name = dataset.removesuffix(SAMPLE_SUFFIX)
    if name in NUMBERED or name not in CLASSES:
        return classes
    raise DataError(
        f"{folder}: YOLO labels hold numbers only, and copies of {dataset} number their classes differently; "
        f"expected {_NAMES[0]} beside them, with the class names in the order of their numbers"
    )


def _from_coco(files: list[Path], classes: tuple[str, ...]) -> Callable[[Pair], LabelFile | None]:
    table: dict[str, LabelFile] = {}
    origin: dict[str, Path] = {}
    for path in files:
        for stem, file in read_coco(path, classes).items():
            if table.setdefault(stem, file) != file:
                raise DataError(
                    f"{path}: lists {stem} as {origin[stem].name} does, with other boxes; expected an image in one of "
                    "the files, as boxes go to pairs by its name; keep the files of one camera, or give each part "
                    "its own: --labels with {split} in its path"
                )
            origin[stem] = path
    return lambda pair: table.get(pair.id)


def _place(pair: Pair, file: LabelFile) -> tuple[ImageBoxes, int, int]:
    """Clip the boxes of a file to their image; count those that were clipped, and those that have no area."""
    width, height = file.size or read_image(pair.infrared).shape[1::-1]
    boxes = np.array([entry.box for entry in file.objects], np.float64).reshape(-1, 4)
    if file.relative:
        boxes *= (width, height, width, height)
    inside = boxes.clip(0, (width, height, width, height))
    kept = (inside[:, 2:] - inside[:, :2] > 0).all(axis=1)
    clipped = (np.abs(inside - boxes) > 0.01).any(axis=1) & kept
    classes = np.array([entry.number for entry in file.objects], np.int64)
    return ImageBoxes(width, height, inside[kept], classes[kept]), int(clipped.sum()), int((~kept).sum())

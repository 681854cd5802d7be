"""Pictures for the page: the same pairs as infrared, visible and fused by every method, as data URIs.

What is shown is what was fused: a file whose SHA-256 is not the one in the manifest is left out.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from emma_core.datasets import DATASETS
from emma_core.errors import EmmaError, ImageError
from emma_core.images import encode_preview, read_image
from emma_core.manifest import MANIFEST, Manifest, Row, file_sha256, read_manifest
from emma_core.report.parts import source_labels
from emma_core.report.tables import dataset_order, row_order
from emma_core.results import NAIVE_ROWS
from emma_core.text import plain

if TYPE_CHECKING:
    from emma_core.images import FloatImage

LONGER_SIDE = 720  # pixels; enough for half a desktop screen, and six pairs of three sets stay below 8 MB

_SCANNED = DATASETS["Harvard"].visible_label

Kind = Literal["infrared", "visible", "fused"]


@dataclass(frozen=True)
class Picture:
    """One image, ready for the page.

    Attributes:
        name: ``IR``, ``VI`` (or what stands for them) or the method.
        kind: which of the two sources it is, or fused.
        uri: a ``data:`` URI.
        width: pixels of the picture in the URI.
        height: likewise.
    """

    name: str
    kind: Kind
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Example:
    """One pair: its pictures in the order infrared, visible, methods."""

    split: str
    id: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """Examples of one data set; all have the same methods.

    Attributes:
        dataset: its name.
        methods: names, EMMA last.
        examples: spread over the pairs.
        total: number of pairs that all methods have.
    """

    dataset: str
    methods: tuple[str, ...]
    examples: tuple[Example, ...]
    total: int


def collect_galleries(runs: Path, examples: int = 6) -> tuple[list[Gallery], list[str]]:
    """Pick example pairs from what was fused below a folder of runs.

    Args:
        runs: the folder of all runs; ``fused/<DATASET>/<METHOD>/manifest.json`` below it is read.
        examples: how many pairs of each data set, spread evenly over those that all its methods have.

    Returns:
        The galleries by data set, and a line for everything that had to be left out.
    """
    found: dict[str, dict[Path, Manifest]] = {}
    warnings: list[str] = []
    for path in sorted((runs / "fused").glob(f"*/*/{MANIFEST}")):
        try:
            found.setdefault(path.parent.parent.name, {})[path.parent] = read_manifest(path.parent)
        except EmmaError as error:
            warnings.append(plain(str(error)))
    galleries = []
    for dataset in sorted(found, key=dataset_order):
        gallery, lost = _gallery(dataset, found[dataset], examples)
        galleries += [gallery] if gallery.examples else []
        warnings += lost
    return galleries, warnings


def _gallery(dataset: str, manifests: dict[Path, Manifest], examples: int) -> tuple[Gallery, list[str]]:
    folders = sorted(manifests, key=lambda folder: _method_order(folder.name))
    keys = _common_keys([manifests[folder] for folder in folders])
    loaded: list[Example] = []
    lost: list[str] = []
    for key in _spread(keys, examples):
        try:
            loaded.append(_example(dataset, key, {folder: manifests[folder] for folder in folders}))
        except (EmmaError, OSError, TypeError, ValueError) as error:  # a manifest may come from somebody else
            lost.append(plain(str(error)))
    methods = tuple(plain(folder.name) for folder in folders)
    gallery = Gallery(plain(dataset), methods, tuple(loaded), len(keys))
    if not keys:
        return gallery, [f"{gallery.dataset}: no pair was fused by all of {', '.join(methods)}; no gallery"]
    if lost:
        return gallery, [f"{gallery.dataset}: {len(lost)} pairs left out of the gallery, first: {lost[0]}"]
    return gallery, []


def _method_order(name: str) -> tuple[bool, int, bool, str]:
    return row_order(name, baseline=name in NAIVE_ROWS)


def _common_keys(manifests: list[Manifest]) -> list[str]:
    """List the pairs that every method made from the same two files."""
    first = manifests[0].rows
    return [
        key
        for key in sorted(first)
        if all(key in other.rows and _same_sources(first[key], other.rows[key]) for other in manifests[1:])
    ]


def _same_sources(one: Row, other: Row) -> bool:
    return (one.infrared_sha256, one.visible_sha256) == (other.infrared_sha256, other.visible_sha256)


def _spread(keys: list[str], count: int) -> list[str]:
    """Take ``count`` of the keys at equal distances, first and last among them."""
    if len(keys) <= count:
        return keys
    if count < 2:
        return keys[:count]
    return [keys[round(place * (len(keys) - 1) / (count - 1))] for place in range(count)]


def _example(dataset: str, key: str, manifests: dict[Path, Manifest]) -> Example:
    manifest = next(iter(manifests.values()))
    row = manifest.rows[key]
    infrared, visible = _labels(dataset, row.split)
    pictures = [
        _picture(infrared, "infrared", _source(manifests, key, "infrared"), row.infrared_sha256),
        _picture(visible, "visible", _source(manifests, key, "visible"), row.visible_sha256),
    ]
    for folder, made in manifests.items():
        fused = made.rows[key]
        pictures.append(_picture(plain(folder.name), "fused", folder / fused.file, fused.sha256))
    return Example(plain(row.split), plain(row.id), tuple(pictures))


def _source(manifests: dict[Path, Manifest], key: str, side: Literal["infrared", "visible"]) -> Path:
    """Find a source file: methods may have been run at different times, from folders that moved since."""
    rows = [(Path(made.root), made.rows[key]) for made in manifests.values()]
    places = [root / (row.infrared if side == "infrared" else row.visible) for root, row in rows]
    return next((place for place in places if place.is_file()), places[0])


def _labels(dataset: str, split: str) -> tuple[str, str]:
    """Name the two sides; a split like ``MRI-CT`` tells both, of scans of one's own too."""
    mri, _, other = split.partition("-")
    return (other, mri) if mri == _SCANNED and other else source_labels(dataset)


def _picture(name: str, kind: Kind, path: Path, sha256: str) -> Picture:
    image = read_image(path)
    if file_sha256(path) != sha256:
        raise ImageError(f"{path}: changed since the data set was fused")
    return _encode(name, kind, image)


def _encode(name: str, kind: Kind, image: FloatImage) -> Picture:
    data, width, height = encode_preview(image, LONGER_SIDE)
    return Picture(name, kind, data_uri(data), width, height)


def data_uri(webp: bytes) -> str:
    """Spell a WebP file as a ``data:`` URI."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode("ascii")

"""The layouts of M3FD, MSRS and Harvard on disk, filled with rendered scenes."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING

import numpy as np

from emma_core.datasets import SAMPLE_MARK
from emma_core.errors import UsageError
from emma_core.images import write_atomic, write_image
from emma_core.samples import SAMPLE_DATASETS
from emma_core.samples.phantoms import MODALITIES, render_phantom
from emma_core.samples.scenes import render_scene
from emma_core.text import same_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from emma_core.samples.scenes import Box

    Size = tuple[int, int]
    Progress = Callable[[str, int, int], None]

M3FD_NAMES = {
    "person": "People",
    "car": "Car",
    "bus": "Bus",
    "motorcycle": "Motorcycle",
    "lamp": "Lamp",
    "truck": "Truck",
}
"""Class names of M3FD. In its images a lamp is a traffic light, and the box of a motorcycle holds its rider."""

MSRS_IDS = {
    "car": 1,
    "person": 2,
    "bike": 3,
    "curve": 4,
    "car stop": 5,
    "guardrail": 6,
    "color cone": 7,
    "bump": 8,
}
"""Class ids of MSRS; 0 is unlabelled."""

_STREET: Size = (240, 320)
_SLICE: Size = (256, 256)
_SMALLEST = 64

_M3FD_SCENES = (
    ("night", ("person", "car", "lamp", "truck")),
    ("day", ("person", "car", "bus", "motorcycle", "lamp")),
    ("rain", ("person", "car", "bus", "motorcycle", "lamp")),
    ("hot", ("person", "car", "lamp", "truck")),
    ("dark", ("person", "car", "lamp", "truck", "motorcycle")),
    ("smoke", ("person", "car", "bus", "lamp")),
    ("dark", ("person", "car", "bus", "motorcycle", "lamp")),
    ("smoke", ("person", "car", "lamp", "truck", "motorcycle")),
    ("dark", ("person", "car", "bus", "motorcycle", "lamp")),
    ("hot", ("person", "car", "truck", "lamp")),
)
_M3FD_STREET = {"reach": 0.55, "running": 0.25}
"""Objects of some size, for small detectors at low resolution; and vehicles that infrared does not always see."""

_MSRS_WANTED = (
    ("person", "car", "bike", "curve", "car stop", "color cone"),
    ("person", "car", "guardrail", "bump", "curve", "bike", "color cone"),
    ("person", "car", "bump", "car stop", "guardrail", "curve"),
)
_MSRS_STREET = {"reach": 0.6, "running": 0.3, "common_grey": 0.09}
"""Objects of some size, for small segmenters; mostly parked cars; and infrared as dark as that of MSRS, which leaves
room in fused images for what visible light shows of a road at night."""

_MSRS_DAYS = ("day", "overcast", "hot", "smoke", "mist")
_MSRS_NIGHTS = ("unlit", "night", "unlit", "night fog", "unlit")


def write_datasets(
    out: Path, datasets: Sequence[str], pairs: int, seed: int, size: Size | None, progress: Progress | None
) -> list[Path]:
    """Render sample data sets; see :func:`emma_core.samples.write_samples`."""
    names = [_known(name) for name in dict.fromkeys(datasets)]
    if not names:
        raise UsageError(f"No data set to render; expected {', '.join(SAMPLE_DATASETS)}")
    _check(pairs, seed, size)
    folders = []
    for name in dict.fromkeys(names):
        _claim(out / name, seed, size)
        steps, total = _WRITERS[name](out / name, pairs, seed, size)
        for done, _ in enumerate(steps, start=1):
            if progress:
                progress(name, done, total)
        folders.append(out / name)
    return folders


def _known(name: str) -> str:
    if known := same_name(name, SAMPLE_DATASETS):
        return known
    raise UsageError(f"No samples of {name!r} can be rendered; expected {', '.join(SAMPLE_DATASETS)}")


def _claim(root: Path, seed: int, size: Size | None) -> None:
    """Mark a folder as rendered; one that holds anything else is left alone."""
    mark = json.dumps({"rendered by": "emma-tasks sample-data", "seed": seed, "size": size}) + "\n"
    path = root / SAMPLE_MARK
    if path.exists():
        found = path.read_text("utf-8", errors="replace")
        if found != mark:
            raise UsageError(f"{root}: holds samples of another seed or size ({found.strip()[:100]})")
    elif root.exists() and any(root.iterdir()):
        raise UsageError(f"{root}: holds something else than samples; choose another folder for them")
    write_atomic(path, mark.encode())


def _check(pairs: int, seed: int, size: Size | None) -> None:
    if pairs < 1:
        raise UsageError(f"{pairs} pairs; expected at least 1")
    if seed < 0:
        raise UsageError(f"seed {seed}; expected 0 or more")
    if size and min(size) < _SMALLEST:
        raise UsageError(f"size {size[0]} x {size[1]}; expected at least {_SMALLEST} x {_SMALLEST}")


def _seeds(seed: int, part: str, index: int) -> np.random.SeedSequence:
    """Derive the randomness of one pair from its place alone, so that it does not depend on the others."""
    return np.random.SeedSequence([seed, zlib.crc32(part.encode()), index])


def _m3fd(root: Path, pairs: int, seed: int, size: Size | None) -> tuple[Iterator[None], int]:
    def steps() -> Iterator[None]:
        for index in range(pairs):
            climate, wanted = _M3FD_SCENES[index % len(_M3FD_SCENES)]
            scene = render_scene(_seeds(seed, "M3FD", index), climate, wanted, size or _STREET, **_M3FD_STREET)
            name = f"{index:05d}"
            write_image(root / "Ir" / f"{name}.png", scene.infrared)
            write_image(root / "Vis" / f"{name}.png", scene.visible)
            boxes = [box for box in scene.boxes if box.kind in M3FD_NAMES]
            write_atomic(root / "Annotation" / f"{name}.xml", _voc(name, boxes, size or _STREET).encode())
            yield

    return steps(), pairs


def _voc(name: str, boxes: Sequence[Box], size: Size) -> str:
    """Return a Pascal VOC annotation as M3FD writes it: xmax and ymax are one past the last pixel."""
    lines = ["<annotation>", "  <folder>Vis</folder>", f"  <filename>{name}.png</filename>", "  <size>"]
    lines += [f"    <width>{size[1]}</width>", f"    <height>{size[0]}</height>", "    <depth>3</depth>", "  </size>"]
    for box in sorted(boxes, key=lambda box: list(M3FD_NAMES).index(box.kind)):
        lines += [
            "  <object>",
            f"    <name>{M3FD_NAMES[box.kind]}</name>",
            "    <difficult>0</difficult>",
            "    <bndbox>",
        ]
        lines += [f"      <xmin>{box.left}</xmin>", f"      <ymin>{box.top}</ymin>"]
        lines += [f"      <xmax>{box.right}</xmax>", f"      <ymax>{box.bottom}</ymax>"]
        lines += ["    </bndbox>", "  </object>"]
    return "\n".join([*lines, "</annotation>"])


def _msrs(root: Path, pairs: int, seed: int, size: Size | None) -> tuple[Iterator[None], int]:
    def steps() -> Iterator[None]:
        for index in range(pairs):
            split, climate, wanted = _msrs_scene(index)
            scene = render_scene(_seeds(seed, "MSRS", index), climate, wanted, size or _STREET, **_MSRS_STREET)
            name = f"{index + 1:05d}{'N' if climate in _MSRS_NIGHTS else 'D'}.png"
            write_image(root / split / "ir" / name, scene.infrared)
            write_image(root / split / "vi" / name, scene.visible)
            labels = scene.mask(MSRS_IDS).astype(np.float32) / np.float32(255)
            write_image(root / split / "Segmentation_labels" / name, labels)
            yield

    return steps(), pairs


def _msrs_scene(index: int) -> tuple[str, str, tuple[str, ...]]:
    """Choose split, weather and classes by place: two pairs for training, one for testing, day and night in turns."""
    split = "test" if index % 3 == 2 else "train"
    place = index // 3 if split == "test" else index // 3 * 2 + index % 3
    night = place % 2 == (1 if split == "train" else 0)
    climate = (_MSRS_NIGHTS if night else _MSRS_DAYS)[place // 2 % len(_MSRS_DAYS)]
    return split, climate, _MSRS_WANTED[place % len(_MSRS_WANTED)]


def _harvard(root: Path, pairs: int, seed: int, size: Size | None) -> tuple[Iterator[None], int]:
    each = max(2, pairs // 3)

    def steps() -> Iterator[None]:
        for modality in MODALITIES:
            folder = root / f"MRI-{modality}"
            for index in range(each):
                phantom = render_phantom(_seeds(seed, f"Harvard {modality}", index), modality, size or _SLICE)
                write_image(folder / "MRI" / f"{index + 1}.png", phantom.mri)
                write_image(folder / modality / f"{index + 1}.png", phantom.other)
                yield

    return steps(), each * len(MODALITIES)


_WRITERS: dict[str, Callable[[Path, int, int, Size | None], tuple[Iterator[None], int]]] = {
    "M3FD": _m3fd,
    "MSRS": _msrs,
    "Harvard": _harvard,
}

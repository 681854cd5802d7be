"""The scenes that training sees: pairs, their fused images by teachers, all read once and kept in memory as bytes.

A pair or a teacher's image that cannot be read is named and left out.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from emma_core.errors import DataError
from emma_core.images import read_grey, size_text, to_8bit
from emma_core.pairs import IMAGE_SUFFIXES, Fault, Pair, split_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Table = dict[str, list[Path]]
    Shared = Mapping[tuple[str, str], tuple[tuple[str, str], tuple[str, str]]]

CACHE_BYTES = 4 * 2**30
"""Images beyond this are read again whenever they are needed: 6,000 pairs of 640 x 480 fit, with a teacher each."""


@dataclass(frozen=True)
class Scene:
    """A pair and where the fused images of it are.

    Attributes:
        dataset: name of its data set.
        pair: the two source files.
        teachers: fused image by the name of who fused it; may be empty.
    """

    dataset: str
    pair: Pair
    teachers: Mapping[str, Path] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """``dataset/split/id``."""
        return f"{self.dataset}/{self.pair.key}"


class SceneImages(NamedTuple):
    """The images of a scene, 8-bit luma, each (H, W)."""

    infrared: Bytes
    visible: Bytes
    teachers: Mapping[str, Bytes]


class SceneReader:
    """Reads scenes; keeps what fits into memory."""

    def __init__(self, cache_bytes: int = CACHE_BYTES) -> None:
        self._cache: dict[str, SceneImages] = {}
        self._room = cache_bytes

    def __call__(self, scene: Scene) -> SceneImages:
        """Return the images of a scene.

        Raises:
            DataError: one cannot be read, or they differ in size; the message names it.
        """
        if scene.key in self._cache:
            return self._cache[scene.key]
        images = _read(scene)
        size = sum(image.nbytes for image in (images.infrared, images.visible, *images.teachers.values()))
        if size <= self._room:
            self._room -= size
            self._cache[scene.key] = images
        return images


class Scenes(NamedTuple):
    """What can be used, what cannot, and who reads it."""

    scenes: tuple[Scene, ...]
    faults: tuple[Fault, ...]
    reader: SceneReader
    digests: Mapping[str, str]

    @property
    def hash(self) -> str:
        """SHA-256 over the keys and the content of all images, teachers' included."""
        return split_hash(f"{scene.key} {self.digests[scene.key]}" for scene in self.scenes)


def open_scenes(
    scenes: Iterable[Scene],
    *,
    cache_bytes: int = CACHE_BYTES,
    on_scene: Callable[[], None] = lambda: None,
) -> Scenes:
    """Read all scenes once and keep those that can be used.

    Args:
        scenes: candidates, from :func:`with_teachers`.
        cache_bytes: how much may be kept in memory.
        on_scene: called after each scene, for a progress bar.

    Returns:
        The scenes, without what is unreadable, and the faults.

    Raises:
        DataError: not one scene is left.
    """
    reader = SceneReader(cache_bytes)
    usable: list[Scene] = []
    faults: list[Fault] = []
    digests: dict[str, str] = {}

    def check(scene: Scene) -> tuple[Scene | None, list[Fault]]:
        kept, found = _usable(scene, reader)
        if kept:
            digests[kept.key] = _digest(reader(kept))
        on_scene()
        return kept, found

    with ThreadPoolExecutor() as pool:
        for scene, found in pool.map(check, scenes):
            usable += [scene] if scene else []
            faults += found
    if not usable:
        raise DataError(f"No pair can be trained on; first: {faults[0]}" if faults else "No pair to train on")
    return Scenes(tuple(usable), tuple(faults), reader, digests)


def shared_names(items: Iterable[tuple[str, Pair | Fault]]) -> Shared:
    """Find the names of fused images that would fit more than one pair.

    Args:
        items: data set and pair; with the pairs that are unusable or not trained on, whose images a folder may hold.

    Returns:
        For (tie, ``id`` or ``split/id``), in lower case, the first two (data set, ``split/id``) that it fits. A tie is
        the data set that the folder is said to be of; without one it is empty.
    """
    first: dict[tuple[str, str], tuple[str, str]] = {}
    shared: dict[tuple[str, str], tuple[tuple[str, str], tuple[str, str]]] = {}
    for dataset, item in items:
        owner = (dataset, item.key)
        for tie in ("", dataset):
            for name in _names(item):
                if first.setdefault((tie, name), owner) != owner:
                    shared.setdefault((tie, name), (first[tie, name], owner))
    return shared


def teacher_tie(teacher: str) -> tuple[str, str]:
    """Part ``NAME@DATA`` into the name of a teacher and that of the only data set that its folder is of, or nothing."""
    name, _, tie = teacher.partition("@")
    return name, tie


def with_teachers(
    dataset: str, pairs: Iterable[Pair], folders: Sequence[tuple[str, Path]], shared: Shared | None = None
) -> list[Scene]:
    """Find the fused images of pairs.

    Args:
        dataset: name of the data set of the pairs.
        pairs: the pairs.
        folders: (name of the teacher, folder); images are ``<id>.*`` or ``<split>/<id>.*``, in any format. One
            name may have several folders, for several data sets; ``NAME@DATA`` ties a folder to one of them.
        shared: what :func:`shared_names` found in all data sets.

    Returns:
        A scene for each pair, with the teachers that have an image of it.

    Raises:
        DataError: a folder does not exist, an image may be of another pair as well, or a teacher has two images of a
            pair.
    """
    tables = [(teacher, folder, _by_stem(folder)) for teacher, folder in folders]
    return [Scene(dataset, pair, _images_of(pair, tables, shared or {})) for pair in pairs]


def hold_out(scenes: Sequence[Scene], number: int) -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    """Part scenes into those to train on and those to validate on, the latter spread evenly.

    At most half of the scenes are held out; of a single scene none, so it is validated on itself.
    """
    number = min(number, len(scenes) // 2)
    if number < 1:
        return tuple(scenes), tuple(scenes[:1])
    chosen = {(2 * index + 1) * len(scenes) // (2 * number) for index in range(number)}
    training = tuple(scene for index, scene in enumerate(scenes) if index not in chosen)
    return training, tuple(scenes[index] for index in sorted(chosen))


def _names(item: Pair | Fault) -> set[str]:
    """Name the fused image of a pair, in lower case."""
    return {item.id.lower(), item.key.lower()}


def _images_of(pair: Pair, tables: Sequence[tuple[str, Path, Table]], shared: Shared) -> dict[str, Path]:
    """Take the one image of a pair by each teacher that has any."""
    images: dict[str, Path] = {}
    for teacher, folder, table in tables:
        name, tie = teacher_tie(teacher)
        for stem in sorted(_names(pair)):
            for file in table.get(stem, []):
                if (tie, stem) in shared:
                    raise DataError(_ambiguous(teacher, folder, file, shared[tie, stem]))
                if name in images:
                    raise DataError(_twice(name, pair.key, images[name], file))
                images[name] = file
    return images


def _ambiguous(teacher: str, folder: Path, file: Path, owners: tuple[tuple[str, str], tuple[str, str]]) -> str:
    """Say of which two pairs an image may be, and what would tell them apart."""
    (dataset, key), (other, _) = owners
    advice = f"expected a folder for each split, as {folder / key}{file.suffix}"
    if other != dataset:
        advice = f"say of which: --teacher {teacher}@{dataset}={folder} or {teacher}@{other}={folder}"
    first, second = ("/".join(owner) for owner in owners)
    return f"--teacher {teacher}={folder}: {file.relative_to(folder)} may be of {first} or of {second}; {advice}"


def _twice(name: str, key: str, first: Path, second: Path) -> str:
    return (
        f"--teacher {name}: two fused images of {key}, {first} and {second}; expected one: leave out one of them, "
        "or give its folder another NAME"
    )


def _by_stem(folder: Path) -> Table:
    """Map ``id`` and ``split/id``, in lower case, to the images of a folder and of those one below it."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected fused images named like the pairs")
    files = [file for pattern in ("*", "*/*") for file in sorted(folder.glob(pattern))]
    table: Table = {}
    for file in files:
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."):
            table.setdefault(str(file.relative_to(folder).with_suffix("").as_posix()).lower(), []).append(file)
    return table


def _read(scene: Scene) -> SceneImages:
    infrared, visible = (to_8bit(read_grey(file)) for file in (scene.pair.infrared, scene.pair.visible))
    if infrared.shape != visible.shape:
        raise DataError(f"the two images differ in size: {size_text(infrared.shape)} and {size_text(visible.shape)}")
    return SceneImages(
        infrared, visible, {name: _read_teacher(file, infrared) for name, file in scene.teachers.items()}
    )


def _read_teacher(file: Path, like: Bytes) -> Bytes:
    image = to_8bit(read_grey(file))
    if image.shape != like.shape:
        raise DataError(f"{file} is {size_text(image.shape)}, its sources {size_text(like.shape)}")
    return image


def _usable(scene: Scene, reader: SceneReader) -> tuple[Scene | None, list[Fault]]:
    """Read a scene; if that fails, find out whether it is a teacher's fault."""
    try:
        reader(scene)
    except DataError as error:
        if not scene.teachers:
            return None, [fault(scene, str(error))]
    else:
        return scene, []
    try:
        source = _read(Scene(scene.dataset, scene.pair)).infrared
    except DataError as error:
        return None, [fault(scene, str(error))]
    kept: dict[str, Path] = {}
    faults: list[Fault] = []
    for name, file in scene.teachers.items():
        try:
            _read_teacher(file, source)
            kept[name] = file
        except DataError as error:
            faults.append(fault(scene, f"teacher {name}: {error}"))
    rest = Scene(scene.dataset, scene.pair, kept)
    reader(rest)
    return rest, faults


def _digest(images: SceneImages) -> str:
    digest = hashlib.sha256()
    named = {"infrared": images.infrared, "visible": images.visible, **images.teachers}
    for name, image in sorted(named.items()):
        digest.update(f"{name} {image.shape}".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()


def fault(scene: Scene, reason: str) -> Fault:
    """Name a scene, or a teacher's image of it, that cannot be used."""
    return Fault(f"{scene.dataset}/{scene.pair.split}".rstrip("/"), scene.pair.id, reason)

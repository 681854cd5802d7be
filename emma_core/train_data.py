"""What a training run learns from: pairs of several data sets, teachers' images of them, and a record of all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from emma_core.datasets import dataset_spec, folder_spec
from emma_core.errors import DataError, UsageError
from emma_core.pairs import find_pairs, read_split_file
from emma_core.scenes import fault, hold_out, open_scenes, shared_names, teacher_tie, with_teachers
from emma_core.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from emma_core.datasets import DatasetSpec
    from emma_core.pairs import Fault, Pair
    from emma_core.scenes import Scene, SceneReader, Scenes


@dataclass(frozen=True)
class Source:
    """A data set to train on.

    Attributes:
        name: of the table of data sets; any name with ``folders``.
        root: the folder that holds it.
        folders: instead of root: infrared and visible folder.
        split_file: only the ids that it lists.
        exclude_file: without the ids that it lists.
    """

    name: str
    root: Path = Path()
    folders: tuple[Path, Path] | None = None
    split_file: Path | None = None
    exclude_file: Path | None = None


@dataclass(frozen=True)
class DataRecord:
    """What a run was trained on, as its ``config.toml`` says it.

    Attributes:
        sources: data sets and numbers of pairs.
        teachers: whose fused images were used.
        training: number of pairs trained on.
        validation: number of pairs held out; none of a single pair.
        hash: SHA-256 over all pairs that can be read, and their teachers.
    """

    sources: tuple[str, ...]
    teachers: tuple[str, ...]
    training: int
    validation: int
    hash: str


@dataclass(frozen=True)
class TrainingData:
    """Scenes to train and to validate on, what had to be left out, and a record of all."""

    training: tuple[Scene, ...]
    validation: tuple[Scene, ...]
    reader: SceneReader
    record: DataRecord
    faults: tuple[Fault, ...]


def find_data(
    sources: Sequence[Source],
    teachers: Sequence[tuple[str, Path]] = (),
    *,
    held_out: int = 8,
    taught: bool = False,
    on_scene: Callable[[], None] = lambda: None,
) -> TrainingData:
    """Find, read and part the data of a run.

    Args:
        sources: the data sets.
        teachers: (name, or ``NAME@DATA`` for the pairs of one source only, folder) of fused images, see
            :func:`emma_core.scenes.with_teachers`.
        held_out: number of pairs to validate on.
        taught: whether pairs without a teacher's image are left out.
        on_scene: called after each pair is read.

    Returns:
        The data. What cannot be read is among the faults.

    Raises:
        DataError: a data set is not where it should be, a teacher has no image of any pair or one that may be of two,
            or not one pair is left.
        UsageError: an unknown data set, two of one name, or a teacher's folder that is tied to none of them.
    """
    _check_names(sources)
    _check_ties(sources, teachers)
    scenes, faults = _find_scenes(sources, teachers)
    opened = open_scenes(scenes, on_scene=on_scene)
    training, validation = hold_out(opened.scenes, held_out)
    if taught:
        untaught = {scene.key for scene in scenes if not scene.teachers}
        faults += [fault(scene, "no teacher has an image of it") for scene in opened.scenes if scene.key in untaught]
        training, validation = _taught(training, validation, held_out, [*faults, *opened.faults])
    record = _record(opened, training, validation)
    return TrainingData(training, validation, opened.reader, record, (*faults, *opened.faults))


def _taught(
    training: Sequence[Scene], validation: Sequence[Scene], held_out: int, faults: Sequence[Fault]
) -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    """Keep the scenes that a teacher has an image of, and hold some more out if need be.

    None goes the other way: the fuser, which needs no teacher, is validated on no pair that a sensing network saw.
    """
    training, validation = (tuple(scene for scene in part if scene.teachers) for part in (training, validation))
    if not training and not validation:
        raise DataError(f"No pair can be trained on; first: {faults[0]}")
    if not training:
        raise DataError(f"No pair to train on: all {len(validation)} that a teacher has an image of are held out")
    more = min(held_out, (len(training) + len(validation)) // 2) - len(validation)
    if more > 0 or not validation:
        training, added = hold_out(training, max(more, 1))
        validation = (*validation, *added)
    return training, validation


def _find_scenes(sources: Sequence[Source], teachers: Sequence[tuple[str, Path]]) -> tuple[list[Scene], list[Fault]]:
    """Find the pairs of all data sets, and the teachers' images of each."""
    shared = shared_names(item for source in sources for item in _everything(source)) if teachers else None
    found: dict[str, list[Scene]] = {}
    faults: list[Fault] = []
    for source in sources:
        folders = [each for each in teachers if teacher_tie(each[0])[1] in {"", source.name}]
        name, pairs, unusable = _find(source)
        found[source.name] = with_teachers(name, pairs, folders, shared)
        faults += unusable
    everything = [scene for scenes in found.values() for scene in scenes]
    for teacher, folder in teachers:
        _check_teacher(teacher, folder, found.get(teacher_tie(teacher)[1], everything))
    return everything, faults


def _find(source: Source) -> tuple[str, list[Pair], list[Fault]]:
    """Find the pairs of one data set. Where it has a training split, and no list says otherwise, that is taken."""
    spec, root = _place(source)
    trains = any(part.name == "train" for part in spec.splits) and source.split_file is None
    found = find_pairs(spec, root, split="train" if trains else None, split_file=source.split_file)
    pairs = list(found.pairs)
    if source.exclude_file:
        pairs = _without(found.dataset, pairs, source.exclude_file)
    return found.dataset, pairs, [replace(each, split=f"{found.dataset}/{each.split}") for each in found.faults]


def _everything(source: Source) -> Iterator[tuple[str, Pair | Fault]]:
    """Name all that a data set holds: a teacher may have fused what is not trained on."""
    found = find_pairs(*_place(source))
    items: tuple[Pair | Fault, ...] = (*found.pairs, *found.faults)
    return ((source.name, item) for item in items)


def _place(source: Source) -> tuple[DatasetSpec, Path]:
    if source.folders:
        return folder_spec(source.name, *source.folders), source.folders[0].parent
    return dataset_spec(source.name, f"give: --data {source.name}=IR_DIR,VIS_DIR"), source.root


def _check_names(sources: Sequence[Source]) -> None:
    """Refuse two data sets of one name: pairs, and the images remembered of them, are told apart by it."""
    names = [source.name.casefold() for source in sources]
    twice = [source.name for source in sources if names.count(source.name.casefold()) > 1]
    if twice:
        raise UsageError(
            f"--data {twice[-1]}: two are called so; give each a name of its own, as NAME=IR_DIR,VIS_DIR may have any"
        )


def _check_ties(sources: Sequence[Source], teachers: Sequence[tuple[str, Path]]) -> None:
    """Refuse a folder that is said to be of a data set which is not trained on."""
    names = [source.name for source in sources]
    for teacher, folder in teachers:
        name, tie = teacher_tie(teacher)
        if "@" in teacher and not (name and tie in names):
            raise UsageError(
                f"--teacher {teacher}={folder}: expected NAME@DATA=DIR, DATA being the name of a --data: "
                f"{', '.join(names)}"
            )


def _check_teacher(teacher: str, folder: Path, scenes: Sequence[Scene]) -> None:
    """Refuse a folder none of whose images is named like a pair."""
    name, _ = teacher_tie(teacher)
    if scenes and not any(name in scene.teachers for scene in scenes):
        pair = scenes[0].pair
        raise DataError(
            f"--teacher {teacher}={folder}: holds no fused image of any of the {len(scenes)} pairs; expected "
            f"names like {pair.id}.png or {pair.key}.png (any image format)"
        )


def _without(name: str, pairs: list[Pair], exclude_file: Path) -> list[Pair]:
    """Leave out what a list names; it may name more than is there, as a complete test list does."""
    listed = set(read_split_file(exclude_file))
    kept = [pair for pair in pairs if not {pair.id, pair.key} & listed]
    if len(kept) == len(pairs):
        raise DataError(f"{exclude_file}: none of {len(listed)} ids is in {name}; nothing would be left out")
    return kept


def _record(opened: Scenes, training: Sequence[Scene], validation: Sequence[Scene]) -> DataRecord:
    used = {scene.key: scene for scene in (*training, *validation)}
    counts = Counter(scene.dataset for scene in used.values())
    teachers = {name for scene in used.values() for name in scene.teachers}
    sources = tuple(f"{name}: {counted(count, 'pair')}" for name, count in counts.items())
    return DataRecord(sources, tuple(sorted(teachers)), len(training), len(used) - len(training), opened.hash)

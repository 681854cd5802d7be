"""Which pairs a detector is trained on, chosen by, and tested on; written down as ``split.json`` and hashed.

M3FD was published without a split. Random ones leak, because its frames are neighbours in videos; so beside the
paper's there is one that keeps scenes together, and any other can be given.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from detection.duplicates import hash_pairs, near_duplicates, scenes
from emma_core.errors import DataError, UsageError
from emma_core.files import read_text
from emma_core.images import write_atomic
from emma_core.pairs import Pair, read_split_file, refuse_ambiguous, split_hash

if TYPE_CHECKING:
    from detection.duplicates import Links

SPLIT_FILE = "split.json"
SCHEMA = 1
PARTS = ("train", "val", "test")

_BLOCK, _ROUND = 8, 10  # pairs in a block; of ten blocks one is held out for validation and one for testing
_HELD_OUT = 10  # one in so many training pairs, where a list names none

Parts = tuple[Sequence[Pair], Sequence[Pair], Sequence[Pair]]


@dataclass(frozen=True)
class DetectionSplit:
    """Three disjoint sets of pairs.

    Attributes:
        label: of the split, as in paths and tables.
        train: ``split/id`` of the pairs that weights are fitted to.
        val: of those that the best epoch is chosen by.
        test: of those that figures are about.
        notes: what a reader should know of it.
    """

    label: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def hash(self) -> str:
        """SHA-256 over what is in which part."""
        return split_hash(f"{part} {key}" for part in PARTS for key in getattr(self, part))


def paper_parts(pairs: Sequence[Pair]) -> Parts:
    """Part 8:1:1 at random as the paper most likely did: a VOC preparation script with its default seed.

    The paper's lists were never published. This follows the script that its group's other projects use: names sorted,
    seed 0, 90 % to train and validate, 90 % of these to train; of 4,200 pairs 3,402, 378 and 420.
    """
    chance = random.Random(0)  # noqa: S311 - the generator of that script
    both = chance.sample(range(len(pairs)), int(len(pairs) * 0.9))
    train = set(chance.sample(both, int(len(both) * 0.9)))
    validate = set(both) - train
    return _parted(pairs, ["train" if n in train else "val" if n in validate else "test" for n in range(len(pairs))])


def scene_parts(pairs: Sequence[Pair], links: Links) -> Parts:
    """Part 8:1:1 so that near-duplicates stay together: the largest scenes first, to the part that lacks most."""
    rooms = {part: share * len(pairs) for part, share in zip(PARTS, (0.8, 0.1, 0.1), strict=True)}
    places = [""] * len(pairs)
    for scene in sorted(scenes(len(pairs), links), key=lambda scene: (-len(scene), scene[0])):
        part = max(PARTS, key=lambda part: rooms[part])
        rooms[part] -= len(scene)
        for number in scene:
            places[number] = part
    return _parted(pairs, places)


def block_parts(pairs: Sequence[Pair]) -> Parts:
    """Part 8:1:1 by blocks of neighbouring ids, so that few neighbours come apart."""
    size = min(_BLOCK, max(1, len(pairs) // _ROUND))
    turns = [number // size % _ROUND for number in range(len(pairs))]
    return _parted(pairs, ["test" if turn == 4 else "val" if turn == 9 else "train" for turn in turns])


def official_parts(pairs: Sequence[Pair]) -> Parts:
    """Take the parts of the data set; without a part ``val``, one training pair in ten is held out for validation.

    Raises:
        UsageError: the labelled pairs are not in such parts.
    """
    train = [pair for pair in pairs if pair.split == "train"]
    test = [pair for pair in pairs if pair.split == "test"]
    if not train or not test:
        raise UsageError("--split official: the labelled pairs have no parts train and test; expected both")
    val = [pair for pair in pairs if pair.split == "val"]
    return (train, val, test) if val else (*_held_out(train), test)


def third_parts(pairs: Sequence[Pair]) -> Parts:
    """Test on every third pair: for small sets of unrelated scenes, such as the rendered samples."""
    rest = [pair for number, pair in enumerate(pairs) if number % 3 != 2]
    return (*_held_out(rest), pairs[2::3])


METHODS: dict[str, Callable[[Sequence[Pair]], Parts]] = {
    "paper": paper_parts,
    "blocks": block_parts,
    "official": official_parts,
    "thirds": third_parts,
}
"""Splits that need to see nothing but the ids; ``scene`` looks at the images."""


def default_method(dataset: str, pairs: Sequence[Pair]) -> str:
    """Name the split of a data set: the paper's for M3FD, its own parts where it has some, else blocks."""
    if dataset == "M3FD":
        return "paper"
    return "official" if {"train", "test"} <= {pair.split for pair in pairs} else "blocks"


def make_split(pairs: Sequence[Pair], method: str, on_pair: Callable[[], None] = lambda: None) -> DetectionSplit:
    """Part labelled pairs by a named method.

    Args:
        pairs: in the order of their ids.
        method: a key of :data:`METHODS`, or ``scene``.
        on_pair: called after each image pair that ``scene`` looked at.

    Raises:
        UsageError: an unknown method, or too few pairs for it.
    """
    notes: tuple[str, ...] = ()
    if method == "scene":
        links = near_duplicates(hash_pairs(pairs, on_pair))
        parts = scene_parts(pairs, links)
        notes = (duplicates_note(pairs, links),)
    elif method in METHODS:
        parts = METHODS[method](pairs)
    else:
        raise UsageError(f"--split {method!r}: expected {', '.join([*METHODS, 'scene'])}")
    train, val, test = map(_keys, parts)
    return _checked(DetectionSplit(method, train, val, test, notes))


def duplicates_note(pairs: Sequence[Pair], links: Links) -> str:
    """Say how many test pairs of the paper's random split have a near-duplicate among the pairs it trains on."""
    train, _, test = (set(_keys(part)) for part in paper_parts(pairs))
    keys = [pair.key for pair in pairs]
    named = [(keys[one], keys[other]) for one, other in links.tolist()]
    crossing = {key for ends in named for key, mate in (ends, ends[::-1]) if key in test and mate in train}
    return (
        f"Near-duplicates stay on one side. In the paper's random split of these pairs, {len(crossing)} of {len(test)} "
        "test pairs have a near-duplicate among the training pairs."
    )


def listed_split(pairs: Sequence[Pair], test: Path, train: Path | None, val: Path | None) -> DetectionSplit:
    """Take lists of ids, one a line.

    Args:
        pairs: with boxes.
        test: list of the pairs to test on.
        train: of those to train on; by default all that the other lists do not name.
        val: of those to choose the epoch by; by default one training pair in ten.

    Raises:
        DataError: a list names a pair that is not there or has no boxes, or one twice.
        UsageError: two lists name the same pair.
    """
    lists = {part: path for part, path in (("train", train), ("val", val), ("test", test)) if path}
    chosen = {part: _listed(pairs, read_split_file(path), path) for part, path in lists.items()}
    if not train:
        named = {pair.key for listed in chosen.values() for pair in listed}
        chosen["train"] = [pair for pair in pairs if pair.key not in named]
    if not val:
        chosen["train"], chosen["val"] = map(list, _held_out(chosen["train"]))
    keys = {part: _keys(chosen[part]) for part in PARTS}
    split = DetectionSplit("", **keys)
    return _checked(replace(split, label=f"{test.stem}-{split.hash[:6]}"))


def read_split(path: Path, pairs: Sequence[Pair]) -> DetectionSplit:
    """Read a ``split.json``, as a run writes it or as somebody else gives it: ids under train, val and test.

    Raises:
        DataError: it cannot be read, or names a pair that is not there or has no boxes, or one twice in a part.
    """
    try:
        content = json.loads(read_text(path, "utf-8-sig"))
        lists = {part: [str(identifier) for identifier in content[part]] for part in PARTS}
        notes = tuple(map(str, content.get("notes", ())))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a split.json") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: no split ({error}); expected JSON with lists of ids: train, val, test; "
            "a list of ids, one a line, goes with --train-list or --test-list"
        ) from None
    keys = {part: _keys(_listed(pairs, lists[part], path)) for part in PARTS}
    split = DetectionSplit("", **keys, notes=notes)
    return _checked(replace(split, label=f"{path.stem}-{split.hash[:6]}"))


def write_split(folder: Path, split: DetectionSplit, dataset: str) -> Path:
    """Write ``split.json`` into the folder of the rows, whole or not at all."""
    content = {"schema": SCHEMA, "dataset": dataset, "hash": split.hash, "notes": split.notes}
    content |= {part: getattr(split, part) for part in PARTS}
    path = folder / SPLIT_FILE
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def _parted(pairs: Sequence[Pair], places: Sequence[str]) -> Parts:
    train, val, test = ([pair for pair, place in zip(pairs, places, strict=True) if place == part] for part in PARTS)
    return train, val, test


def _keys(pairs: Sequence[Pair]) -> tuple[str, ...]:
    return tuple(pair.key for pair in pairs)


def _held_out(pairs: Sequence[Pair]) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """Hold out one pair in ten, spread evenly; of one pair that one, of none none."""
    number = min(len(pairs), max(1, len(pairs) // _HELD_OUT))
    chosen = {(2 * index + 1) * len(pairs) // (2 * number) for index in range(number)}
    rest = [pair for index, pair in enumerate(pairs) if index not in chosen]
    return rest, [pairs[index] for index in sorted(chosen)]


def _listed(pairs: Sequence[Pair], names: Sequence[str], path: Path) -> list[Pair]:
    refuse_ambiguous(names, pairs, path)
    known = {name: pair for pair in pairs for name in (pair.id, pair.key)}
    lost = [name for name in names if name not in known]
    if lost:
        raise DataError(f"{path}: {len(lost)} of {len(names)} ids are no pairs with boxes here, first {lost[0]!r}")
    spelled: dict[str, str] = {}  # a pair may be listed by its id and by split/id
    for name in names:
        key = known[name].key
        if key in spelled:
            raise DataError(f"{path}: lists {key} twice in one part, as {spelled[key]!r} and {name!r}; leave out one")
        spelled[key] = name
    return [known[name] for name in names]


def _checked(split: DetectionSplit) -> DetectionSplit:
    """Refuse empty and overlapping parts."""
    parts = {part: set(getattr(split, part)) for part in PARTS}
    if empty := [part for part, keys in parts.items() if not keys]:
        counts = ", ".join(f"{part} {len(keys)}" for part, keys in parts.items())
        raise UsageError(f"Split {split.label}: no pair in {empty[0]} ({counts}); expected one at least in each")
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := sorted(parts[one] & parts[other]):
            raise UsageError(f"Split {split.label}: {shared[0]!r} is in {one} and in {other}")
    return split

"""What detectors are compared on: pairs with boxes, parted into training, validation and test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from detection.annotations import CONDITIONS, read_annotations
from detection.scoring import MEAN, OPERATING_NOTE, group_by_condition, read_conditions
from detection.splits import PARTS
from emma_core.comparisons import rare_note
from emma_core.errors import DataError
from emma_core.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from detection.annotations import Annotations
    from detection.splits import DetectionSplit
    from emma_core.pairs import Pair, PairSet


_PURPOSES = {"train": "to train", "val": "to validate", "test": "to test"}


@dataclass(frozen=True)
class Bench:
    """Labelled pairs and their split.

    Attributes:
        pairs: those that the split names.
        annotations: their boxes.
        split: which are for what.
        listed: light of an image by id, where somebody wrote it down.
    """

    pairs: PairSet
    annotations: Annotations
    split: DetectionSplit
    listed: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.annotations.classes

    @property
    def test(self) -> PairSet:
        """The pairs that figures are about, in the order of their ids."""
        return self.only(self.split.test)

    @cached_property
    def sources_hash(self) -> str:
        """SHA-256 over the source files of all pairs; a result's own hash is of the test pairs only."""
        return self.pairs.sources_hash()

    @property
    def conditions(self) -> dict[str, NDArray[np.int64]]:
        """Numbers of the test pairs by light, where it is known."""
        keys = [pair.key for pair in self.test.pairs]
        return group_by_condition(keys, self.listed, self.pairs.spec.conditions)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table should know."""
        left_out = len(self.annotations.unlabelled)
        unlabelled = (f"{left_out} pairs without a label file are left out.",) if left_out else ()
        return (OPERATING_NOTE, *self.split.notes, *unlabelled, *self._absent(), *self._rare())

    def _absent(self) -> list[str]:
        """Name the classes that only some light shows: means by light are then over other classes."""
        keys = [pair.key for pair in self.test.pairs]
        there = [name for name, count in self.annotations.counts(keys).items() if count]
        notes = []
        for condition, chosen in self.conditions.items():
            counts = self.annotations.counts(keys[number] for number in chosen)
            if lacking := [name for name in there if not counts[name]]:
                notes.append(f"{MEAN} {condition} is over fewer classes: no {', '.join(lacking)} in these images.")
        return notes

    def _rare(self) -> list[str]:
        """Name the classes, and their mean, that too few test images show."""
        images = [self.annotations.images[key].classes for key in self.split.test]
        shown = {MEAN: sum(len(found) > 0 for found in images)}
        shown |= {name: sum(number in found for found in images) for number, name in enumerate(self.classes)}
        return rare_note(shown)

    def only(self, keys: Sequence[str]) -> PairSet:
        """Return some of the pairs."""
        wanted = set(keys)
        return replace(self.pairs, pairs=tuple(pair for pair in self.pairs.pairs if pair.key in wanted))


def open_bench(
    pairs: PairSet,
    choose: Callable[[Sequence[Pair]], DetectionSplit],
    *,
    labels: Path | None = None,
    conditions: Path | None = None,
    classes: tuple[str, ...] | None = None,
    parts: Sequence[str] = PARTS,
) -> Bench:
    """Read the boxes of a data set and part what has some.

    Args:
        pairs: of the data set.
        choose: parts labelled pairs.
        labels: where the boxes are, if not in the usual places.
        conditions: file of the light of each image by id, if it does not lie beside the boxes.
        classes: names of a data set of one's own, in the order of their numbers.
        parts: of the split that are used.

    Raises:
        DataError: there are no boxes to train or test on, or a file of them is broken.
        UsageError: nobody has drawn boxes for this data set, or it is too small for the split.
    """
    annotations = read_annotations(pairs, labels, classes)
    labelled = [pair for pair in pairs.pairs if pair.key in annotations.images]
    split = choose(labelled)
    for part in parts:
        if part != "val":  # figures mean something without a box to choose the epoch by
            _refuse_without_boxes(annotations, getattr(split, part), part)
    wanted = {*split.train, *split.val, *split.test}
    kept = tuple(pair for pair in labelled if pair.key in wanted)
    source = annotations.source
    places = [place / CONDITIONS for place in (source if source.is_dir() else source.parent, pairs.root)]
    lights = conditions or next((path for path in places if path.exists()), None)
    listed = read_conditions(lights) if lights else {}
    if conditions and not any({pair.key, pair.id} & listed.keys() for pair in kept):
        raise DataError(
            f"{conditions}: names none of the {len(kept)} images of {pairs.dataset}; expected ids such as {kept[0].id}"
        )
    return Bench(replace(pairs, pairs=kept, label=split.label, faults=()), annotations, split, listed)


def _refuse_without_boxes(annotations: Annotations, keys: Sequence[str], part: str) -> None:
    """Refuse to learn from nothing, or to score on it."""
    if not any(annotations.counts(keys).values()):
        raise DataError(
            f"{annotations.source}: not one box in the {counted(len(keys), 'image')} {_PURPOSES[part]} on "
            f"({annotations.degenerate} of all pairs had no area); expected some: mend the labels, or give others "
            "with --labels"
        )


def describe(bench: Bench, parts: Sequence[str] = PARTS) -> list[str]:
    """Say what was read, a line each: classes, boxes, what was left out, those parts of the split that are used."""
    annotations, split = bench.annotations, bench.split
    boxes = ", ".join(f"{name} {count}" for name, count in annotations.counts(annotations.images).items())
    odd = f"{annotations.clipped} reached out of their image and were clipped, {annotations.degenerate} had no area"
    lines = [f"{bench.pairs.dataset}: {len(annotations.images)} pairs with boxes ({boxes}; {odd})"]
    if annotations.unlabelled:
        lines.append(
            f"Left out {len(annotations.unlabelled)} pairs without a label file, e.g. {annotations.unlabelled[0]}"
        )
    counts = ", ".join(f"{len(getattr(split, part))} {_PURPOSES[part]}" for part in parts)
    return [*lines, f"Split {split.label}: {counts} (hash {split.hash[:12]})", *split.notes]

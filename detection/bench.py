"""What detectors are compared on: pairs with boxes, parted into training, validation and test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from detection.annotations import CONDITIONS, read_annotations
from detection.scoring import MEAN, OPERATING_NOTE, group_by_condition, read_conditions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from detection.annotations import Annotations
    from detection.splits import DetectionSplit
    from emma_core.datasets import Pair, PairSet


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
        return (OPERATING_NOTE, *self.split.notes, *unlabelled, *self._absent())

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
) -> Bench:
    """Read the boxes of a data set and part what has some.

    Args:
        pairs: of the data set.
        choose: parts labelled pairs.
        labels: where the boxes are, if not in the usual places.
        conditions: file of the light of each image by id, if it does not lie beside the boxes.

    Raises:
        DataError: there are no boxes, or a file of them is broken.
        UsageError: nobody has drawn boxes for this data set, or it is too small for the split.
    """
    annotations = read_annotations(pairs, labels)
    labelled = [pair for pair in pairs.pairs if pair.key in annotations.images]
    split = choose(labelled)
    wanted = {*split.train, *split.val, *split.test}
    kept = tuple(pair for pair in labelled if pair.key in wanted)
    source = annotations.source
    places = [place / CONDITIONS for place in (source if source.is_dir() else source.parent, pairs.root)]
    lights = conditions or next((path for path in places if path.exists()), None)
    listed = read_conditions(lights) if lights else {}
    return Bench(replace(pairs, pairs=kept, label=split.label, faults=()), annotations, split, listed)


def describe(bench: Bench) -> list[str]:
    """Say what was read, a line each: classes, boxes, what was left out, the split."""
    annotations, split = bench.annotations, bench.split
    boxes = ", ".join(f"{name} {count}" for name, count in annotations.counts(annotations.images).items())
    odd = f"{annotations.clipped} reached out of their image and were clipped, {annotations.degenerate} had no area"
    lines = [f"{bench.pairs.dataset}: {len(annotations.images)} pairs with boxes ({boxes}; {odd})"]
    if annotations.unlabelled:
        lines.append(
            f"Left out {len(annotations.unlabelled)} pairs without a label file, e.g. {annotations.unlabelled[0]}"
        )
    counts = f"{len(split.train)} to train, {len(split.val)} to validate, {len(split.test)} to test"
    return [*lines, f"Split {split.label}: {counts} (hash {split.hash[:12]})", *split.notes]

"""A data set of one's own, declared in a TOML file: where its pairs and labels are, and what its objects are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detection.classes import class_number
from detection.scoring import columns
from emma_core.config import read_toml
from emma_core.datasets import folder_spec
from emma_core.errors import UsageError
from emma_core.files import at_home
from emma_core.pairs import find_pairs

if TYPE_CHECKING:
    from emma_core.pairs import PairSet


@dataclass(frozen=True)
class OwnBoxes:
    """A declaration; the folders are below the root, ``{split}`` in them stands for ``train``, ``val`` and ``test``.

    Attributes:
        name: of the data set in paths and tables.
        infrared: folder of infrared images.
        visible: folder of visible images.
        classes: names, in the order of their numbers.
        labels: folder of label files, or COCO file; empty for the usual places.
    """

    name: str
    infrared: str
    visible: str
    classes: tuple[str, ...]
    labels: str = ""

    def __post_init__(self) -> None:
        """Refuse class names that would leave objects or columns without a place of their own."""
        if not self.classes or not all(name.strip() for name in self.classes):
            raise UsageError(f"{self.name}: classes is {list(self.classes)}; expected names, one at least")
        measures = {column.name for column in columns(())}
        for number, name in enumerate(self.classes):
            first = class_number(name, self.classes)
            if first != number or name in measures:
                other = "that of a measure" if name in measures else f"taken for {self.classes[first or 0]!r}"
                raise UsageError(f"{self.name}: the class name {name!r} is {other}; expected another name")

    def find_pairs(self, root: Path) -> PairSet:
        """Find its pairs.

        Raises:
            DataError: they are not there.
            UsageError: the name is that of a known data set, or ``{split}`` stands in one of the folders only.
        """
        infrared, visible = (root / at_home(folder) for folder in (self.infrared, self.visible))
        return find_pairs(folder_spec(self.name, infrared, visible), root)

    def labels_under(self, root: Path) -> Path | None:
        """Return where its labels are, if it says so."""
        return root / at_home(self.labels) if self.labels else None


def read_own(path: Path) -> OwnBoxes:
    """Read a declaration.

    Raises:
        UsageError: the file cannot be read, or does not declare a data set with boxes.
    """
    return read_toml(path, OwnBoxes)

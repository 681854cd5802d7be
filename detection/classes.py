"""What the data sets call their objects: class names, the order of their numbers, and what others call the same.

Public copies of one data set number its classes differently, so everything goes by name.
"""

from __future__ import annotations

from emma_core.datasets import SAMPLE_SUFFIX
from emma_core.errors import UsageError
from emma_core.text import same_name

CLASSES: dict[str, tuple[str, ...]] = {
    "M3FD": ("Bus", "Car", "Lamp", "Motorcycle", "People", "Truck"),
    "MSRS": ("Person", "Bicycle", "Car"),
    "RoadScene": ("Person", "Bicycle", "Car", "Dog"),
}
"""Class names by data set, in the order of columns: as the paper's Table 3 for M3FD, else as numbered."""

NUMBERED = ("MSRS", "RoadScene")
"""Data sets whose label files number the classes in that order; those of M3FD exist in several orders."""

_ALIASES = (
    ("people", "person", "pedestrian", "persons"),
    ("motorcycle", "motor", "moto", "motorbike"),
    ("truck", "trunk"),
    ("lamp", "light", "traffic light", "traffic-light"),
    ("bicycle", "bike"),
    ("car",),
    ("bus",),
    ("dog",),
)
"""Names of one kind of object: of M3FD's copies, of COCO, of FLIR. A lamp of M3FD is a traffic light."""


def dataset_classes(dataset: str) -> tuple[str, ...]:
    """Return the class names of a data set, or of a rendered stand-in.

    Args:
        dataset: its name; case does not matter.

    Raises:
        UsageError: nobody has drawn boxes for it.
    """
    if known := same_name(dataset.lower().removesuffix(SAMPLE_SUFFIX), CLASSES):
        return CLASSES[known]
    raise UsageError(
        f"No boxes of {dataset!r} are known; known: {', '.join(CLASSES)}, or a file FILE.toml that declares yours "
        "(docs/detection.md)"
    )


def class_number(name: str, classes: tuple[str, ...]) -> int | None:
    """Return the place of a name, or of an alias of it, among some class names; None if it is not among them."""
    wanted = _kind(name)
    return next((number for number, known in enumerate(classes) if _kind(known) == wanted), None)


def _kind(name: str) -> str:
    plain = " ".join(name.lower().replace("_", " ").split())
    return next((names[0] for names in _ALIASES if plain in names), plain)

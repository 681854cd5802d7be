"""Pictures that tasks left (:mod:`emma_core.pictures`), shrunk for the page, each album with its table."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from emma_core.errors import EmmaError
from emma_core.images import encode_preview, read_image
from emma_core.pictures import INDEX, PICTURES, TaskPicture, read_index
from emma_core.report.gallery import LONGER_SIDE, data_uri
from emma_core.text import plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from emma_core.report.parts import Table

WIDE_SIDE = 1280  # pixels; plots have small print


@dataclass(frozen=True)
class Shot:
    """One picture, ready for the page.

    Attributes:
        caption: what it shows.
        uri: a ``data:`` URI.
        width: pixels of the picture in the URI.
        height: likewise.
        wide: whether it takes the whole width.
    """

    caption: str
    uri: str
    width: int
    height: int
    wide: bool


@dataclass(frozen=True)
class Album:
    """Pictures of one table under one heading, which may be empty."""

    heading: str
    shots: tuple[Shot, ...]


def collect_albums(runs: Path, tables: Sequence[Table]) -> tuple[list[tuple[Album, ...]], list[str]]:
    """Read the pictures below a folder of runs.

    Args:
        runs: the folder of all runs.
        tables: of the same folder; pictures belong to the one that the task wrote them with, see :func:`_owner`.

    Returns:
        The albums of each table, and a line for every picture that cannot be shown.
    """
    albums: list[tuple[Album, ...]] = [()] * len(tables)
    warnings: list[str] = []
    for path in sorted(runs.glob(f"**/{PICTURES}/{INDEX}")):
        beside = f"{path.parent.parent.relative_to(runs).as_posix()}/"
        place = _owner(beside, tables)
        if place is None:
            continue  # the results that they belong to are gone
        try:
            pictures = read_index(path)
        except EmmaError as error:
            warnings.append(plain(str(error)))
            continue
        found, lost = _albums(path.parent, pictures)
        albums[place] += found
        warnings += lost
    return albums, warnings


def _owner(beside: str, tables: Sequence[Table]) -> int | None:
    """Find the table of the pictures in a folder: tasks draw them when they compare, and the comparisons name theirs.

    Without comparisons it is the one with the most results there.
    """
    counts = [sum(file.startswith(beside) for file in table.files) for table in tables]
    here = [place for place, count in enumerate(counts) if count]
    return max(here, key=lambda place: (bool(tables[place].comparisons), counts[place]), default=None)


def _albums(folder: Path, pictures: Sequence[TaskPicture]) -> tuple[tuple[Album, ...], list[str]]:
    albums: list[Album] = []
    warnings: list[str] = []
    for heading, members in groupby(pictures, key=lambda picture: picture.group):
        shots: list[Shot] = []
        for picture in members:
            try:
                shots.append(_shot(folder, picture))
            except (EmmaError, OSError) as error:
                warnings.append(plain(str(error)))
        albums += [Album(plain(heading), tuple(shots))] if shots else []
    return tuple(albums), warnings


def _shot(folder: Path, picture: TaskPicture) -> Shot:
    image = read_image(folder / picture.file)
    data, width, height = encode_preview(image, WIDE_SIDE if picture.wide else LONGER_SIDE)
    return Shot(plain(picture.caption), data_uri(data), width, height, picture.wide)

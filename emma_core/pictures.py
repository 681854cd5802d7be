"""Pictures that a task leaves for the report: plots, and images with what was found in them.

A task writes them to ``runs/<task>/<dataset>/<split>/pictures/`` with a list, ``pictures.json``, that says what they
show; the report puts them under the table of that task and data set.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from emma_core.errors import DAMAGE, ResultError
from emma_core.files import read_text
from emma_core.images import write_atomic, write_image
from emma_core.text import is_plain_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from emma_core.images import FloatImage

PICTURES = "pictures"
INDEX = "pictures.json"
SCHEMA = 1


@dataclass(frozen=True)
class TaskPicture:
    """One picture of a task.

    Attributes:
        file: name of the PNG in the folder of pictures.
        caption: a sentence for a reader.
        group: heading under which the page shows it, e.g. ``Largest gains``.
        wide: whether it takes the whole width of the page.
    """

    file: str
    caption: str
    group: str = ""
    wide: bool = False


def pictures_folder(task_folder: Path) -> Path:
    """Return the folder of pictures of ``runs/<task>/<dataset>/<split>``."""
    return task_folder / PICTURES


def write_picture(folder: Path, picture: TaskPicture, image: FloatImage | Figure) -> TaskPicture:
    """Write one picture: an image, (H, W) or (H, W, 3) float32 in [0, 1], or a figure of matplotlib."""
    import io

    import numpy as np

    if isinstance(image, np.ndarray):
        write_image(folder / picture.file, image)
        return picture
    stream = io.BytesIO()
    image.savefig(stream, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    write_atomic(folder / picture.file, stream.getvalue())
    return picture


def write_index(folder: Path, pictures: Sequence[TaskPicture]) -> Path:
    """Write the list of pictures, in the order in which the page shows them; files of an earlier list are removed."""
    path = folder / INDEX
    kept = {picture.file for picture in pictures}
    for old in earlier_pictures(folder):
        if old.file not in kept:
            (folder / old.file).unlink(missing_ok=True)
    content = {"schema": SCHEMA, "pictures": [asdict(picture) for picture in pictures]}
    write_atomic(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def earlier_pictures(folder: Path) -> list[TaskPicture]:
    """Return the pictures that an earlier run listed in a folder; a list that cannot be read is made anew."""
    try:
        return read_index(folder / INDEX)
    except ResultError:
        return []


def read_index(path: Path) -> list[TaskPicture]:
    """Read a ``pictures.json``.

    Raises:
        ResultError: it is damaged, of another schema, or names files elsewhere.
    """
    try:
        content = json.loads(read_text(path))
        if content["schema"] != SCHEMA:
            raise ResultError(f"{path}: schema {content['schema']}, this version reads {SCHEMA}")
        pictures = [TaskPicture(**picture) for picture in content["pictures"]]
        foreign = [picture.file for picture in pictures if not is_plain_name(picture.file)]
        "".join(picture.caption + picture.group for picture in pictures)  # refuses what is no text
    except DAMAGE as error:
        raise ResultError(f"{path}: not of this tool ({type(error).__name__}); run its task again") from None
    if foreign:
        raise ResultError(f"{path}: names {foreign[0]!r}, which is no file of its folder")
    return pictures

"""One file of boxes: Pascal VOC XML, YOLO text, COCO JSON. What cannot be read is named with file and line.

Boxes come out as (left, top, right, bottom) in pixels, as the file has them; clipping is the caller's.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import DefusedXMLParser  # type: ignore[import-untyped]

from detection.classes import class_number
from emma_core import files
from emma_core.errors import DataError
from emma_core.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree.ElementTree import Element

    Box = tuple[float, float, float, float]

_LINE = "line of the file"
_LONGEST = 1_000_000  # pixels of a side
_DEEPEST = 50  # elements around an element; annotations have three
_ROUNDED = 1.001  # what a fraction may be, as others round
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class LabelledObject:
    """One object of an image.

    Attributes:
        number: of its class.
        box: left, top, right, bottom; pixels, or fractions of width and height in YOLO files.
    """

    number: int
    box: Box


@dataclass(frozen=True)
class LabelFile:
    """What a file says of one image.

    Attributes:
        objects: in the order of the file.
        size: width and height [pixels], where the file says it.
        relative: whether boxes are fractions of width and height instead of pixels.
    """

    objects: tuple[LabelledObject, ...]
    size: tuple[int, int] | None = None
    relative: bool = False


class _LineParser(DefusedXMLParser):  # type: ignore[misc]
    """Notes for every element the line it begins on, and refuses those that are nested to do harm."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    @property
    def line(self) -> int:
        """Where it is reading."""
        number: int = self.parser.CurrentLineNumber
        return number

    def _start(self, *arguments: Any) -> Element:  # noqa: ANN401 - as expat calls it
        self._depth += 1
        if self._depth > _DEEPEST:
            error = ParseError(f"elements in more than {_DEEPEST} others")
            error.position = self.line, self.parser.CurrentColumnNumber
            raise error
        element: Element = super()._start(*arguments)
        element.set(_LINE, str(self.line))
        return element

    def _end(self, tag: str) -> Element:
        self._depth -= 1
        element: Element = super()._end(tag)
        return element


def read_voc(path: Path, classes: tuple[str, ...]) -> LabelFile:
    """Read a Pascal VOC annotation.

    Args:
        path: of the XML file.
        classes: names to number the objects by.

    Raises:
        DataError: it is no such file, or names an unknown class.
    """
    parser = _LineParser()
    try:
        parser.feed(_text_or_bytes(path))
        root: Element = parser.close()
    except ParseError as error:
        raise DataError(f"{path}:{error.position[0]}: broken XML ({str(error).partition(':')[0]})") from None
    except DefusedXmlException as error:
        refused = type(error).__name__
        raise DataError(f"{path}:{parser.line}: refused XML ({refused}); annotations need no entities") from None
    except (LookupError, ValueError) as error:
        raise DataError(f"{path}:{parser.line}: {error}; expected UTF-8") from None
    objects = tuple(_voc_object(path, element, classes) for element in root.iter("object"))
    size = root.find("size")
    if size is None:
        return LabelFile(objects)
    width, height = (_number(path, size, name) for name in ("width", "height"))
    try:
        return LabelFile(objects, _size(round(width), round(height)) if width > 0 and height > 0 else None)
    except ValueError as error:
        raise DataError(f"{path}:{size.get(_LINE)}: {error}") from None


def read_yolo(path: Path, names: Sequence[str], classes: tuple[str, ...]) -> LabelFile:
    """Read a YOLO label file: class number, centre and size as fractions of width and height, one object a line.

    Args:
        path: of the text file; an empty one says that there is no object.
        names: what its numbers stand for.
        classes: names to number the objects by.

    Raises:
        DataError: a line is not of this form, or its class is unknown.
    """
    objects = []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        if text.strip():
            objects.append(_yolo_object(f"{path}:{line}", text, names, classes))
    return LabelFile(tuple(objects), relative=True)


def read_coco(path: Path, classes: tuple[str, ...]) -> dict[str, LabelFile]:
    """Read a COCO annotation file.

    Args:
        path: of the JSON file.
        classes: names to number the objects by.

    Returns:
        What it says, by the stem of the image's file name.

    Raises:
        DataError: it is no such file, names an unknown class, or lists two images of one stem.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise DataError(f"{path}:{line}: broken JSON ({error})") from None
    try:
        known = {category["id"]: category["name"] for category in content["categories"]}
        used = {annotation["category_id"] for annotation in content["annotations"]}  # exporters list others, too
        numbers = {key: _class(str(path), name, classes) for key, name in known.items() if key in used}
        found: dict[Any, list[LabelledObject]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            left, top, width, height = map(_finite, annotation["bbox"])
            box = (left, top, left + width, top + height)
            found[annotation["image_id"]].append(LabelledObject(numbers[annotation["category_id"]], box))
        _refuse_shared_stems(path, [image["file_name"] for image in content["images"]])
        return {
            Path(image["file_name"]).stem: LabelFile(tuple(found[image["id"]]), _size(image["width"], image["height"]))
            for image in content["images"]
        }
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a COCO annotation file ({type(error).__name__}: {error})") from None


def _refuse_shared_stems(path: Path, names: Sequence[str]) -> None:
    """Refuse two images of one stem: boxes go to pairs by it, so those of one of the images would be lost."""
    first: dict[str, str] = {}
    for name in names:
        stem = Path(name).stem
        if stem in first:
            raise DataError(
                f"{path}: lists {first[stem]} and {name}; expected one image for each pair, as boxes go to pairs by "
                f"the name {stem}; keep the entries of one camera, with the boxes"
            )
        first[stem] = name


def read_names(path: Path) -> list[str]:
    """Read class names, one a line, in the order of their numbers: the ``classes.txt`` beside YOLO label files."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_text(path: Path) -> str:
    """Read a file of labels as text.

    Raises:
        DataError: it cannot be read, or is no text.
    """
    try:
        return files.read_text(path, "utf-8-sig")
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is no text; expected labels") from None


def _text_or_bytes(path: Path) -> str | bytes:
    """Read UTF-8 as text, whatever it claims to be, and else bytes, of which a parser finds out what they declare."""
    try:
        data = files.read_bytes(path)
        return data.decode("utf-8-sig")
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnicodeDecodeError:
        return data


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror})")


def _voc_object(path: Path, element: Element, classes: tuple[str, ...]) -> LabelledObject:
    place = f"{path}:{element.get(_LINE)}"
    name, corners = element.find("name"), element.find("bndbox")
    if name is None or corners is None:
        raise DataError(f"{place}: an object without {'name' if name is None else 'bndbox'}")
    left, top, right, bottom = (_number(path, corners, corner) for corner in _CORNERS)
    number = _class(f"{path}:{name.get(_LINE)}", name.text or "", classes)
    return LabelledObject(number, (left, top, right, bottom))


def _decimal(text: str) -> float:
    """Read a number as people write it; Python takes 1_0 and the digits of any script, too."""
    if "_" in text or not text.isascii():
        raise ValueError(f"{text!r} is no number")
    return float(text)


def _finite(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _size(width: float, height: float) -> tuple[int, int]:
    """Return the size of an image, if one can have it; JSON may say 640.0."""
    if not all(type(side) in {int, float} and side == side // 1 and 1 <= side <= _LONGEST for side in (width, height)):
        raise ValueError(f"a size of {str(width)[:20]} x {str(height)[:20]}, which no image has")
    return int(width), int(height)


def _number(path: Path, parent: Element, name: str) -> float:
    element = parent.find(name)
    text = "" if element is None else (element.text or "")
    place = parent if element is None else element
    try:
        value = _decimal(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{path}:{place.get(_LINE)}: {name} is {text.strip()!r}, expected a number")
    return value


def _yolo_object(place: str, text: str, names: Sequence[str], classes: tuple[str, ...]) -> LabelledObject:
    try:
        number, *box = map(_decimal, text.split())
        x, y, width, height = box
    except ValueError:
        found = counted(len(text.split()), "value")
        raise DataError(
            f"{place}: {text.strip()[:60]!r}, {found}; expected five numbers: class x y width height"
        ) from None
    if not all(map(math.isfinite, box)) or number != int(number) or not 0 <= number < len(names):
        known = ", ".join(f"{index} {name}" for index, name in enumerate(names))
        raise DataError(f"{place}: {text.strip()[:60]!r}, expected a class of {known} and four numbers")
    if max(box) > _ROUNDED:
        raise DataError(f"{place}: {text.strip()[:60]!r}, values in pixels? expected 0 to 1, of width and height")
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return LabelledObject(_class(place, names[int(number)], classes), corners)


def _class(place: str, name: str, classes: tuple[str, ...]) -> int:
    number = class_number(name, classes)
    if number is None:
        raise DataError(f"{place}: unknown class {name.strip()!r}; expected {', '.join(classes)}")
    return number

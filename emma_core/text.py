"""Names of files and data sets are anybody's: which may stand in a path, and what becomes of them on a line."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for the beginning of a formula."""


def is_plain_name(name: str) -> bool:
    """Tell whether a name can stand in a path and in a line of text: no folder, no control character, no way out."""
    if name in {"", ".", ".."} or set(name) & set("/\\") or any(unicodedata.category(sign) == "Cc" for sign in name):
        return False
    return name.encode("utf-8", "replace").decode() == name  # names that are no text come with surrogates


def plain(text: str) -> str:
    """Return text as one line of printable characters: no line ends, no control of a terminal, no turned writing."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def same_name(wanted: str, known: Iterable[str]) -> str | None:
    """Find a name among those that are known, without regard to case."""
    return next((name for name in known if name.lower() == wanted.lower()), None)


def counted(number: int, noun: str) -> str:
    """Spell a number of things: ``1 image``, ``2 images``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def spreadsheet_cell(text: str) -> str:
    """Return text as a cell of a table of which a spreadsheet runs nothing; numbers stay numbers."""
    text = plain(text)
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

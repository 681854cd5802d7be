"""Names of files and data sets are anybody's: what becomes of them on a line, and in a spreadsheet."""

from __future__ import annotations

FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for the beginning of a formula."""


def plain(text: str) -> str:
    """Return text as one line of printable characters: no line ends, no control of a terminal, no turned writing."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def spreadsheet_cell(text: str) -> str:
    """Return text as a cell of a table of which a spreadsheet runs nothing; numbers stay numbers."""
    text = plain(text)
    return f"'{text}" if text.startswith(FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

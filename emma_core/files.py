"""Reading files that somebody else made: what is no regular file is refused.

A pipe among labels would be waited for without end, and a link to a device may never end either.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def read_bytes(path: Path) -> bytes:
    """Read a regular file.

    Raises:
        OSError: it is missing, not a regular file, or cannot be read.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder, reading says what it is
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.read_bytes()


def read_text(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Read a regular file as text; line ends become those of Python.

    Raises:
        OSError: as for :func:`read_bytes`.
        UnicodeDecodeError: it is no such text.
    """
    return read_bytes(path).decode(encoding, errors).replace("\r\n", "\n").replace("\r", "\n")

"""Reading files that somebody else made: what is no regular file is refused.

A pipe among labels would be waited for without end, and a link to a device may never end either.
"""

from __future__ import annotations

import errno
import stat
from os.path import expanduser
from pathlib import Path


def at_home(text: str | Path) -> Path:
    """Return a path in which ``~`` stands for a home folder, in a file or where a shell leaves it alone.

    That of nobody stays as it is, and will be missing.
    """
    return Path(expanduser(text))  # noqa: PTH111 - that of pathlib raises an error of its own where there is none


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

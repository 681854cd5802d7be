"""Small file systems that fill up or are read-only: real ones, where this process may mount them."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Disk:
    """A file system in memory."""

    path: Path

    def set(self, option: str) -> None:
        """Mount it again with another option: ``size=20m``, ``ro``, ``rw``."""
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.path)], check=True)


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Disk]:
    """Mount a file system of some bytes; skip where that is not allowed."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("cannot mount a file system of its own: that needs root on Linux")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", str(place)], check=True)

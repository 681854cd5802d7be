"""``emma-tasks detect`` on rendered scenes, by a recipe of seconds."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Outcome, emma
from tiny import TINY_DETECTOR

from emma_core.samples import write_samples


def make_bench(out: Path) -> Path:
    """Write scenes, their pixel-wise maximum, the light of each, and the recipe."""
    (root,) = write_samples(out / "data", ["M3FD"], pairs=12, size=(96, 128))
    emma("fuse-dataset", "M3FD", "--root", root, "--runs", out / "runs", "--method", "max")
    (out / "tiny.toml").write_text(TINY_DETECTOR)
    (out / "lights.json").write_text(json.dumps({f"{n:05d}": "night" if n % 2 else "day" for n in range(12)}))
    return out


def untrained(bench: Path, *more: str | Path) -> Outcome:
    return emma("detect", "--root", bench / "data" / "M3FD", "--runs", bench / "runs", *more)


def detect(bench: Path, *more: str | Path) -> Outcome:
    return untrained(bench, "--config", bench / "tiny.toml", *more)

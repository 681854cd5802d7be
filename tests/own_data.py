"""A data set of one's own, declared as a page of the docs does it, for the tasks that take one."""

from __future__ import annotations

import shlex
from pathlib import Path

from conftest import REPOSITORY, Outcome, emma, write_pairs


def write_own(place: Path, page: str, counts: dict[str, int]) -> Path:
    """Write the declaration of a page, ``mine.toml``, and so many pairs a part; return their root."""
    text = (REPOSITORY / "docs" / page).read_text("utf-8").partition("```toml\n")[2].partition("```")[0]
    (place / "mine.toml").write_text(text, "utf-8")
    for part, count in counts.items():
        write_pairs(place / "my data" / part, count, folders=("thermal", "rgb"))
    return place / "my data"


def follow_advice(refused: Outcome, place: Path, method: str) -> None:
    """Run the command that a refusal advises, by another method: EMMA would take longer."""
    assert refused.returncode == 1
    program, *words = shlex.split(refused.stderr.partition("Make them with: ")[2])
    assert program == "emma-tasks"
    words[words.index("--method") + 1] = method
    fused = emma(*words, cwd=place)
    assert fused.returncode == 0, fused.stderr

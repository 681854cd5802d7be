"""The paper's tables as printed (arXiv:2305.11443 version 1), and the commands that make ours.

``published.json`` holds the figures; nothing here computes, and nothing here is heavy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

METHOD = "EMMA"
"""The row of the paper's method, in its tables and in ours."""

ABLATION = "ablation"
"""In place of a task: Table 2, which stands beside fused images of networks that lack a part."""

PAPER_RECIPE = "paper"
"""How every task calls the recipe that follows the paper."""


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper, or the part of it that is about one data set.

    Attributes:
        key: ``<task>/<dataset>``, the results of ours that it stands beside.
        title: its number, e.g. ``Table 3``.
        columns: names, as our columns are called.
        rows: figures by row, in the paper's order, one per column.
        notes: how its protocol differs.
        images: number of test images, where the paper says it.
        split: what results call the split that follows the paper's, where a task knows several.
        ours: rows of ours that make the table complete; empty for the sources and EMMA.
        steps: arguments of ``emma-tasks`` that make our rows, to be completed by :func:`fill_in`.
        by_hand: likewise, where one has to choose or to wait for days, so that no command runs them all.
    """

    key: str
    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]
    notes: tuple[str, ...] = ()
    images: int | None = None
    split: str = ""
    ours: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """The command whose results it stands beside."""
        return self.key.partition("/")[0]

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.key.partition("/")[2]

    @property
    def number(self) -> str:
        """How the command line calls it: ``table3``."""
        return self.title.replace(" ", "").lower()

    @property
    def takes_method(self) -> bool:
        """Whether its commands can be given another fusion method."""
        return any("{method}" in step for step in self.steps)

    @property
    def digits(self) -> int:
        """Number of digits after the decimal point, as printed."""
        return max(len(repr(value).partition(".")[2]) for figures in self.rows.values() for value in figures)


def paper_source() -> str:
    """Name the paper."""
    source: str = _content()["source"]
    return source


def paper_tables() -> tuple[PaperTable, ...]:
    """List the paper's tables in its order, a data set at a time."""
    return tuple(_table(key) for key, entry in _content()["tables"].items() if "same_as" not in entry)


def paper_table(task: str, dataset: str) -> PaperTable | None:
    """Return the paper's table for a task and a data set, if it has one."""
    tables = _content()["tables"]
    key = f"{task}/{dataset}"
    return _table(tables[key].get("same_as", key)) if key in tables else None


def fill_in(step: str, root: str, options: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Complete the arguments of a step.

    Args:
        step: words, in which ``{root}`` stands for the folder of all data sets, and a word like ``{weights}`` for
            options that may be given there.
        root: that folder.
        options: words by name; a name that is not given stands for nothing.

    Returns:
        Arguments of ``emma-tasks``.
    """
    words: list[str] = []
    for word in step.split():
        if word.startswith("{") and word.endswith("}"):
            words += options.get(word[1:-1], ())
        else:
            words.append(word.replace("{root}", root))
    return tuple(words)


@cache
def _table(key: str) -> PaperTable:
    entry = _content()["tables"][key]
    rows = {name: tuple(figures) for name, figures in entry["rows"].items()}
    texts = {name: tuple(entry.get(name, ())) for name in ("columns", "notes", "ours", "steps", "by_hand")}
    return PaperTable(key, entry["title"], rows=rows, images=entry.get("images"), split=entry.get("split", ""), **texts)


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((files("emma_core.report") / "published.json").read_text("utf-8"))
    return content

"""Which of the paper's tables have not been run, or not all of their rows, and the commands that make them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emma_core.report.paper import METHOD, PaperTable, fill_in, paper_tables
from emma_core.report.parts import source_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emma_core.report.parts import Table

_ADVICE = {"training": ("--seeds", "0,1,2")}  # one seed proves nothing


@dataclass(frozen=True)
class Missing:
    """What is not there of one table and data set of the paper.

    Attributes:
        paper: the table.
        rows: of ours that are missing; empty where none has been run.
    """

    paper: PaperTable
    rows: tuple[str, ...]

    @property
    def what(self) -> str:
        """Say it in a line: ``detect, M3FD: not run``."""
        state = f"no row {', '.join(self.rows)} yet" if self.rows else "not run"
        return f"{self.paper.task}, {self.paper.dataset}: {state}"

    @property
    def commands(self) -> tuple[str, ...]:
        """The command lines that make it, ``DIR`` being the folder of all data sets."""
        steps = self.paper.steps or self.paper.by_hand
        return tuple(" ".join(["emma-tasks", *fill_in(step, "DIR", _ADVICE)]) for step in steps)


def needed_rows(paper: PaperTable, dataset: str, method: str = METHOD) -> tuple[str, ...]:
    """Name the rows of ours without which a table of the paper is not complete.

    Args:
        paper: the table.
        dataset: as results name it; rendered samples have a name of their own.
        method: the row of fused images.
    """
    return paper.ours or (*source_labels(dataset), method)


def commands_text(paper: PaperTable, rows: Sequence[str]) -> str:
    """Say how rows that are missing in a table are run: by its commands, as the rows that are there were."""
    steps = [step for step in paper.steps if METHOD in rows or not step.startswith("fuse-dataset")]
    commands = " and ".join(" ".join(["emma-tasks", *fill_in(step, "DIR", {})]) for step in steps)
    return f"{', '.join(rows)}: not run; run with {commands}, and the options that the other rows were run with."


def missing_tables(tables: Sequence[Table]) -> list[Missing]:
    """Compare what was run with the paper's tables, in the paper's order."""
    found = (_missing(paper, tables) for paper in paper_tables())
    return [missing for missing in found if missing]


def _missing(paper: PaperTable, tables: Sequence[Table]) -> Missing | None:
    """Look at the fullest table that the paper's rows stand beside."""
    beside = [table for table in tables if any(published.paper.key == paper.key for published in table.published)]
    if not beside:
        return Missing(paper, ())
    needed = needed_rows(paper, paper.dataset)
    lacking = [tuple(row for row in needed if row not in {each.row for each in table.results}) for table in beside]
    fewest = min(lacking, key=len)
    return Missing(paper, fewest) if fewest else None

"""Table 5 of arXiv:2305.11443 and what it leaves open: every row on the same pairs, per modality and over all.

Sources and naive rules are rows like the fused images, and beside the paper's six metrics stands what becomes of the
detail of each scan (:mod:`emma_core.metrics.detail`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emma_core.evaluate import Measures, Scores, fusion_measures, score_pairs, write_scores
from emma_core.metrics.detail import WINDOW, detail_survival
from emma_core.metrics.fusion import METRICS
from emma_core.paired import write_differences
from emma_core.pictures import pictures_folder
from emma_core.results import Column, table_folder
from emma_core.rows import source_rows
from medical.maps import write_maps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from emma_core.comparisons import Comparison
    from emma_core.evaluate import Scorer
    from emma_core.pairs import Fault, Pair, PairSet
    from emma_core.results import Result
    from emma_core.rows import InputRow

TASK = "medical"
TITLE = "Medical fusion"

PAPER_METRICS = ("EN", "SD", "AG", "MI", "VIF", "Qabf")
"""Columns of Table 5; the other fusion metrics are on request."""

DETAIL_MRI = Column("Detail MRI", title="share of the detail of the MRI that survives")
DETAIL_OTHER = Column("Detail other", title="share of the detail of the other scan that survives")

NOTE = (
    "A copy of one scan leads in some of these columns: all but the last two reward it. Detail MRI and Detail other "
    "say what survives of each scan, 1 for a copy and 0 for nothing; only a fused image can be high in both."
)


@dataclass(frozen=True)
class MedicalTable:
    """One table as written: its rows, and the differences between fused and unfused ones."""

    results: tuple[Result, ...]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Outcome:
    """What :func:`evaluate_medical` leaves.

    Attributes:
        tables: one a modality, and one over all if there are several.
        faults: pairs that no row was scored on, with reasons.
    """

    tables: tuple[MedicalTable, ...]
    faults: tuple[Fault, ...]


def medical_measures(*, all_metrics: bool = False) -> Measures:
    """Measure by the metrics of Table 5, or by all fusion metrics, and by the detail of each scan."""
    fusion = fusion_measures(METRICS if all_metrics else PAPER_METRICS)

    def prepare(other: Tensor, mri: Tensor) -> Scorer:
        score = fusion.prepare(other, mri)
        return lambda fused: [
            *score(fused),
            *(float(detail_survival(source[None], fused[None])) for source in (mri, other)),
        ]

    return Measures((*fusion.columns, DETAIL_MRI, DETAIL_OTHER), prepare)


def evaluate_medical(
    pairs: PairSet,
    rows: Sequence[InputRow],
    runs: Path,
    *,
    shown: str,
    all_metrics: bool = False,
    notes: tuple[str, ...] = (),
    device: str = "auto",
    on_pair: Callable[[Pair], None] = lambda _: None,
) -> Outcome:
    """Score all rows and write a table for each modality, and one over all.

    Args:
        pairs: the pairs.
        rows: those that are read from files; each scan alone, mean and maximum are computed.
        runs: where results go: ``medical/<dataset>/<part>/<row>``.
        shown: the row that the maps of detail show.
        all_metrics: whether to add the metrics that Table 5 has not.
        notes: sentences a reader needs beside the figures.
        device: where to compute.
        on_pair: called after each pair, for a progress bar.

    Raises:
        DataError: no pair could be scored.
    """
    measures = medical_measures(all_metrics=all_metrics)
    scores = score_pairs(pairs, rows, measures, device=device, on_pair=on_pair)
    parts = _parts(scores, pairs)
    for part in parts:
        folder = pictures_folder(table_folder(runs, TASK, pairs.dataset, part.pairs.label))
        write_maps(part, (*source_rows(pairs), *rows), shown, folder)
    tables = [*parts, scores] if len(parts) > 1 else parts
    return Outcome(tuple(_write_table(table, runs, (NOTE, *notes)) for table in tables), scores.faults)


def _parts(scores: Scores, asked: PairSet) -> list[Scores]:
    """Part the scores by modality, each under a name that also says which list of ids it is of.

    Args:
        scores: of the pairs that could be scored.
        asked: all pairs that were to be scored; if they are of one modality, they have its name already.
    """
    pairs = scores.pairs
    if len(asked.parts) == 1:
        return [scores]
    prefix = "" if pairs.label == "all" else f"{pairs.label}-"
    return [scores.part(split, prefix + split) for split in pairs.parts]


def _write_table(scores: Scores, runs: Path, notes: tuple[str, ...]) -> MedicalTable:
    recipe = {"detail in windows of": f"{WINDOW} x {WINDOW} pixels"}
    results = write_scores(scores, runs, task=TASK, title=TITLE, recipe=recipe, notes=notes)
    folder = table_folder(runs, TASK, scores.pairs.dataset, scores.pairs.label)
    return MedicalTable(results, write_differences(folder, results, scores))

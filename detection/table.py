"""The table that a folder of rows makes: figures, comparisons and pictures, anew with every call.

Training leaves weights and predictions. What is said of them costs seconds, so rows of earlier calls go by the rules
of the last one, and a table never falls apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from detection import scoring
from detection.coco import PREDICTIONS, TRUTH, evaluate, write_truth
from detection.pictures import draw_pictures, drawn_row
from detection.splits import write_split
from emma_core.comparisons import write_comparisons
from emma_core.manifest import file_sha256
from emma_core.options import progress_bar
from emma_core.report.tables import row_order
from emma_core.results import Result, blank_result, read_results, table_folder, write_result
from emma_core.rows import narrow_note, source_rows
from emma_core.seen import seen_note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from detection.bench import Bench
    from detection.coco import Evaluation
    from emma_core.comparisons import Comparison
    from emma_core.rows import InputRow

TASK, TITLE = "detect", "Object detection"


class Spent(NamedTuple):
    """What a run took: wall-clock time [s], and the machine and versions that it ran on."""

    seconds: float
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Scored:
    """A row and seed with its figures.

    Attributes:
        result: as written.
        evaluation: of its predictions.
        folder: of the run.
    """

    result: Result
    evaluation: Evaluation
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What a run of the task leaves.

    Attributes:
        results: one a row and seed, those of earlier runs included.
        comparisons: of fused rows with each camera alone and with the naive rules.
        folder: of all rows.
    """

    results: tuple[Result, ...]
    comparisons: tuple[Comparison, ...]
    folder: Path


@dataclass(frozen=True)
class TableFolder:
    """Where the rows of one table are.

    Attributes:
        path: ``runs/detect/<dataset>/<split>``.
        bench: what the rows are tested on.
        common: a result without row and figures: what the results of all rows share.
    """

    path: Path
    bench: Bench
    common: Result

    def begin(self) -> None:
        """Write the split and the truth."""
        bench = self.bench
        write_split(self.path, bench.split, bench.pairs.dataset)
        truth = {pair.key: bench.annotations.images[pair.key] for pair in bench.test.pairs}
        write_truth(self.path / TRUTH, truth, bench.classes)

    def score(self, place: Path, row: InputRow, images: str, seed: int | None, spent: Spent) -> Scored:
        """Write the result of a row.

        Args:
            place: the folder that holds its predictions.
            row: of which they are.
            images: SHA-256 of its images.
            seed: of the training, or None.
            spent: what it took.

        Raises:
            ResultError: the predictions are missing or damaged.
        """
        source = {**row.source, "images_sha256": images}
        seconds, environment = spent
        return self._filled(
            place,
            replace(
                self.common,
                row=row.name,
                seed=seed,
                source=source,
                baseline=row.baseline,
                seconds=round(seconds, 1),
                environment=dict(environment),
            ),
        )

    def rescore(self, place: Path, earlier: Result, **source: str) -> Scored:
        """Write the result of a row of an earlier call anew.

        Args:
            place: the folder that holds its predictions.
            earlier: its result.
            source: what was not said of its origin.

        Raises:
            ResultError: the predictions are missing or damaged.
        """
        kept = ("row", "seed", "baseline", "seconds", "environment")
        same = {name: getattr(earlier, name) for name in kept}
        return self._filled(place, replace(self.common, **same, source={**earlier.source, **source}))

    def _filled(self, place: Path, result: Result) -> Scored:
        bench, conditions, found = self.bench, self.bench.conditions, place / PREDICTIONS
        evaluation = evaluate(self.path / TRUTH, found)
        scoring.write_conditions(place, evaluation, bench.classes, conditions)
        complete = replace(
            result,
            values=scoring.values(evaluation, bench.classes, conditions),
            evidence=file_sha256(found) or "",
            notes=(*result.notes, *seen_note(result.row, result.source, bench.test)),
        )
        write_result(place, complete)
        return Scored(complete, evaluation, place)


def open_table(
    bench: Bench, runs: Path, recipe: Mapping[str, Any], notes: Sequence[str] = (), *, comparable: bool = True
) -> TableFolder:
    """Return the folder of the rows on a bench, there or not.

    Args:
        bench: what they are tested on.
        runs: the folder of all runs.
        recipe: what must agree between rows that are compared.
        notes: what a reader should know beyond what the bench says.
        comparable: whether the paper's rows may stand beside them.
    """
    test = bench.test
    common = replace(
        blank_result(test, TASK, TITLE, scoring.columns(bench.classes, bench.conditions)),
        recipe=dict(recipe),
        notes=(*bench.notes, *notes, *narrow_note(bench.pairs)),
        comparable=comparable,
    )
    return TableFolder(table_folder(runs, TASK, test.dataset, test.label), bench, common)


def unfinished(place: Path) -> bool:
    """Tell whether a folder lacks the predictions of a run, whole, or what became of it."""
    found, results = file_sha256(place / PREDICTIONS), read_results(place).values()
    return found is None or not results or any(each.evidence not in {"", found} for each in results)


def summarise(table: TableFolder, rows: Sequence[InputRow], scored: Sequence[Scored]) -> Outcome:
    """Compare and draw a table.

    Args:
        table: its folder.
        rows: those whose images are at hand.
        scored: every row and seed of it.
    """
    ordered = sorted(scored, key=_place_in_table)
    by_row: dict[str, list[Scored]] = {}
    for each in ordered:
        by_row.setdefault(each.result.row, []).append(each)
    bench, spec = table.bench, table.bench.pairs.spec
    evaluations = {name: {each.result.seed: each.evaluation for each in members} for name, members in by_row.items()}
    with progress_bar("Comparing", None) as advance:
        comparisons = scoring.compare(
            table.common.table_key, evaluations, (spec.infrared_label, spec.visible_label), bench.classes, advance
        )
    write_comparisons(table.path, comparisons)
    files = {row.name: row.files for row in (*source_rows(bench.pairs), *rows)}
    firsts = [(name, members[0]) for name, members in by_row.items()]
    drawn = [
        drawn_row(name, files.get(name, {}), first.evaluation.matches, first.folder / PREDICTIONS)
        for name, first in firsts
    ]
    draw_pictures(bench, drawn, table.path)
    return Outcome(tuple(each.result for each in ordered), tuple(comparisons), table.path)


def _place_in_table(scored: Scored) -> tuple[object, ...]:
    result = scored.result
    return row_order(result.row, baseline=result.baseline), result.seed or 0
